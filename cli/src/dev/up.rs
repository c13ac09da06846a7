//! `sbxctl dev up`: makes the network, starts the members, waits until the cluster is usable. Undoes all of it
//! where that fails.

use super::down::{self, Keep};
use super::plan::{Label, Member, Plan, Role, Subnet};
use super::record::{self, Record};
use super::{DevError, firewall, forwarding, health, netns, network, process};
use crate::args::UpArgs;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::provision::{self, ProvisionError};
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Child;

/// Subnets that are tried: all of 10.88.0.0/16 but its first, which other tools like.
const SUBNET_OCTETS: std::ops::RangeInclusive<u8> = 1..=255;

pub(super) async fn run(dir: &Path, args: &UpArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    let is_new = !dir.exists();
    std::fs::create_dir_all(dir).map_err(DevError::io("create", dir))?;
    let dir = record::absolute(dir)?;
    let _lock = record::lock(&dir)?;
    let (record, keep) = match prepare(&dir, args).await {
        Ok(prepared) => prepared,
        Err(error) => {
            if is_new {
                // Holds our lock and nothing else; that it stays is not worth hiding the cause.
                std::fs::remove_dir_all(&dir).ok();
            }
            return Err(error.into());
        }
    };
    let plan = record.plan().clone();
    let begun = Instant::now();
    invocation.note(format_args!(
        "network   {} on the bridge {}",
        plan.subnet,
        plan.bridge()
    ));
    if plan.agents > 0 && !names_are_resolvable() {
        invocation.note(
            "note      this machine resolves names through itself, which members can't: use --mirror with an \
             address to pull images",
        );
    }
    let came_up = tokio::select! {
        came_up = bring_up(record, args.timeout, invocation) => came_up,
        _ = tokio::signal::ctrl_c() => Err(DevError::Interrupted),
    };
    if let Err(error) = came_up {
        let failures = down::tear_down(&plan, keep).await;
        for failure in failures {
            invocation.note(format_args!("while undoing it: {failure}"));
        }
        return Err(error.into());
    }
    record::point_at(&dir)?;
    let took = Duration::from_millis(begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
    invocation.note(format_args!(
        "ready     after {}; `sbxctl` on this machine now finds this cluster:
            sbxctl get cluster
            sbxctl get nodes
            sbxctl dev status
            sbxctl dev down",
        humantime::format_duration(took)
    ));
    Ok(())
}

/// Members share the machine's resolv.conf, but its loopback addresses are their own.
fn names_are_resolvable() -> bool {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver "));
    servers.any(|server| !server.trim().starts_with("127.") && server.trim() != "::1")
}

/// A record of a cluster whose subnet is claimed, written down; and what is to stay where it does not come up.
async fn prepare(dir: &Path, args: &UpArgs) -> Result<(Record, Keep), DevError> {
    if Record::exists(dir) {
        return Ok((go_on(dir, args).await?, Keep::Data));
    }
    if !record::is_empty(dir)? {
        return Err(DevError::NotEmpty { dir: dir.to_owned() });
    }
    let mut plan = plan(dir, args, Subnet([10, 88, 0]))?;
    if let Some(text) = &args.subnet {
        let refused = |why| DevError::Subnet {
            text: text.clone(),
            why,
        };
        plan.subnet = Subnet::parse(text).map_err(refused)?;
        if !network::claim(&plan).await? {
            return Err(refused("it is in use on this machine"));
        }
    } else {
        claim_any(&mut plan).await?;
    }
    Ok((written(Record::new(plan)).await?, Keep::Nothing))
}

async fn claim_any(plan: &mut Plan) -> Result<(), DevError> {
    for octet in SUBNET_OCTETS {
        plan.subnet = Subnet([10, 88, octet]);
        if network::claim(plan).await? {
            return Ok(());
        }
    }
    Err(DevError::NoFreeSubnet)
}

/// A cluster that was taken down with its data: its replicas know each other by their addresses, so that it
/// must come up with the same.
async fn go_on(dir: &Path, args: &UpArgs) -> Result<Record, DevError> {
    let old = Record::load(dir)?;
    if !old.down {
        return Err(DevError::AlreadyUp { dir: dir.to_owned() });
    }
    let mut plan = plan(dir, args, old.plan().subnet)?;
    // Its replicas know each other by their URLs.
    plan.insecure = old.plan().insecure;
    plan.joined.clone_from(&old.plan().joined);
    if (plan.replicas, plan.agents) != (old.plan().replicas, old.plan().agents) {
        let was = format!(
            "{} replicas and {} agents",
            old.plan().replicas,
            old.plan().agents
        );
        return Err(DevError::OtherShape {
            dir: dir.to_owned(),
            was,
        });
    }
    if !network::claim(&plan).await? {
        return Err(DevError::Subnet {
            text: plan.subnet.to_string(),
            why: "the kept cluster had it, and it is in use on this machine",
        });
    }
    written(Record::new(plan)).await
}

/// From here on, `dev down` knows what to undo.
async fn written(record: Record) -> Result<Record, DevError> {
    match record.save() {
        Ok(()) => Ok(record),
        Err(error) => {
            // Nothing but the bridge was made; that it can't be removed either is not the cause.
            network::remove(record.plan()).await;
            Err(error)
        }
    }
}

fn plan(dir: &Path, args: &UpArgs, subnet: Subnet) -> Result<Plan, DevError> {
    let labels = args
        .label
        .iter()
        .map(|text| Label::parse(text).ok_or_else(|| DevError::Label { text: text.clone() }));
    Ok(Plan {
        insecure: args.insecure,
        dir: dir.to_owned(),
        subnet,
        replicas: args.replicas,
        joined: Vec::new(),
        agents: args.agents,
        replica_program: process::find_program("sbxorch")?,
        agent_program: process::find_program("sbxlet")?,
        mirrors: args.mirror.clone(),
        labels: labels.collect::<Result<_, _>>()?,
        replica_args: args.replica_arg.clone(),
        agent_args: args.agent_arg.clone(),
    })
}

async fn bring_up(
    mut record: Record,
    timeout: Duration,
    invocation: &mut Invocation,
) -> Result<(), DevError> {
    let plan = record.plan().clone();
    let members = plan.members();
    identify(&plan)?;
    forwarding::enable()?;
    firewall::open(&plan)?;
    for member in &members {
        make_host(&plan, member).await?;
    }
    let mut children = Vec::new();
    for member in &members {
        let (child, identity) = process::start(member)?;
        invocation.note(format_args!(
            "{:<9} started at {}, pid {}",
            member.name, member.address, identity.pid
        ));
        record.processes.insert(member.name.clone(), identity);
        record.save()?;
        children.push((member.clone(), child));
    }
    let mut missing = Missing {
        leader: true,
        agents: members
            .iter()
            .filter(|m| m.role == Role::Agent)
            .map(|m| m.name.clone())
            .collect(),
    };
    let ready = tokio::time::timeout(timeout, ready(&plan, timeout, &mut missing, invocation));
    tokio::select! {
        ready = ready => match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(DevError::Client(error))) if !error.is_timeout() => Err(error.into()),
            Ok(Err(DevError::Client(_))) | Err(_) => Err(missing.error(&members, timeout)),
            Ok(Err(error)) => Err(error),
        },
        died = first_death(children) => Err(died),
    }
}

/// Gives a new cluster its identity; one that goes on keeps its own.
fn identify(plan: &Plan) -> Result<(), DevError> {
    if plan.insecure {
        return Ok(());
    }
    match provision::create(&plan.identity(), &plan.machines()) {
        Ok(_) | Err(ProvisionError::Exists(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Folder, namespace and cable.
pub(super) async fn make_host(plan: &Plan, member: &Member) -> Result<(), DevError> {
    let data = member.data();
    std::fs::create_dir_all(&data).map_err(DevError::io("create", &data))?;
    netns::pin(&member.netns())?;
    network::connect_member(plan, member).await
}

/// What the cluster still lacks.
struct Missing {
    leader: bool,
    agents: BTreeSet<String>,
}

impl Missing {
    fn error(&self, members: &[Member], waited: Duration) -> DevError {
        let (missing, suspects): (String, Vec<&Member>) = if self.leader {
            let replicas = members.iter().filter(|m| m.role == Role::Replica);
            ("no replica leads".to_owned(), replicas.collect())
        } else {
            let names: Vec<&str> = self.agents.iter().map(String::as_str).collect();
            let suspects = members.iter().filter(|m| self.agents.contains(&m.name));
            (format!("{} not Ready", names.join(", ")), suspects.collect())
        };
        let logs = suspects
            .iter()
            .map(|m| format!("{}:\n{}", m.name, process::log_tail(&m.log())));
        DevError::NotReady {
            waited,
            missing,
            log: logs.collect::<Vec<_>>().join("\n"),
        }
    }
}

async fn ready(
    plan: &Plan,
    timeout: Duration,
    missing: &mut Missing,
    invocation: &mut Invocation,
) -> Result<(), DevError> {
    let client = health::client(plan, timeout)?;
    // A linearizable answer is one that a leader has stood up for.
    let cluster = client.cluster(false).await?;
    missing.leader = false;
    invocation.note(format_args!(
        "leader    replica-{}, term {}",
        cluster.leader_id, cluster.term
    ));
    health::agents_ready(&client, &mut missing.agents, |agent| {
        invocation.note(format_args!("{agent:<9} Ready"));
    })
    .await
}

/// Waits until a member ends, which none should.
async fn first_death(children: Vec<(Member, Child)>) -> DevError {
    let mut deaths: FuturesUnordered<_> = children
        .into_iter()
        .map(|(member, mut child)| async move {
            let ended = child.wait().await;
            (member, ended)
        })
        .collect();
    match deaths.next().await {
        Some((member, ended)) => DevError::Died {
            log: process::log_tail(&member.log()),
            how: match ended {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            member: member.name,
        },
        None => std::future::pending().await,
    }
}
