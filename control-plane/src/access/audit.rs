//! One line per change that somebody asked for: who, from where, what, and how it ended. Of the target `audit`, so that
//! a filter can keep or divert it; with `--log-format json` each is an object. Never carries secrets, nor contents.

use super::Caller;
use crate::api::Fault;

/// The target of every line.
pub const TARGET: &str = "audit";

/// Tells of a change that was asked for.
pub(crate) fn note<T>(caller: &Caller, act: &'static str, what: &str, ended: &Result<T, Fault>) {
    let (who, source) = (&caller.who, caller.source);
    match ended {
        Ok(_) => tracing::info!(target: TARGET, %who, %source, act, what, outcome = "done"),
        Err(fault @ Fault::NotLeader(_)) => {
            // Nothing was decided here: the client asks the leader, which tells of it.
            tracing::debug!(target: TARGET, %who, %source, act, what, outcome = "redirected", reason = %fault);
        }
        Err(fault) => {
            tracing::info!(target: TARGET, %who, %source, act, what, outcome = "failed", reason = %fault);
        }
    }
}

/// Tells of somebody who was turned away from a method.
pub(crate) fn denied(caller: &Caller, method: &str, why: &super::Denied) {
    let (who, source) = (&caller.who, caller.source);
    tracing::info!(target: TARGET, %who, %source, act = method, outcome = "denied", reason = %why);
}
