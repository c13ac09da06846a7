//! `sbxctl dev down`: ends the members and all that they have started, and removes all that was made.
//! Idempotent; goes on after a failure, and reports every one.

use super::plan::Plan;
use super::record::{self, Record};
use super::{DevError, cgroup, firewall, forwarding, mount, netns, network};
use crate::failure::Failure;
use crate::invocation::Invocation;
use std::path::Path;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// The members' data and the record, for a later `up`.
    Data,
}

pub(super) async fn run(dir: &Path, keep_data: bool, invocation: &mut Invocation) -> Result<(), Failure> {
    let lock = record::lock(dir)?;
    let record = Record::load(dir)?;
    let plan = record.plan();
    let keep = if keep_data { Keep::Data } else { Keep::Nothing };
    let failures = tear_down(plan, keep).await;
    drop(lock);
    if !failures.is_empty() {
        return Err(DevError::Teardown {
            what: format!("the cluster in {}", dir.display()),
            failures: failures.iter().map(ToString::to_string).collect(),
        }
        .into());
    }
    match keep {
        Keep::Nothing => invocation.note(format_args!("the cluster in {} is gone", dir.display())),
        Keep::Data => invocation.note(format_args!(
            "the cluster in {0} is down, its data is kept: `sbxctl dev up --dir {0}` goes on with it",
            dir.display()
        )),
    }
    Ok(())
}

/// Ends and removes; every failure.
pub(super) async fn tear_down(plan: &Plan, keep: Keep) -> Vec<DevError> {
    let mut failures = Vec::new();
    failures.extend(end_processes(plan));
    match cgroup::roots(&plan.cgroup()) {
        Ok(roots) => {
            for root in roots {
                failures.extend(cgroup::remove(&root).await.err());
            }
        }
        Err(error) => failures.push(error),
    }
    for member in plan.members() {
        failures.extend(netns::unpin(&member.netns()).err());
    }
    failures.extend(mount::unmount_below(&plan.dir));
    failures.extend(network::remove(plan).await);
    failures.extend(firewall::close(plan).err());
    failures.extend(forwarding::restore(plan).await.err());
    failures.extend(record::unpoint(&plan.dir).err());
    // With failures the record stays, so that `down` can be run again; with mounts left, removing files
    // would go through them.
    if failures.is_empty() {
        failures.extend(clear(plan, keep).err());
    }
    failures
}

/// Members first, so that no agent starts anew what ends; then what agents have started.
fn end_processes(plan: &Plan) -> Vec<DevError> {
    let mut failures = Vec::new();
    let processes = match Record::load(&plan.dir) {
        Ok(record) => record.processes,
        Err(error) => return vec![error],
    };
    for (member, identity) in processes {
        if let Err(source) = identity.kill() {
            failures.push(DevError::Signal {
                act: "kill",
                member,
                source,
            });
        }
    }
    let namespaces = mount::pinned_namespaces(&plan.dir);
    let roots = cgroup::roots(&plan.cgroup());
    match (namespaces, roots) {
        (Ok(namespaces), Ok(roots)) => failures.extend(cgroup::kill_all(&roots, &namespaces)),
        (namespaces, roots) => {
            failures.extend(namespaces.err());
            failures.extend(roots.err());
        }
    }
    failures
}

fn clear(plan: &Plan, keep: Keep) -> Result<(), DevError> {
    match keep {
        Keep::Nothing => match std::fs::remove_dir_all(&plan.dir) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(DevError::io("remove", &plan.dir)(source)),
        },
        Keep::Data => {
            let mut record = Record::load(&plan.dir)?;
            record.processes.clear();
            record.cuts.clear();
            record.down = true;
            record.save()
        }
    }
}

#[cfg(test)]
mod tests;
