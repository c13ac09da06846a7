//! What is on the node when an agent starts: sandboxes that ran on while no agent was there, half-made ones, and
//! leftovers that nobody knows. Looks, and changes nothing. Called by `reconcile`, once.

use crate::host::{self, Host};
use crate::lease::Tenure;
use crate::plan::{Ending, Observed, Outcome, Stage};
use crate::record::{self, Record, RecordStage};
use crate::runtime::cgroup::CgroupError;
use crate::runtime::monitor::{self, Monitor, MonitorError};
use crate::runtime::network::NetworkError;
use crate::sandbox::{Deadline, Parts, Sandbox};
use proto::id::Uid;
use proto::status::Reason;
use proto::wire::{self, ContainerState, MonitorPhase};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why it can't be told what is on the node.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot list the sandboxes in {}: {source}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Every sandbox of which anything is here: a folder, a cgroup, a part of the network.
///
/// # Errors
/// [`ObserveError`]
pub(crate) async fn present(host: &Host) -> Result<BTreeSet<Uid>, ObserveError> {
    let path = &host.settings.sandboxes;
    let folders = record::all(path).map_err(|source| ObserveError::List {
        path: path.clone(),
        source,
    })?;
    let groups = host.cgroups.children(&host.settings.cgroup_parent)?;
    let groups = groups.iter().filter_map(|name| name.parse().ok()).map(Uid);
    let attached = host.network.attached().await?;
    Ok(folders.into_iter().chain(groups).chain(attached).collect())
}

/// What is here of one sandbox. Its address and its user ids count as taken from now on.
pub(crate) async fn sandbox(host: &Arc<Host>, uid: Uid) -> Sandbox {
    let dir = host.folder(uid);
    let mut sandbox = Sandbox::absent(host.clone(), uid, String::new());
    sandbox.observed.stage = Stage::Partial;
    let Record {
        stage,
        report,
        user_ids,
    } = match record::read(&dir) {
        Ok(Some(known)) => known,
        Ok(None) => return sandbox,
        Err(error) => {
            tracing::error!(%uid, %error, "it is ended, since it may have run");
            // A power cut does that, and ends all sandboxes in any case.
            let of_this_boot = host.lease.tenure() != Tenure::Never;
            let failed = Outcome::failed(Reason::AgentError, error.to_string());
            sandbox.observed.outcome = of_this_boot.then_some(failed);
            return sandbox;
        }
    };
    sandbox.parts.ip = report.ip.parse().ok();
    sandbox.parts.user_ids = user_ids;
    sandbox.report = report;
    if stage == RecordStage::Ended {
        sandbox.parts = Parts::default();
        sandbox.observed.stage = Stage::Ended;
        return sandbox;
    }
    if let Some(ip) = sandbox.parts.ip {
        host.addresses.keep(ip);
    }
    if let (Some(all), Some(ids)) = (&host.user_ids, user_ids) {
        all.keep(ids);
    }
    let attached = monitor::attach(&host::monitor(&dir)).await;
    sandbox.observed = observed(stage, attached.as_ref(), &host.settings.boot_id);
    if sandbox.observed.stage != Stage::Partial {
        sandbox.parts.monitor = attached.ok().flatten();
        sandbox.parts.told = sandbox.parts.monitor.as_ref().map(told);
    }
    sandbox
}

/// What the monitor was told by the agent before, as far as it knows.
fn told(monitor: &Monitor) -> Deadline {
    let at = monitor.state().borrow().expires_at_boot_ms;
    Deadline {
        expires: None,
        at: (at != 0).then_some(crate::clock::BootTime(at)),
    }
}

/// How far a sandbox is of which the record says `stage`.
fn observed(
    stage: RecordStage,
    attached: Result<&Option<Monitor>, &MonitorError>,
    boot_id: &str,
) -> Observed {
    let state = match attached {
        Err(error) => {
            return Observed {
                stage: Stage::Started,
                outcome: Some(Outcome::failed(Reason::AgentError, error.to_string())),
            };
        }
        Ok(None) => None,
        Ok(Some(monitor)) => Some(monitor.state().borrow().clone()),
    };
    let stage = match (stage, &state) {
        (RecordStage::Creating | RecordStage::Unspecified, None) => Stage::Partial,
        (RecordStage::Creating | RecordStage::Unspecified, Some(state)) => match state.phase() {
            MonitorPhase::Starting => Stage::Prepared,
            MonitorPhase::Lost if !has_run(state) => Stage::Partial,
            MonitorPhase::Unspecified
            | MonitorPhase::Running
            | MonitorPhase::Stopping
            | MonitorPhase::Ended
            | MonitorPhase::Lost => Stage::Started,
        },
        (RecordStage::Started, _) => Stage::Started,
        (RecordStage::Running, _) => Stage::Ready,
        (RecordStage::Ended, _) => Stage::Ended,
    };
    let outcome = match &state {
        None if stage == Stage::Partial => None,
        None => Some(Outcome::failed(
            Reason::AgentError,
            "its monitor's folder is gone from this node",
        )),
        Some(state) => restarted(state, boot_id).then(|| Ending::Restarted.outcome()),
    };
    Observed { stage, outcome }
}

/// Whether any container has been started.
fn has_run(state: &wire::MonitorState) -> bool {
    let waits = |c: &wire::ContainerStatus| c.state() == ContainerState::Waiting;
    !state.containers.iter().all(waits)
}

/// Whether the monitor was lost because the machine was.
fn restarted(state: &wire::MonitorState, boot_id: &str) -> bool {
    let of_this_boot = state.process.as_ref().is_none_or(|p| p.boot_id == boot_id);
    state.phase() == MonitorPhase::Lost && !of_this_boot
}
