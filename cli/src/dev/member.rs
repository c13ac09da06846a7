//! `sbxctl dev kill | pause | resume | restart`: what happens to machines.

use super::process::{self, State};
use super::record::{self, Record};
use super::{DevError, health};
use crate::failure::Failure;
use crate::invocation::Invocation;
use nix::sys::signal::Signal;
use std::path::Path;

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

/// Signals a member that must be alive.
fn signal(record: &Record, member: &str, act: &'static str, signal: Signal) -> Result<(), DevError> {
    let failed = |source| DevError::Signal {
        act,
        member: member.to_owned(),
        source,
    };
    let delivered = match record.processes.get(member) {
        Some(process) if signal == Signal::SIGKILL => process.kill().map_err(failed)?,
        Some(process) => process.signal(signal).map_err(failed)?,
        None => false,
    };
    if delivered {
        return Ok(());
    }
    Err(DevError::WrongState {
        member: member.to_owned(),
        state: "dead",
        advice: "start it with `sbxctl dev restart`",
    })
}

pub(super) async fn kill(dir: &Path, names: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let mut record = Record::load(dir)?;
    for member in resolve(&record, names).await? {
        signal(&record, &member, "kill", Signal::SIGKILL)?;
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
        signal(&record, &member, "pause", Signal::SIGSTOP)?;
        invocation.say(format_args!("{member} paused"))?;
    }
    Ok(())
}

pub(super) async fn resume(dir: &Path, names: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let record = Record::load(dir)?;
    for member in resolve(&record, names).await? {
        signal(&record, &member, "resume", Signal::SIGCONT)?;
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
            signal(&record, &name, "kill", Signal::SIGKILL)?;
        }
        let member = record.member(&name)?;
        let (_, identity) = process::start(&member)?;
        let pid = identity.pid;
        record.processes.insert(name.clone(), identity);
        record.save()?;
        invocation.say(format_args!("{name} restarted, pid {pid}"))?;
    }
    Ok(())
}
