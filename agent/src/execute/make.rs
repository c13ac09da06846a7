//! Makes a sandbox, stage by stage. Each stage notes in the sandbox what later ones need.

use super::bundle::{self, Input};
use super::pull::pull;
use super::{Failure, Halt, timed};
use crate::blocking::blocking;
use crate::host::{self, Host};
use crate::record::RecordStage;
use crate::runtime::firewall::Rules;
use crate::runtime::monitor::{self, Launch};
use crate::runtime::namespace::{self, Pins};
use crate::sandbox::{Interrupt, Sandbox};
use proto::spec::SandboxSpec;
use proto::wire::{self, MonitorPhase};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::SemaphorePermit;

/// Starting takes some 100 ms. What takes this long waits for something else than what turns are for, and must not
/// keep others from theirs: a runtime that hangs above all.
const LONGEST_TURN: Duration = Duration::from_secs(2);
/// No user of the node has business in a sandbox's folder.
const PRIVATE: u32 = 0o700;
/// Of a host name, so that it is one label of DNS.
const MAX_HOSTNAME: usize = 63;

/// Notes that something of the sandbox is here, before anything is.
pub(super) async fn address(sandbox: &mut Sandbox) -> Result<(), Halt> {
    let dir = sandbox.dir.clone();
    // Whatever was left by an attempt that was cut off, its monitor's folder above all.
    let leftovers = blocking(move || crate::runtime::files::remove(&dir)).await;
    if !leftovers.is_empty() {
        return Err(Halt::Leftovers(
            leftovers.iter().map(ToString::to_string).collect(),
        ));
    }
    let ip = sandbox.host.addresses.take().map_err(Failure::from)?;
    sandbox.parts.ip = Some(ip);
    let spec = spec(sandbox)?;
    let runtime = spec.runtime.unwrap_or(sandbox.host.settings.default_runtime);
    sandbox.parts.namespaces = sandbox.host.take_namespaces(runtime);
    sandbox.parts.user_ids = match &sandbox.parts.namespaces {
        Some(ahead) => ahead.ids(),
        None => sandbox.host.take_user_ids(runtime).map_err(Failure::from)?,
    };
    sandbox.report.phase = wire::Phase::Scheduled.into();
    sandbox.report.ip = ip.to_string();
    sandbox.report.timings_ms.clear();
    sandbox.report.containers = spec.containers.iter().map(|c| waiting(c.name.as_str())).collect();
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(PRIVATE);
    folder.create(&sandbox.dir).map_err(|source| Failure::Folder {
        path: sandbox.dir.clone(),
        source,
    })?;
    sandbox.record(RecordStage::Creating).map_err(Failure::from)?;
    sandbox.tell();
    Ok(())
}

fn waiting(name: &str) -> wire::ContainerStatus {
    wire::ContainerStatus {
        name: name.to_owned(),
        state: wire::ContainerState::Waiting.into(),
        ..Default::default()
    }
}

/// Pulls while the namespaces are made. A pull may take long, and is given up when it is in vain; namespaces are
/// made to their end.
pub(super) async fn provide(sandbox: &mut Sandbox, interrupt: &mut Interrupt) -> Result<(), Halt> {
    let begun = Instant::now();
    let spec = spec(sandbox)?;
    let ahead = sandbox.parts.namespaces.take();
    let pulled = async {
        let pulled = tokio::select! {
            pulled = pull(sandbox, &spec) => pulled.map_err(Halt::from),
            () = interrupt.arrived() => Err(Halt::Interrupted),
        };
        (pulled, Instant::now())
    };
    let (dir, name) = (host::pins(&sandbox.dir), hostname(&sandbox.report.sandbox_id));
    let user_ids = sandbox.parts.user_ids;
    let pinned = async {
        let pin = move || match ahead {
            Some(ahead) => ahead.pin(&dir, &name),
            None => namespace::create(&dir, &name, user_ids),
        };
        let pinned = blocking(pin).await;
        (pinned, Instant::now())
    };
    sandbox.host.prime(&spec);
    let ((pulled, pulled_at), (pinned, pinned_at)) = futures::join!(pulled, pinned);
    sandbox.parts.images = pulled?;
    pinned.map_err(Failure::from)?;
    for (status, image) in sandbox.report.containers.iter_mut().zip(&sandbox.parts.images) {
        status.image_digest.clone_from(&image.digest);
    }
    timed(sandbox, "pull", begun, pulled_at);
    timed(sandbox, "namespaces", begun, pinned_at);
    // An agent that finds the sandbox half started shall know the images.
    sandbox.record(RecordStage::Creating).map_err(Failure::from)?;
    Ok(())
}

/// Mounts, limits and renders while the network is made. Both to their end: what has failed is taken away as a whole.
pub(super) async fn prepare(sandbox: &mut Sandbox, interrupt: &mut Interrupt) -> Result<(), Halt> {
    let begun = Instant::now();
    let spec = spec(sandbox)?;
    let ip = sandbox.parts.ip.ok_or(Failure::Missing("its address"))?;
    let input = Input {
        settings: sandbox.host.settings.clone(),
        cgroups: sandbox.host.cgroups.clone(),
        cgroup: sandbox.host.cgroup(sandbox.uid),
        uid: sandbox.uid,
        dir: sandbox.dir.clone(),
        hostname: hostname(&sandbox.report.sandbox_id),
        ip,
        user_ids: sandbox.parts.user_ids,
        images: sandbox.parts.images.clone(),
        spec: spec.clone(),
    };
    let host = &sandbox.host;
    host.prime(&spec);
    let pins = Pins::below(&host::pins(&sandbox.dir));
    let rules = Rules::of(&spec, &sandbox.ports);
    let attached = async {
        let attached = host.network.attach(sandbox.uid, ip, &pins.net, &rules).await;
        (attached, Instant::now())
    };
    let prepared = async {
        let _turn = turn(host, interrupt).await?;
        blocking(move || bundle::prepare(&input))
            .await
            .map_err(Halt::from)
    };
    let ((attached, attached_at), prepared) = futures::join!(attached, prepared);
    attached.map_err(Failure::from)?;
    let prepared = prepared?;
    timed(sandbox, "network", begun, attached_at);
    for (stage, begun, ended) in prepared.stages {
        timed(sandbox, stage, begun, ended);
    }
    sandbox.parts.spec = Some(prepared.monitor);
    Ok(())
}

/// Starts the monitor, unless one is at it already, and waits until all containers run.
pub(super) async fn start(sandbox: &mut Sandbox, interrupt: &mut Interrupt) -> Result<(), Halt> {
    let begun = Instant::now();
    let order = interrupt.0.borrow().clone();
    let deadline = sandbox.deadline(&order);
    let host = sandbox.host.clone();
    let timeout = host.settings.start_timeout;
    let turn = turn(&host, interrupt).await?;
    if sandbox.parts.monitor.is_none() {
        let mut spec = sandbox
            .parts
            .spec
            .take()
            .ok_or(Failure::Missing("its specification"))?;
        spec.expires_at_boot_ms = deadline.at.map_or(0, |at| at.0);
        let launch = Launch {
            dir: host::monitor(&sandbox.dir),
            spec,
            nursery: host.nursery.clone(),
        };
        host.prime(&*self::spec(sandbox)?);
        sandbox.parts.told = Some(deadline);
        sandbox.parts.monitor = Some(monitor::launch(launch).await.map_err(Failure::from)?);
    }
    let monitor = sandbox
        .parts
        .monitor
        .as_ref()
        .ok_or(Failure::Missing("its monitor"))?;
    let started = async {
        match monitor.started().await {
            state if state.phase() == MonitorPhase::Running => state,
            // Its end is decided; how it ends is known in a moment.
            _ => monitor.ended_or_lost().await,
        }
    };
    let started = async {
        tokio::pin!(started);
        match tokio::time::timeout(LONGEST_TURN, &mut started).await {
            Ok(state) => state,
            Err(_) => {
                drop(turn);
                started.await
            }
        }
    };
    let state = tokio::select! {
        state = started => state,
        () = interrupt.arrived() => return Err(Halt::Interrupted),
        () = tokio::time::sleep(timeout) => return Err(Failure::StartTimeout(timeout).into()),
    };
    sandbox.take_in(&state, &order);
    if let Some(outcome) = sandbox.observed.outcome.take() {
        return Err(Halt::Ended(outcome));
    }
    timed(sandbox, "start", begun, Instant::now());
    sandbox.record(RecordStage::Started).map_err(Failure::from)?;
    sandbox.tell();
    Ok(())
}

/// One of those that start at the same time, unless that is in vain.
async fn turn<'a>(host: &'a Host, interrupt: &mut Interrupt) -> Result<SemaphorePermit<'a>, Halt> {
    tokio::select! {
        // It is never closed.
        turn = host.starts.acquire() => turn.map_err(|_| Halt::Interrupted),
        () = interrupt.arrived() => Err(Halt::Interrupted),
    }
}

fn spec(sandbox: &Sandbox) -> Result<Arc<SandboxSpec>, Failure> {
    sandbox.spec.clone().ok_or(Failure::Missing("what it shall run"))
}

/// A sandbox's id as a host name: what DNS does not allow becomes `-`, and what is too long is cut.
fn hostname(id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = id.chars().map(allowed).take(MAX_HOSTNAME).collect();
    let name = name.trim_end_matches('-');
    if name.is_empty() {
        "sandbox".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_is_one_label_of_dns() {
        #[track_caller]
        fn check(id: &str, want: &str) {
            assert_eq!(hostname(id), want);
        }
        check("web-1", "web-1");
        check("a_b.c", "a-b-c");
        check("a_", "a");
        check(&"x".repeat(128), &"x".repeat(63));
    }
}
