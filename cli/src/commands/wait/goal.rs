//! What is awaited, and whether an object is there, may still come there, or never will. Pure.

use proto::object::Kind;
use proto::spec::OnNodeLoss;
use proto::status::{NodeState, Phase};
use proto::wire::{self, object::Object};
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Phase(Phase),
    /// Running, or has succeeded already.
    Started,
    /// Succeeded or Failed.
    Ended,
    Deleted,
    Node(NodeState),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    Reached,
    Waiting,
    /// And why.
    Never(String),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(phase) = lower.strip_prefix("phase=") {
            return parse_phase(phase).map(Self::Phase);
        }
        if let Some(state) = lower.strip_prefix("state=") {
            return match state {
                "ready" => Ok(Self::Node(NodeState::Ready)),
                "notready" => Ok(Self::Node(NodeState::NotReady)),
                "lost" => Ok(Self::Node(NodeState::Lost)),
                _ => Err(format!(
                    "`{state}` is no state of a node: Ready, NotReady or Lost"
                )),
            };
        }
        match lower.as_str() {
            "ended" => Ok(Self::Ended),
            "deleted" | "delete" => Ok(Self::Deleted),
            _ => Err(format!(
                "`{text}`: write phase=Running (or another phase), Ended, deleted, or state=Ready for a node"
            )),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase) => write!(f, "{phase}"),
            Self::Started => f.write_str("started"),
            Self::Ended => f.write_str("ended"),
            Self::Deleted => f.write_str("gone"),
            Self::Node(state) => write!(f, "{state}"),
        }
    }
}

/// A phase by its name, in any case.
///
/// # Errors
/// A text for the user that names the phases.
pub fn parse_phase(text: &str) -> Result<Phase, String> {
    Phase::ALL
        .into_iter()
        .find(|phase| phase.to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| {
            let names: Vec<String> = Phase::ALL.iter().map(ToString::to_string).collect();
            format!("`{text}` is no phase: {}", names.join(", "))
        })
}

impl Goal {
    /// # Errors
    /// A text for the user where objects of this kind have no such state.
    pub fn fits(self, kind: Kind) -> Result<(), String> {
        match (self, kind) {
            (Self::Deleted, _)
            | (Self::Phase(_) | Self::Started | Self::Ended, Kind::Sandbox)
            | (Self::Node(_), Kind::Node) => Ok(()),
            (Self::Phase(_) | Self::Started | Self::Ended, Kind::Node | Kind::External) => {
                Err("only sandboxes have phases; wait for state=Ready or deleted".to_owned())
            }
            (Self::Node(_), Kind::Sandbox | Kind::External) => {
                Err("only nodes have a state; wait for phase=Running, Ended or deleted".to_owned())
            }
        }
    }

    /// Where an object that is there stands.
    #[must_use]
    pub fn judge(self, object: &wire::Object) -> Progress {
        match &object.object {
            Some(Object::Sandbox(sandbox)) => self.judge_sandbox(sandbox),
            Some(Object::Node(node)) => match self {
                Self::Node(state) if NodeState::try_from(node.state()).ok() == Some(state) => {
                    Progress::Reached
                }
                Self::Node(_) | Self::Phase(_) | Self::Started | Self::Ended | Self::Deleted => {
                    Progress::Waiting
                }
            },
            Some(Object::External(_)) | None => Progress::Waiting,
        }
    }

    /// Where one that is gone stands.
    #[must_use]
    pub fn judge_gone(self) -> Progress {
        match self {
            Self::Deleted => Progress::Reached,
            Self::Phase(_) | Self::Started | Self::Ended | Self::Node(_) => {
                Progress::Never("it was deleted".to_owned())
            }
        }
    }

    fn judge_sandbox(self, sandbox: &wire::Sandbox) -> Progress {
        let status = sandbox.status.clone().unwrap_or_default();
        let Ok(now) = Phase::try_from(status.phase()) else {
            return Progress::Waiting;
        };
        let reached = match self {
            Self::Phase(wanted) => now == wanted,
            Self::Started => matches!(now, Phase::Running | Phase::Succeeded),
            Self::Ended => now.has_ended(),
            Self::Deleted | Self::Node(_) => false,
        };
        if reached {
            return Progress::Reached;
        }
        // Where a lost node's sandboxes are placed again, the early phases come back.
        let comes_back = sandbox.spec.as_ref().is_some_and(|spec| {
            OnNodeLoss::try_from(spec.on_node_loss()).ok() == Some(OnNodeLoss::Reschedule)
        });
        let latest = match self {
            Self::Phase(Phase::Pending | Phase::Scheduled) if comes_back => Phase::Running,
            Self::Phase(Phase::Pending) => return never(now, &status),
            Self::Phase(Phase::Scheduled) => Phase::Pending,
            Self::Phase(Phase::Running) | Self::Started => Phase::Scheduled,
            Self::Phase(Phase::Succeeded | Phase::Failed) | Self::Ended => Phase::Running,
            Self::Phase(Phase::Deleting) | Self::Deleted | Self::Node(_) => Phase::Deleting,
        };
        if now <= latest {
            Progress::Waiting
        } else {
            never(now, &status)
        }
    }
}

fn never(now: Phase, status: &wire::SandboxStatus) -> Progress {
    Progress::Never(format!("it is {}", with_reason(now, status)))
}

fn with_reason(now: Phase, status: &wire::SandboxStatus) -> String {
    let mut text = now.to_string();
    if let Ok(reason) = proto::status::Reason::try_from(status.reason()) {
        text = format!("{text} ({reason})");
    }
    if !status.last_error.is_empty() {
        text = format!("{text}: {}", status.last_error);
    }
    text
}

/// One line on where an object stands.
pub(super) fn describe(object: &wire::Object) -> String {
    match &object.object {
        Some(Object::Sandbox(sandbox)) => {
            let status = sandbox.status.clone().unwrap_or_default();
            match Phase::try_from(status.phase()) {
                Ok(phase) => with_reason(phase, &status),
                Err(_) => "a phase this program does not know".to_owned(),
            }
        }
        Some(Object::Node(node)) => match NodeState::try_from(node.state()) {
            Ok(state) => state.to_string(),
            Err(_) => "a state this program does not know".to_owned(),
        },
        Some(Object::External(_)) | None => "there".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(phase: Phase, on_node_loss: OnNodeLoss) -> wire::Object {
        wire::Object {
            object: Some(Object::Sandbox(wire::Sandbox {
                spec: Some(wire::SandboxSpec {
                    on_node_loss: wire::OnNodeLoss::from(on_node_loss).into(),
                    ..Default::default()
                }),
                status: Some(wire::SandboxStatus {
                    phase: wire::Phase::from(phase).into(),
                    ..Default::default()
                }),
                ..Default::default()
            })),
        }
    }

    /// `row`: for Pending, Scheduled, Running, Succeeded, Failed, Deleting: + reached, . waiting, ! never.
    #[track_caller]
    fn check(goal: &str, on_node_loss: OnNodeLoss, row: &str) {
        let goal: Goal = goal.parse().unwrap();
        let got: String = Phase::ALL
            .into_iter()
            .map(|phase| match goal.judge(&sandbox(phase, on_node_loss)) {
                Progress::Reached => '+',
                Progress::Waiting => '.',
                Progress::Never(_) => '!',
            })
            .collect();
        assert_eq!(got, row, "{goal:?}");
    }

    #[test]
    fn goals_are_reached_awaited_or_given_up_by_phase() {
        check("phase=Pending", OnNodeLoss::Fail, "+!!!!!");
        check("phase=scheduled", OnNodeLoss::Fail, ".+!!!!");
        check("phase=Running", OnNodeLoss::Fail, "..+!!!");
        check("phase=Succeeded", OnNodeLoss::Fail, "...+!!");
        check("phase=Failed", OnNodeLoss::Fail, "...!+!");
        check("phase=Deleting", OnNodeLoss::Fail, ".....+");
        check("Ended", OnNodeLoss::Fail, "...++!");
        check("deleted", OnNodeLoss::Fail, "......");
    }

    #[test]
    fn early_phases_of_a_sandbox_that_is_placed_again_may_come_back() {
        check("phase=Pending", OnNodeLoss::Reschedule, "+..!!!");
        check("phase=Scheduled", OnNodeLoss::Reschedule, ".+.!!!");
        check("phase=Running", OnNodeLoss::Reschedule, "..+!!!");
    }

    #[test]
    fn object_that_is_gone_fulfils_only_its_deletion() {
        assert_eq!(Goal::Deleted.judge_gone(), Progress::Reached);
        assert!(matches!(Goal::Ended.judge_gone(), Progress::Never(_)));
    }

    #[test]
    fn unknown_goals_are_refused_with_the_choices() {
        assert!("phase=Done".parse::<Goal>().unwrap_err().contains("Succeeded"));
        assert!("running".parse::<Goal>().unwrap_err().contains("phase=Running"));
        assert!("state=ok".parse::<Goal>().unwrap_err().contains("NotReady"));
    }
}
