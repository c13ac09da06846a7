//! What is said of a monitor where it does not speak for itself.

use proto::wire::{
    ContainerState, ContainerStatus, MonitorOutcome, MonitorPhase, MonitorSpec, MonitorState, Reason,
};

/// Before it has said anything.
pub(super) fn starting(spec: &MonitorSpec) -> MonitorState {
    let waiting = spec.containers.iter().map(|container| ContainerStatus {
        name: container.name.clone(),
        state: ContainerState::Waiting.into(),
        ..Default::default()
    });
    MonitorState {
        containers: waiting.collect(),
        phase: MonitorPhase::Starting.into(),
        expires_at_boot_ms: spec.expires_at_boot_ms,
        ..Default::default()
    }
}

/// After it has gone without having ended; `words` are the last of its log.
pub(super) fn lost(known: MonitorState, words: &str) -> MonitorState {
    let colon = if words.is_empty() { "" } else { ": " };
    MonitorState {
        sequence: known.sequence + 1,
        phase: MonitorPhase::Lost.into(),
        outcome: MonitorOutcome::Failed.into(),
        reason: Reason::AgentError.into(),
        message: format!("the sandbox's monitor was killed or has failed{colon}{words}"),
        ..known
    }
}

/// Nothing comes after it.
pub(super) fn is_final(phase: MonitorPhase) -> bool {
    match phase {
        MonitorPhase::Ended | MonitorPhase::Lost => true,
        MonitorPhase::Unspecified
        | MonitorPhase::Starting
        | MonitorPhase::Running
        | MonitorPhase::Stopping => false,
    }
}
