//! What the agent and its monitors take while nothing happens, and whether anything is left in the end.

use super::contender::Contender;
use super::course::Course;
use crate::error::BenchError;
use crate::local::{AGENT, Local};
use crate::process::{KIB_PER_MIB, cpu, sum_kib};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// After a burst, for what was put off to be done.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) sandboxes: u32,
    pub(super) agent_rss_mib: f64,
    /// Of one processor.
    pub(super) agent_cpu_percent: f64,
    /// Proportional set size, the mean of all: what it shares counts in part.
    pub(super) monitor_pss_mib: f64,
    pub(super) monitor_private_mib: f64,
}

/// Starts `count`, watches for so long, and takes them away.
pub(super) async fn measure<C: Contender>(
    local: &Local,
    course: &Course<'_, C>,
    count: u32,
    watch: Duration,
) -> Result<Idle, BenchError> {
    let round = course.start(count).await?;
    tokio::time::sleep(SETTLE).await;
    let found = look(local, count, watch).await;
    course.end(&round.numbers).await?;
    found
}

async fn look(local: &Local, count: u32, watch: Duration) -> Result<Idle, BenchError> {
    let agent = agent_pid(local)?;
    let read = |source| BenchError::System {
        act: "read what the agent takes",
        source,
    };
    let before = cpu(agent).map_err(read)?;
    let begun = Instant::now();
    tokio::time::sleep(watch).await;
    let used = cpu(agent).map_err(read)?.saturating_sub(before);
    let agent_cpu_percent = 100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64();
    let agent_rss_mib = sum_kib(agent, "status", &["VmRSS:"]).map_err(read)? / KIB_PER_MIB;
    let monitors = monitors(local).map_err(read)?;
    let mean = |keys: &[&str]| -> f64 {
        let each = monitors
            .iter()
            .filter_map(|pid| sum_kib(*pid, "smaps_rollup", keys).ok());
        each.sum::<f64>() / (monitors.len().max(1) as f64) / KIB_PER_MIB
    };
    Ok(Idle {
        sandboxes: count,
        agent_rss_mib,
        agent_cpu_percent,
        monitor_pss_mib: mean(&["Pss:"]),
        monitor_private_mib: mean(&["Private_Clean:", "Private_Dirty:"]),
    })
}

fn agent_pid(local: &Local) -> Result<u32, BenchError> {
    let status = local.status()?;
    let members = status["members"].as_array().into_iter().flatten();
    let mut agents = members.filter(|member| member["name"] == AGENT);
    let pid = agents.next().and_then(|agent| agent["pid"].as_u64());
    let pid = pid.and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| BenchError::System {
        act: "find the agent",
        source: io::ErrorKind::NotFound.into(),
    })
}

/// The processes that watch sandboxes of this cluster.
fn monitors(local: &Local) -> io::Result<Vec<u32>> {
    let state = local.state_dir();
    let state = state.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since.
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if command.contains(&*state) && command.split('\0').nth(1) == Some("monitor") {
            found.push(pid);
        }
    }
    Ok(found)
}

/// That nothing of any sandbox is left on the node.
pub(super) fn nothing_left(local: &Local) -> Result<(), BenchError> {
    let sandboxes = local.state_dir().join("sandboxes");
    let read = |source| BenchError::System {
        act: "look for what is left",
        source,
    };
    if let Some(left) = fs::read_dir(&sandboxes).map_err(read)?.next() {
        return Err(BenchError::Left(left.map_err(read)?.path().display().to_string()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(read)?;
    let is_below = |line: &&str| {
        line.split(' ')
            .nth(4)
            .is_some_and(|at| Path::new(at).starts_with(&sandboxes))
    };
    if let Some(left) = mounts.lines().find(is_below) {
        return Err(BenchError::Left(left.to_owned()));
    }
    match monitors(local).map_err(read)?.first() {
        Some(pid) => Err(BenchError::Left(format!("the monitor {pid}"))),
        None => Ok(()),
    }
}
