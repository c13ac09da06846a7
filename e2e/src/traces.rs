//! What sandboxes leave on a node: mounts, links, addresses' routes, firewall entries, cgroups, processes,
//! folders. Taken as text at one moment, so that two moments can be compared.

use crate::cluster::Cluster;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The traces on one agent's node.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    pub mounts: BTreeSet<String>,
    pub links: BTreeSet<String>,
    pub routes: BTreeSet<String>,
    pub neighbours: BTreeSet<String>,
    /// Rules and elements, without counters and handles.
    pub firewall: String,
    pub cgroups: BTreeSet<PathBuf>,
    /// Command lines that name the node's folder, the agent's own left out.
    pub processes: BTreeSet<String>,
    pub folders: BTreeSet<PathBuf>,
}

impl Traces {
    /// # Panics
    /// Where the machine can't be asked.
    #[track_caller]
    pub fn of(cluster: &Cluster, agent: &str) -> Self {
        let state = cluster.dir().join(agent).join("state");
        let lines = |args: &[&str]| -> BTreeSet<String> {
            let text = cluster.inside(agent, args).ok();
            text.lines().map(str::to_owned).collect()
        };
        Self {
            mounts: mounts_below(&state),
            links: lines(&["ip", "-o", "-br", "link"]),
            routes: lines(&["ip", "route"]),
            neighbours: lines(&["ip", "neigh", "show", "nud", "permanent"]),
            firewall: cluster
                .inside(agent, &["nft", "--stateless", "list", "ruleset"])
                .ok(),
            cgroups: cgroups_below(cluster, agent),
            processes: processes_naming(&state),
            folders: folders(&state.join("sandboxes")),
        }
    }
}

fn mounts_below(dir: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo is readable");
    let at = |line: &&str| {
        line.split(' ')
            .nth(4)
            .is_some_and(|at| Path::new(at).starts_with(dir))
    };
    text.lines()
        .filter(at)
        .map(|line| line.split(' ').nth(4).unwrap_or_default().to_owned())
        .collect()
}

/// Of the agent's sandboxes, in every hierarchy.
fn cgroups_below(cluster: &Cluster, agent: &str) -> BTreeSet<PathBuf> {
    let record = std::fs::read_to_string(cluster.dir().join("cluster.json")).expect("the record is readable");
    let record: serde_json::Value = serde_json::from_str(&record).expect("the record is JSON");
    let subnet = record["plan"]["subnet"].as_array().expect("three octets");
    let name = format!("sandboxd-dev-{}", subnet[2]);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo is readable");
    let hierarchies = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4));
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies {
        let parent = Path::new(hierarchy).join(&name).join(agent);
        found.extend(folders(&parent));
    }
    found
}

fn folders(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn processes_naming(dir: &Path) -> BTreeSet<String> {
    let dir = dir.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").expect("/proc is readable").flatten();
    let lines = entries.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    });
    lines
        .filter(|line| line.contains(&dir) && !line.contains("--node-id"))
        .collect()
}
