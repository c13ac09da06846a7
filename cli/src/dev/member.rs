//! `sbxctl dev kill | pause | resume | restart`: what happens to machines.

use super::plan::{Member, Plan, Role};
use super::process::{self, Identity, State};
use super::record::{self, Record};
use super::{DevError, health};
use crate::failure::Failure;
use crate::invocation::Invocation;
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;
use tokio::process::Child;

/// A replica opens its stores and answers; after a crash it reads its log first.
const RESTART_TIMEOUT: Duration = Duration::from_secs(15);
/// An agent that can't run says so at once: its flags, its folder, its cgroups.
const AGENT_SETTLES: Duration = Duration::from_millis(300);

/// `leader` stands for the replica that leads at present.
pub(super) async fn resolve(record: &Record, names: &[String]) -> Result<Vec<String>, DevError> {
    let mut members = Vec::new();
    for name in names {
        let name = match name.as_str() {
            "leader" => health::leader(record).await?,
            other => record.member(other)?.name,
        };
        if !members.contains(&name) {
            members.push(name);
        }
    }
    Ok(members)
}

fn state(record: &Record, member: &str) -> State {
    record
        .processes
        .get(member)
        .map_or(State::Dead, |process| process.state())
}

fn dead(member: &str) -> DevError {
    DevError::WrongState {
        member: member.to_owned(),
        state: "dead",
        advice: "start it with `sbxctl dev restart`",
    }
}

/// The process of a member that was started and not killed by us; it may have ended by itself.
fn process_of<'a>(record: &'a Record, member: &str) -> Result<&'a Identity, DevError> {
    record.processes.get(member).ok_or_else(|| dead(member))
}

/// Ends well where the signal reached the member.
fn delivered(act: &'static str, member: &str, result: std::io::Result<bool>) -> Result<(), DevError> {
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(dead(member)),
        Err(source) => Err(DevError::Signal {
            act,
            member: member.to_owned(),
            source,
        }),
    }
}

pub(super) async fn kill(dir: &Path, names: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let mut record = Record::load(dir)?;
    for member in resolve(&record, names).await? {
        delivered("kill", &member, process_of(&record, &member)?.kill())?;
        record.processes.remove(&member);
        record.save()?;
        invocation.say(format_args!("{member} killed"))?;
    }
    Ok(())
}

pub(super) async fn pause(dir: &Path, names: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let record = Record::load(dir)?;
    for member in resolve(&record, names).await? {
        delivered("pause", &member, process_of(&record, &member)?.pause().await)?;
        invocation.say(format_args!("{member} paused"))?;
    }
    Ok(())
}

pub(super) async fn resume(dir: &Path, names: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let record = Record::load(dir)?;
    for member in resolve(&record, names).await? {
        delivered(
            "resume",
            &member,
            process_of(&record, &member)?.signal(Signal::SIGCONT),
        )?;
        invocation.say(format_args!("{member} resumed"))?;
    }
    Ok(())
}

/// Starts members again; those that run are killed first.
pub(super) async fn restart(
    dir: &Path,
    names: &[String],
    invocation: &mut Invocation,
) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let mut record = Record::load(dir)?;
    for name in resolve(&record, names).await? {
        if state(&record, &name) != State::Dead {
            delivered("kill", &name, process_of(&record, &name)?.kill())?;
        }
        let member = record.member(&name)?;
        let (child, identity) = process::start(&member)?;
        let pid = identity.pid;
        record.processes.insert(name.clone(), identity);
        record.save()?;
        settle(record.plan(), &member, child, invocation).await?;
        invocation.say(format_args!("{name} restarted, pid {pid}"))?;
    }
    Ok(())
}

/// Waits until a replica answers, and for an agent until it has not failed at once.
async fn settle(
    plan: &Plan,
    member: &Member,
    mut child: Child,
    invocation: &mut Invocation,
) -> Result<(), DevError> {
    let up = async {
        match member.role {
            Role::Replica => loop {
                if health::ask(plan, member).await?.is_some() {
                    return Ok(());
                }
            },
            Role::Agent => {
                tokio::time::sleep(AGENT_SETTLES).await;
                Ok(())
            }
        }
    };
    tokio::select! {
        up = tokio::time::timeout(RESTART_TIMEOUT, up) => match up {
            Ok(up) => up,
            Err(_) => {
                invocation.note(format_args!("{} does not answer yet", member.name));
                Ok(())
            }
        },
        ended = child.wait() => Err(DevError::Died {
            member: member.name.clone(),
            how: ended.map_or_else(|e| e.to_string(), |status| status.to_string()),
            log: process::log_tail(&member.log()),
        }),
    }
}
