//! `sbxctl dev status`: the members, as the machine and as the cluster sees them.

use super::health;
use super::plan::{Member, Role};
use super::process::State;
use super::record::Record;
use crate::args::Format;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output::{self, Table};
use proto::status::NodeState;
use proto::wire;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct StatusView {
    dir: PathBuf,
    subnet: String,
    /// What `--server` would take.
    servers: Vec<String>,
    members: Vec<MemberView>,
}

#[derive(Serialize)]
struct MemberView {
    name: String,
    address: String,
    process: State,
    /// `null` where it is dead.
    pid: Option<u32>,
    /// leader, follower, or a node's state; `null` where nobody knows.
    role: Option<String>,
    /// Whom it is cut off from.
    cut_off_from: Vec<String>,
    log: PathBuf,
}

pub(super) async fn run(dir: &Path, invocation: &mut Invocation) -> Result<(), Failure> {
    let record = Record::load(dir)?;
    let plan = record.plan();
    let words = health::ask_all(&record).await?;
    let nodes = if words.is_empty() {
        BTreeMap::new()
    } else {
        health::node_states(plan).await?
    };
    let view = StatusView {
        dir: plan.dir.clone(),
        subnet: plan.subnet.to_string(),
        servers: plan.endpoints(),
        members: plan
            .members()
            .iter()
            .map(|member| view(&record, member, &words, &nodes))
            .collect(),
    };
    match invocation.format() {
        format @ (Format::Table | Format::Wide) => {
            let text = table(&view, format == Format::Wide);
            invocation.write(text.as_bytes())?;
            if record.down {
                invocation.note(format_args!("down, with its data kept in {}", dir.display()));
            }
            Ok(())
        }
        format @ (Format::Json | Format::Yaml) => {
            let text = output::document(&view, format)?;
            invocation.write(text.as_bytes())
        }
    }
}

fn view(
    record: &Record,
    member: &Member,
    words: &BTreeMap<String, wire::ClusterResponse>,
    nodes: &BTreeMap<String, NodeState>,
) -> MemberView {
    let process = record.processes.get(&member.name);
    let state = process.map_or(State::Dead, |p| p.state());
    let role = match member.role {
        Role::Replica => words.get(&member.name).map(|word| {
            let leads = word.leader_id == u64::from(member.number);
            match (leads, word.leader_id) {
                (true, _) => "leader",
                (false, 0) => "no leader",
                (false, _) => "follower",
            }
            .to_owned()
        }),
        Role::Agent => nodes.get(&member.name).map(ToString::to_string),
    };
    MemberView {
        name: member.name.clone(),
        address: member.address.to_string(),
        process: state,
        pid: process.filter(|_| state != State::Dead).map(|p| p.pid),
        role,
        cut_off_from: record.cuts.get(&member.name).cloned().unwrap_or_default(),
        log: member.log(),
    }
}

fn table(view: &StatusView, wide: bool) -> String {
    let mut header = vec!["MEMBER", "PROCESS", "PID", "ADDRESS", "ROLE", "CUT-OFF-FROM"];
    if wide {
        header.push("LOG");
    }
    let mut table = Table::new(header);
    for member in &view.members {
        let mut row = vec![
            member.name.clone(),
            member.process.as_str().to_owned(),
            member.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            member.address.clone(),
            member.role.clone().unwrap_or("-".to_owned()),
            if member.cut_off_from.is_empty() {
                "-".to_owned()
            } else {
                member.cut_off_from.join(",")
            },
        ];
        if wide {
            row.push(member.log.display().to_string());
        }
        table.push(row);
    }
    table.render()
}
