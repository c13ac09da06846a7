//! Ends a sandbox, and takes away what was made for it. Everything here may be done again; what fails keeps
//! nothing else from being done.

use super::{Halt, bundle};
use crate::blocking::blocking;
use crate::clock;
use crate::host;
use crate::plan::{Outcome, Stage};
use crate::record::RecordStage;
use crate::runtime::files;
use crate::runtime::logs::{self, Query, Source};
use crate::runtime::namespace;
use crate::sandbox::{Interrupt, Sandbox};
use futures::StreamExt;
use proto::id::Name;
use proto::status::Reason;
use proto::wire;
use std::fmt::Display;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a monitor has beyond the grace to say how its containers have ended. Afterwards they are killed without.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// The exit code of what ended by SIGKILL.
const KILLED: i32 = 128 + 9;
/// Lines of a container's output that are told with its failure.
const LAST_LINES: u64 = 5;
/// Of them, at most this long in all.
const MAX_LAST_BYTES: usize = 1_000;

/// Ends the containers, so that exit codes are known.
pub(super) async fn stop(sandbox: &mut Sandbox, interrupt: &Interrupt) -> Result<(), Halt> {
    let Some(monitor) = &sandbox.parts.monitor else {
        return Ok(());
    };
    let stopped = async {
        monitor.stop(bundle::GRACE).await?;
        Ok::<_, crate::runtime::monitor::MonitorError>(monitor.ended_or_lost().await)
    };
    let order = interrupt.0.borrow().clone();
    match tokio::time::timeout(bundle::GRACE + STOP_TIMEOUT, stopped).await {
        Ok(Ok(state)) => {
            // Why it was stopped is known better than the monitor knows it.
            let known = sandbox.observed.outcome.take();
            sandbox.take_in(&state, &order);
            sandbox.observed.outcome = known;
        }
        Ok(Err(error)) => {
            tracing::warn!(uid = %sandbox.uid, %error, "cannot stop it, killing it");
        }
        Err(_) => tracing::warn!(uid = %sandbox.uid, "it does not stop, killing it"),
    }
    Ok(())
}

/// The network is cut meanwhile, and on until all is released: for the kernel that is mostly waiting.
pub(super) async fn kill(sandbox: &mut Sandbox) -> Result<(), Halt> {
    let (cgroups, cgroup) = (sandbox.host.cgroups.clone(), sandbox.host.cgroup(sandbox.uid));
    if sandbox.parts.cutting.is_none() {
        let (host, uid) = (sandbox.host.clone(), sandbox.uid);
        sandbox.parts.cutting = Some(tokio::spawn(async move { host.network.detach(uid).await }));
    }
    let _turn = sandbox.host.ends.acquire().await;
    let killed = blocking(move || cgroups.kill(&cgroup)).await;
    killed.map_err(|error| Halt::Leftovers(vec![error.to_string()]))
}

/// Gives back everything but logs and record, and the address last: nobody else gets it while packets to it are
/// under way.
pub(super) async fn release(sandbox: &mut Sandbox) -> Result<(), Halt> {
    let turn = sandbox.host.ends.acquire().await;
    let (cgroups, cgroup) = (sandbox.host.cgroups.clone(), sandbox.host.cgroup(sandbox.uid));
    let dir = sandbox.dir.clone();
    let local = blocking(move || {
        let mut failures = texts(files::release(&dir));
        failures.extend(texts(namespace::remove(&host::pins(&dir))));
        failures.extend(texts(cgroups.remove(&cgroup)));
        failures
    });
    let cutting = sandbox.parts.cutting.take();
    let network = async {
        match cutting {
            // One that has died has done nothing that can't be done again.
            Some(cutting) => match cutting.await {
                Ok(failures) => failures,
                Err(_) => sandbox.host.network.detach(sandbox.uid).await,
            },
            None => sandbox.host.network.detach(sandbox.uid).await,
        }
    };
    let (detached, mut failures) = futures::join!(network, local);
    failures.extend(texts(detached));
    drop(turn);
    if !failures.is_empty() {
        return Err(Halt::Leftovers(failures));
    }
    forget(sandbox);
    Ok(())
}

/// Nothing of it needs its parts any more: others may have its address and ids.
fn forget(sandbox: &mut Sandbox) {
    let parts = std::mem::take(&mut sandbox.parts);
    if let Some(ip) = parts.ip {
        sandbox.host.addresses.give_back(ip);
    }
    if let (Some(all), Some(ids)) = (&sandbox.host.user_ids, parts.user_ids) {
        all.give_back(ids);
    }
}

/// Records and tells the end.
pub(super) async fn conclude(sandbox: &mut Sandbox, outcome: Outcome) -> Result<(), Halt> {
    sandbox.report.phase = wire::Phase::from(outcome.phase()).into();
    sandbox.report.containers.iter_mut().for_each(killed);
    let reason = outcome.failure.map_or(wire::Reason::Unspecified, Into::into);
    sandbox.report.reason = reason.into();
    sandbox.report.message = outcome.message;
    if matches!(outcome.failure, Some(Reason::ContainerExited | Reason::OomKilled))
        && let Some(last) = last_words(sandbox).await
    {
        sandbox.report.message.push_str(&last);
    }
    let written = std::fs::create_dir_all(&sandbox.dir)
        .map_err(|e| e.to_string())
        .and_then(|()| sandbox.record(RecordStage::Ended).map_err(|e| e.to_string()));
    if let Err(error) = written {
        // It is told all the same; an agent after this one takes it for one that was cut off.
        tracing::error!(uid = %sandbox.uid, error, "cannot record the end of a sandbox");
    }
    sandbox.observed.outcome = None;
    sandbox.tell();
    Ok(())
}

/// A container of which nobody has said how it ended: it was killed after its monitor.
fn killed(container: &mut wire::ContainerStatus) {
    if container.state() == wire::ContainerState::Running {
        container.set_state(wire::ContainerState::Exited);
        container.exit_code = Some(KILLED);
        container.finished_at_ms = clock::wall().0;
    }
}

/// Nothing of it is left.
pub(super) async fn remove(sandbox: &mut Sandbox) -> Result<(), Halt> {
    let dir = sandbox.dir.clone();
    let failures = blocking(move || texts(files::remove(&dir))).await;
    if !failures.is_empty() {
        return Err(Halt::Leftovers(failures));
    }
    // One of which hardly anything was made is removed without being released.
    forget(sandbox);
    sandbox.observed.stage = Stage::Absent;
    sandbox.host.reports.gone(sandbox.uid, &sandbox.report.sandbox_id);
    Ok(())
}

/// The last output of the container that failed first, for a person; `None` where it has said nothing.
async fn last_words(sandbox: &Sandbox) -> Option<String> {
    let failed = sandbox.report.containers.iter();
    let failed = failed.filter(|c| c.exit_code.is_some_and(|code| code != 0));
    let failed = failed.min_by_key(|c| c.finished_at_ms)?;
    let container = Name::new(&*failed.name).ok()?;
    let source = Source {
        dir: files::logs_of(&sandbox.dir, &container),
        container,
    };
    let query = Query {
        tail: Some(LAST_LINES),
        ..Query::default()
    };
    let mut lines = Vec::new();
    let mut batches = logs::read(vec![source], query, CancellationToken::new());
    while let Some(batch) = batches.next().await {
        let text = |line: logs::Line| harmless(&String::from_utf8_lossy(&line.text));
        lines.extend(batch.ok()?.into_iter().map(text));
    }
    let said = lines.join("\n");
    let begin = said.len().saturating_sub(MAX_LAST_BYTES);
    let begin = (begin..=said.len()).find(|n| said.is_char_boundary(*n))?;
    (!said.trim().is_empty()).then(|| format!("; its last output:\n{}", &said[begin..]))
}

/// A container is a stranger, and this text may be shown on a terminal: what could steer one is written out, as is
/// what makes text run backwards.
fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(c.escape_unicode());
            }
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

fn texts(errors: Vec<impl Display>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_would_steer_a_terminal_is_written_out() {
        for (said, shown) in [
            ("plain, ünï", "plain, ünï"),
            ("a\tb", "a b"),
            ("\x1b[2Jgone\r", "\\u{1b}[2Jgone\\r"),
            ("\u{9b}31m\0", "\\u{9b}31m\\u{0}"),
            ("abc\u{202e}txt.exe", "abc\\u{202e}txt.exe"),
        ] {
            assert_eq!(harmless(said), shown);
        }
    }
}
