//! What can be asked of the state, converted from the log's form and checked.

use super::level::Level;
use super::placement::Placement;
use super::replica::Claim;
use super::token::Token;
use proto::convert::ConvertError;
use proto::id::{NodeId, SandboxId, Uid};
use proto::object::Kind;
use proto::policy::PolicyChange;
use proto::spec::{Labels, Manifest};
use proto::status::{ContainerStatus, NodeReport, NodeState, Phase, Reason};
use proto::units::Timestamp;
use proto::wire::{self, command::Op};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// One change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// By a user: create or change.
    Apply {
        manifest: Manifest,
        replace: bool,
        /// Refused unless the object has this resource version; 0: unless there is none.
        expected_version: Option<u64>,
        /// Of the request, for logs; empty: none.
        trace_id: String,
    },
    /// By a user.
    Delete { kind: Kind, id: String, force: bool },
    /// By a session: its agent says what the node is.
    RegisterNode {
        id: NodeId,
        labels: Labels,
        report: NodeReport,
    },
    /// By the leader's controller: heard of, or no longer.
    SetNodeState {
        id: NodeId,
        state: NodeState,
        reason: String,
    },
    /// By a user: cordons, drains or uncordons.
    ScheduleNode {
        id: NodeId,
        unschedulable: bool,
        /// Begins a drain that ends after this.
        drain: Option<Duration>,
    },
    /// By the leader's controller: the drain of this node may be over.
    EndDrain(NodeId),
    /// By the leader's scheduler.
    Place(Vec<Placement>),
    /// By sessions: what an agent observes.
    ReportStatus { node: NodeId, reports: Vec<Report> },
    /// By the leader's controller: these may have outlived their TTL, or as ended ones `retention`.
    Expire {
        sandboxes: Vec<Uid>,
        retention: Duration,
    },
    /// By the leader's scheduler: why they wait.
    ExplainPending(Vec<Explanation>),
    /// By a user: what sandboxes may loosen from now on.
    SetPolicy(PolicyChange),
    /// By an administrator; the first one of a cluster by its leader.
    CreateToken {
        token: Token,
        life: Option<Duration>,
        first: bool,
    },
    /// By an administrator.
    RevokeToken { id: String },
    /// By the leader, for a machine that has shown the token.
    RedeemToken {
        id: String,
        grant: wire::Grant,
        machine: String,
    },
    /// By the leader: who was there.
    NoteTokenUses(Vec<(String, Timestamp)>),
    /// By the leader, for a replica that is to join.
    ClaimReplica(Claim),
    /// By the leader, before a replica is removed.
    RetireReplica { id: u64 },
    /// By the leader, once all members can apply commands of this level.
    RaiseLevel(Level),
    /// By an administrator: all replicas sum what they hold.
    CheckState,
}

/// What an agent observes of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub id: SandboxId,
    pub uid: Uid,
    /// [`Phase::Deleting`] says that nothing of it is left on the node.
    pub phase: Phase,
    pub reason: Option<Reason>,
    pub message: String,
    pub ip: Option<IpAddr>,
    pub containers: Vec<ContainerStatus>,
    /// Milliseconds per stage.
    pub timings: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub uid: Uid,
    pub message: String,
}

impl TryFrom<wire::Command> for Command {
    type Error = ConvertError;

    fn try_from(command: wire::Command) -> Result<Self, ConvertError> {
        let missing = |field| ConvertError::Missing { field };
        Ok(match command.op.ok_or(missing("op"))? {
            Op::Apply(apply) => Self::Apply {
                manifest: apply.manifest.ok_or(missing("manifest"))?.try_into()?,
                replace: apply.replace,
                expected_version: apply.expected_version,
                trace_id: apply.trace_id,
            },
            Op::Delete(delete) => Self::Delete {
                kind: kind(delete.kind)?,
                id: delete.id,
                force: delete.force,
            },
            Op::RegisterNode(register) => Self::RegisterNode {
                id: node_id(register.node_id)?,
                labels: register.labels,
                report: register.report.ok_or(missing("report"))?.try_into()?,
            },
            Op::SetNodeState(set) => Self::SetNodeState {
                id: node_id(set.node_id)?,
                state: node_state(set.state)?,
                reason: set.reason,
            },
            Op::ScheduleNode(schedule) => Self::ScheduleNode {
                id: node_id(schedule.node_id)?,
                unschedulable: schedule.unschedulable,
                drain: schedule.drain_ms.map(Duration::from_millis),
            },
            Op::EndDrain(end) => Self::EndDrain(node_id(end.node_id)?),
            Op::Place(place) => Self::Place(all(place.placements)?),
            Op::ReportStatus(report) => Self::ReportStatus {
                node: node_id(report.node_id)?,
                reports: all(report.reports)?,
            },
            Op::Expire(expire) => Self::Expire {
                sandboxes: expire.sandboxes.iter().map(|s| Uid(s.uid)).collect(),
                retention: Duration::from_millis(expire.ended_retention_ms),
            },
            Op::ExplainPending(explain) => Self::ExplainPending(
                explain
                    .explanations
                    .into_iter()
                    .map(|e| Explanation {
                        uid: Uid(e.uid),
                        message: e.message,
                    })
                    .collect(),
            ),
            Op::SetPolicy(change) => Self::SetPolicy(change.into()),
            Op::CreateToken(create) => Self::CreateToken {
                token: create.token.ok_or(missing("token"))?.try_into()?,
                life: (create.life_ms != 0).then(|| Duration::from_millis(create.life_ms)),
                first: create.first,
            },
            Op::RevokeToken(revoke) => Self::RevokeToken { id: revoke.id },
            Op::RedeemToken(redeem) => Self::RedeemToken {
                grant: redeem.grant(),
                id: redeem.id,
                machine: redeem.machine,
            },
            Op::NoteTokenUses(note) => Self::NoteTokenUses(
                note.uses
                    .into_iter()
                    .map(|used| (used.id, Timestamp(used.at_ms)))
                    .collect(),
            ),
            Op::ClaimReplica(claim) => Self::ClaimReplica(Claim {
                id: claim.id,
                by: claim.by,
                again: claim.again,
                highest_member: claim.highest_member,
            }),
            Op::RetireReplica(retire) => Self::RetireReplica { id: retire.id },
            Op::CheckState(wire::CheckState {}) => Self::CheckState,
            Op::RaiseLevel(raise) => Self::RaiseLevel(Level(raise.level)),
        })
    }
}

impl TryFrom<wire::SandboxReport> for Report {
    type Error = ConvertError;

    fn try_from(report: wire::SandboxReport) -> Result<Self, ConvertError> {
        // A status has the same fields: its conversion checks them.
        let status: proto::status::SandboxStatus = wire::SandboxStatus {
            phase: report.phase,
            reason: report.reason,
            last_error: report.message,
            ip: report.ip,
            containers: report.containers,
            timings_ms: report.timings_ms,
            ..Default::default()
        }
        .try_into()?;
        Ok(Self {
            id: sandbox_id(report.sandbox_id)?,
            uid: Uid(report.uid),
            phase: status.phase,
            reason: status.reason,
            message: status.last_error,
            ip: status.ip,
            containers: status.containers,
            timings: status.timings,
        })
    }
}

impl TryFrom<wire::Placement> for Placement {
    type Error = ConvertError;

    fn try_from(placement: wire::Placement) -> Result<Self, ConvertError> {
        Ok(Self {
            uid: Uid(placement.uid),
            node: node_id(placement.node_id)?,
            ports: all(placement.ports)?,
        })
    }
}

fn all<W, T>(items: Vec<W>) -> Result<Vec<T>, ConvertError>
where
    T: TryFrom<W, Error = ConvertError>,
{
    items.into_iter().map(T::try_from).collect()
}

fn node_id(value: String) -> Result<NodeId, ConvertError> {
    value.parse().map_err(|source| ConvertError::Id {
        field: "node_id",
        value,
        source,
    })
}

fn sandbox_id(value: String) -> Result<SandboxId, ConvertError> {
    value.parse().map_err(|source| ConvertError::Id {
        field: "sandbox_id",
        value,
        source,
    })
}

fn kind(value: i32) -> Result<Kind, ConvertError> {
    let unknown = |_| ConvertError::Unknown { field: "kind", value };
    wire::Kind::try_from(value).map_err(unknown)?.try_into()
}

fn node_state(value: i32) -> Result<NodeState, ConvertError> {
    let unknown = |_| ConvertError::Unknown {
        field: "state",
        value,
    };
    wire::NodeState::try_from(value).map_err(unknown)?.try_into()
}
