//! Waits until a sandbox that was started may be told to run.

use super::{Failure, Halt, timed};
use crate::record::RecordStage;
use crate::runtime::probe;
use crate::sandbox::{Interrupt, Sandbox};
use proto::wire;
use std::time::Instant;

/// Without a probe, at once.
pub(super) async fn await_ready(sandbox: &mut Sandbox, interrupt: &mut Interrupt) -> Result<(), Halt> {
    let begun = Instant::now();
    let monitor = sandbox
        .parts
        .monitor
        .as_ref()
        .ok_or(Failure::Missing("its monitor"))?;
    let wanted = sandbox
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_probe.as_ref());
    if let Some(wanted) = wanted {
        let ip = sandbox.parts.ip.ok_or(Failure::Missing("its address"))?;
        let order = interrupt.0.borrow().clone();
        tokio::select! {
            passed = probe::probe(wanted, ip) => passed.map_err(|failure| Failure::Probe(Box::new(failure)))?,
            ended = monitor.ended_or_lost() => {
                sandbox.take_in(&ended, &order);
                let outcome = sandbox.observed.outcome.take();
                return Err(outcome.map_or(Halt::Interrupted, Halt::Ended));
            }
            () = interrupt.arrived() => return Err(Halt::Interrupted),
        }
        timed(sandbox, "ready", begun, Instant::now());
    }
    sandbox.report.phase = wire::Phase::Running.into();
    sandbox.record(RecordStage::Running).map_err(Failure::from)?;
    sandbox.tell();
    Ok(())
}
