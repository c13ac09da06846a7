//! The plumbing for real, without daemons: networks, namespaces, partitions, processes and cgroups are made,
//! used, and gone afterwards. Needs root.

use super::*;
use crate::dev::plan::{Member, Plan, Subnet};
use crate::dev::process::State;
use crate::dev::{forwarding, process};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long a connection is given that must come about, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// And one that must not.
const LOST: Duration = Duration::from_millis(500);

fn demand_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces: run it as root"
    );
}

fn text_of(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Everything of this cluster that the machine can show: links, nft tables, mounts, cgroups.
fn traces(plan: &Plan) -> Vec<String> {
    let links = std::fs::read_dir("/sys/class/net").unwrap();
    let names = links.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let bridge = plan.bridge();
    let is_ours = |name: &String| {
        name.strip_prefix(&bridge)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['r', 'a']))
    };
    let mut traces: Vec<String> = names.filter(is_ours).collect();
    let tables = text_of("nft", &["list", "tables"]);
    traces.extend(
        tables
            .lines()
            .filter(|l| l.ends_with(&format!(" {}", plan.table())))
            .map(str::to_owned),
    );
    let mounts = mount::all()
        .unwrap()
        .into_iter()
        .filter(|m| m.point.starts_with(&plan.dir));
    traces.extend(mounts.map(|m| m.point.display().to_string()));
    traces.extend(
        cgroup::roots(&plan.cgroup())
            .unwrap()
            .iter()
            .map(|r| r.display().to_string()),
    );
    traces
}

/// A cluster of hosts in which `sleep` stands for both daemons; taken down also where the test fails.
struct Hosts {
    plan: Plan,
    _dir: tempfile::TempDir,
}

impl Hosts {
    /// Each test has ten subnets of its own, so that what it looks for after the end is not another's.
    async fn make(replicas: u8, agents: u8, subnets_from: u8) -> Self {
        demand_root();
        let dir = tempfile::tempdir().unwrap();
        let mut plan = Plan {
            dir: dir.path().join("cluster"),
            subnet: Subnet([0, 0, 0]),
            replicas,
            joined: Vec::new(),
            agents,
            replica_program: "/bin/sleep".into(),
            agent_program: "/bin/sleep".into(),
            mirrors: Vec::new(),
            labels: Vec::new(),
            replica_args: Vec::new(),
            agent_args: Vec::new(),
            insecure: true,
        };
        let mut claimed = false;
        for octet in subnets_from..subnets_from + 10 {
            plan.subnet = Subnet([10, 88, octet]);
            claimed = network::claim(&plan).await.unwrap();
            if claimed {
                break;
            }
        }
        assert!(claimed, "no subnet is free");
        std::fs::create_dir_all(&plan.dir).unwrap();
        let hosts = Self { plan, _dir: dir };
        Record::new(hosts.plan.clone()).save().unwrap();
        forwarding::enable().unwrap();
        firewall::open(&hosts.plan).unwrap();
        for member in hosts.plan.members() {
            std::fs::create_dir_all(&member.dir).unwrap();
            netns::pin(&member.netns()).unwrap();
            network::connect_member(&hosts.plan, &member).await.unwrap();
        }
        hosts
    }

    fn member(&self, name: &str) -> Member {
        Record::new(self.plan.clone()).member(name).unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let plan = self.plan.clone();
        let torn = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(tear_down(&plan, Keep::Nothing))
        });
        let failures = torn.join().unwrap();
        if !std::thread::panicking() {
            // A second time there is no record any more: that alone may be told.
            for failure in failures {
                assert!(matches!(failure, DevError::NoCluster { .. }), "{failure}");
            }
        }
    }
}

/// A listener on a member's address.
fn listen(member: &Member) -> TcpListener {
    let address = SocketAddr::from((member.address, 9));
    netns::within(&member.netns(), || {
        TcpListener::bind(address).map_err(DevError::io("listen", "a member"))
    })
    .unwrap()
}

fn connects(from: &Member, to: &Member, within: Duration) -> bool {
    let address = SocketAddr::from((to.address, 9));
    netns::within(&from.netns(), || {
        Ok(TcpStream::connect_timeout(&address, within).is_ok())
    })
    .unwrap()
}

fn machine_connects(to: &Member) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((to.address, 9)), PATIENCE).is_ok()
}

#[tokio::test]
async fn hosts_reach_each_other_until_partitioned_and_again_after_healing() {
    let hosts = Hosts::make(2, 1, 150).await;
    let [a, b, c] = ["replica-1", "replica-2", "agent-1"].map(|name| hosts.member(name));
    let _listeners = [listen(&a), listen(&b), listen(&c)];
    assert!(connects(&a, &b, PATIENCE) && connects(&b, &a, PATIENCE) && connects(&c, &a, PATIENCE));
    firewall::cut(&a.netns(), &[b.address, c.address]).unwrap();
    assert!(!connects(&a, &b, LOST), "out of the partition");
    assert!(!connects(&b, &a, LOST), "into the partition");
    assert!(connects(&b, &c, PATIENCE), "others are not concerned");
    assert!(machine_connects(&a), "users reach a member that is cut off");
    firewall::heal(&a.netns()).unwrap();
    assert!(connects(&a, &b, PATIENCE) && connects(&b, &a, PATIENCE));
}

#[tokio::test]
async fn members_reach_the_machine_at_dot_one() {
    let hosts = Hosts::make(1, 0, 160).await;
    let listener = TcpListener::bind((hosts.plan.subnet.host(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let member = hosts.member("replica-1");
    netns::within(&member.netns(), || {
        TcpStream::connect_timeout(&address, PATIENCE).map_err(DevError::io("connect to", "the machine"))
    })
    .unwrap();
}

#[tokio::test]
async fn subnet_is_claimed_once() {
    let hosts = Hosts::make(1, 0, 170).await;
    assert!(!network::claim(&hosts.plan).await.unwrap());
}

/// As a monitor would be: in the agent's cgroup and in a namespace of the cluster.
async fn spawn_in(member: &Member) -> (tokio::process::Child, process::Identity) {
    let mut sleeper = member.clone();
    sleeper.args = vec!["300".to_owned()];
    process::start(&sleeper).unwrap()
}

#[tokio::test]
async fn down_leaves_no_process_mount_link_table_or_cgroup() {
    let hosts = Hosts::make(1, 1, 180).await;
    let plan = hosts.plan.clone();
    let [replica, agent] = ["replica-1", "agent-1"].map(|name| hosts.member(name));
    let (_replica_child, replica_process) = spawn_in(&replica).await;
    let mut record = Record::load(&plan.dir).unwrap();
    record
        .processes
        .insert(replica.name.clone(), replica_process.clone());
    record.save().unwrap();
    // What only its namespace gives away.
    let (_monitor, monitor) = spawn_in(&agent).await;
    // What only its cgroup gives away, in the first hierarchy there is.
    let mut container = std::process::Command::new("sleep").arg("300").spawn().unwrap();
    let container_process = process::Identity::of(container.id()).unwrap();
    let hierarchy = mount::all()
        .unwrap()
        .into_iter()
        .find(|m| m.kind == "cgroup2" || (m.kind == "cgroup" && m.options.contains("pids")))
        .unwrap();
    let cgroup = hierarchy.point.join(plan.cgroup()).join("agent-1/7");
    std::fs::create_dir_all(&cgroup).unwrap();
    std::fs::write(cgroup.join("cgroup.procs"), container.id().to_string()).unwrap();
    // What an agent mounts.
    let volume = agent.dir.join("state/a volume");
    std::fs::create_dir_all(&volume).unwrap();
    nix::mount::mount(
        Some("tmpfs"),
        &volume,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    assert!(traces(&plan).len() >= 7, "{:?}", traces(&plan));

    let failures = tear_down(&plan, Keep::Nothing).await;

    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(traces(&plan), Vec::<String>::new());
    assert!(!plan.dir.exists());
    for process in [replica_process, monitor, container_process] {
        assert_eq!(process.state(), State::Dead);
    }
    container.wait().unwrap();
}

#[tokio::test]
async fn down_with_data_kept_leaves_data_and_record_alone() {
    let hosts = Hosts::make(1, 0, 190).await;
    let plan = hosts.plan.clone();
    let data = hosts.member("replica-1").data();
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("log"), "entries").unwrap();
    let failures = tear_down(&plan, Keep::Data).await;
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(traces(&plan), Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(data.join("log")).unwrap(), "entries");
    let record = Record::load(&plan.dir).unwrap();
    assert!(record.down && record.processes.is_empty());
}

#[test]
fn pinned_namespaces_are_told_from_other_mounts() {
    demand_root();
    let dir = tempfile::tempdir().unwrap();
    let pin = dir.path().join("netns");
    netns::pin(&pin).unwrap();
    let found = mount::pinned_namespaces(dir.path()).unwrap();
    netns::unpin(&pin).unwrap();
    netns::unpin(&pin).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(mount::pinned_namespaces(dir.path()).unwrap(), BTreeSet::new());
}
