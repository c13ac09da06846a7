//! From faults to gRPC statuses: the only such place. `cli/src/client/fault.rs` is the other end.

use crate::access::{Denied, JoinError};
use crate::api::Fault;
use crate::raft::{Leader, MemberError, ProposeError, ReadError};
use crate::session::{RelayError, SessionError};
use prost::Message;
use proto::wire::{self, error_detail::Detail, rejected::Code as Rejection};
use tonic::{Code, Status};

/// What a user is told.
pub(super) fn status(fault: &Fault) -> Status {
    let status = plain_status(fault);
    let Some(after) = fault.retry_after() else {
        return status;
    };
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let detail = Detail::RetryAfter(wire::RetryAfter { after_ms });
    Status::with_details(status.code(), status.message(), encoded(detail))
}

fn plain_status(fault: &Fault) -> Status {
    let message = fault.to_string();
    match fault {
        Fault::RequestId(_) | Fault::Convert(_) | Fault::Manifest(_) | Fault::Invalid(_) => {
            Status::invalid_argument(message)
        }
        Fault::NotFound { .. } => Status::not_found(message),
        Fault::Rejected(rejected) => rejection(rejected),
        Fault::NotLeader(leader) => not_leader(message, leader.as_ref()),
        Fault::Propose(error) => Status::new(propose_code(error), message),
        Fault::Read(ReadError::Overloaded { .. }) => Status::resource_exhausted(message),
        // Another replica may know, or this one in a moment.
        Fault::Read(_) | Fault::Stopping | Fault::Forward { .. } | Fault::Away(_) => {
            Status::unavailable(message)
        }
        // Another replica's disk may do.
        Fault::Backup(_) | Fault::BackupFiles(_) => Status::unavailable(message),
        Fault::Member(error) => Status::new(member_code(error), message),
        Fault::Init(_) | Fault::NotPlaced(_) | Fault::IsOver { .. } => Status::failed_precondition(message),
        Fault::Relay { source, .. } => {
            let status = relay_status(source);
            Status::with_details(status.code(), message, status.details().to_vec().into())
        }
        Fault::Refused(_) => Status::resource_exhausted(message),
        Fault::TooOld(_) => Status::out_of_range(message),
        Fault::Unread(_) => Status::aborted(message),
        Fault::Watches(_) => Status::resource_exhausted(message),
        Fault::Denied(denied) => denied_status(denied),
        Fault::Join(error) => match error {
            JoinError::Insecure | JoinError::Exists(_) | JoinError::Other { .. } => {
                Status::failed_precondition(message)
            }
            JoinError::Gone(_) => Status::permission_denied(message),
            JoinError::Sign(_) => Status::invalid_argument(message),
            // Another replica may have it.
            JoinError::NoAuthority | JoinError::Authority(_) => Status::unavailable(message),
        },
    }
}

/// What somebody is told who is turned away.
pub(super) fn denied_status(denied: &Denied) -> Status {
    let message = denied.to_string();
    match denied {
        Denied::NoToken
        | Denied::Malformed(_)
        | Denied::Unknown
        | Denied::Expired(_)
        | Denied::ForJoining(_) => Status::unauthenticated(message),
        Denied::Role { .. } | Denied::NotNode(_) | Denied::NotReplica(_) => {
            Status::permission_denied(message)
        }
        Denied::NotYet => Status::unavailable(message),
        Denied::TooMany { .. } => Status::resource_exhausted(message),
    }
}

/// What an agent is told on its session.
pub(super) fn session_status(error: &SessionError) -> Status {
    let message = error.to_string();
    match error {
        SessionError::NotLeader { leader } => not_leader(message, leader.as_ref()),
        SessionError::Stopping | SessionError::Stalled(_) | SessionError::Gone(_) => {
            Status::unavailable(message)
        }
        SessionError::Superseded(_) => Status::aborted(message),
        SessionError::Foreign { .. } => Status::permission_denied(message),
        SessionError::NoHello | SessionError::Hello(_) => Status::invalid_argument(message),
        SessionError::Register { source, .. } => match source {
            ProposeError::Rejected(rejected) => Status::new(rejection(rejected).code(), message),
            error => Status::new(propose_code(error), message),
        },
    }
}

/// What an agent or a user is told of a relay.
pub(super) fn relay_status(error: &RelayError) -> Status {
    let message = error.to_string();
    match error {
        RelayError::Away(_) | RelayError::Silent(_) | RelayError::Broken { .. } => {
            Status::unavailable(message)
        }
        RelayError::TooMany => Status::resource_exhausted(message),
        RelayError::Input(_) => Status::invalid_argument(message),
        RelayError::Agent { .. } | RelayError::Refused { .. } => Status::failed_precondition(message),
        RelayError::Unknown => Status::not_found(message),
        RelayError::Session(error) => session_status(error),
    }
}

fn rejection(rejected: &wire::Rejected) -> Status {
    let message = rejected.message.clone();
    match rejected.code() {
        Rejection::NotFound => Status::not_found(message),
        Rejection::Conflict if rejected.fields.is_empty() => Status::failed_precondition(message),
        Rejection::Conflict => {
            let fields = rejected.fields.clone();
            detailed(message, Detail::Immutable(wire::Immutable { fields }))
        }
        Rejection::Stale => Status::aborted(message),
        Rejection::Invalid => Status::invalid_argument(message),
        Rejection::Unspecified => Status::internal(message),
    }
}

fn member_code(error: &MemberError) -> Code {
    match error {
        MemberError::Id | MemberError::Url { .. } => Code::InvalidArgument,
        MemberError::Unknown(_) => Code::NotFound,
        MemberError::Removed { .. }
        | MemberError::Elsewhere { .. }
        | MemberError::Address { .. }
        | MemberError::NoAnswer { .. }
        | MemberError::Foreign { .. }
        | MemberError::Level { .. }
        | MemberError::Last(_)
        | MemberError::NoQuorum { .. }
        | MemberError::NoSuccessor
        | MemberError::NoVote(_)
        | MemberError::Unreachable(_)
        | MemberError::Refused(_) => Code::FailedPrecondition,
        MemberError::NotTaken(_) => Code::Aborted,
        MemberError::NotLeader { .. }
        | MemberError::Number(_)
        | MemberError::Undecided
        | MemberError::Stopped => Code::Unavailable,
    }
}

fn propose_code(error: &ProposeError) -> Code {
    match error {
        ProposeError::NotLeader { .. } | ProposeError::Unknown { .. } | ProposeError::Stopped => {
            Code::Unavailable
        }
        ProposeError::Overloaded { .. } => Code::ResourceExhausted,
        ProposeError::TooLarge { .. } => Code::InvalidArgument,
        // Clients tell it at once instead of trying again: somebody must do something about it.
        ProposeError::Rejected(_) | ProposeError::NearlyFull(_) | ProposeError::Level { .. } => {
            Code::FailedPrecondition
        }
    }
}

fn not_leader(message: String, leader: Option<&Leader>) -> Status {
    let not_leader = match leader {
        Some(leader) => wire::NotLeader {
            leader_id: leader.id,
            endpoint: leader.endpoint.clone(),
        },
        None => wire::NotLeader::default(),
    };
    detailed(message, Detail::NotLeader(not_leader))
}

fn detailed(message: String, detail: Detail) -> Status {
    Status::with_details(Code::FailedPrecondition, message, encoded(detail))
}

fn encoded(detail: Detail) -> tonic::codegen::Bytes {
    let detail = wire::ErrorDetail { detail: Some(detail) };
    detail.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::NodeId;

    fn detail(status: &Status) -> Option<Detail> {
        wire::ErrorDetail::decode(status.details())
            .expect("the detail is one of ours")
            .detail
    }

    #[track_caller]
    fn check(fault: Fault, code: Code) {
        let status = status(&fault);
        assert_eq!(status.code(), code, "{fault:?}");
        assert!(!status.message().is_empty(), "{fault:?} says nothing");
    }

    fn rejected(code: Rejection) -> Fault {
        Fault::Rejected(wire::Rejected {
            code: code.into(),
            message: "why".to_owned(),
            fields: Vec::new(),
        })
    }

    #[test]
    fn fault_has_the_code_that_clients_act_on() {
        let node: NodeId = "n".parse().expect("the id is good");
        let logs = |source| Fault::Relay {
            what: "logs",
            id: "s".to_owned(),
            source,
        };
        check(Fault::RequestId(String::new()), Code::InvalidArgument);
        check(rejected(Rejection::NotFound), Code::NotFound);
        check(rejected(Rejection::Conflict), Code::FailedPrecondition);
        check(rejected(Rejection::Stale), Code::Aborted);
        check(rejected(Rejection::Invalid), Code::InvalidArgument);
        check(
            Fault::Propose(ProposeError::Overloaded { waiting: 1 }),
            Code::ResourceExhausted,
        );
        check(Fault::Propose(ProposeError::Stopped), Code::Unavailable);
        let too_old = crate::raft::TooOld {
            since: 1,
            oldest: 2,
            newest: 3,
        };
        check(Fault::TooOld(too_old), Code::OutOfRange);
        check(Fault::Watches(1), Code::ResourceExhausted);
        check(logs(RelayError::Away(node)), Code::Unavailable);
        check(logs(RelayError::TooMany), Code::ResourceExhausted);
    }

    #[test]
    fn who_is_refused_for_now_is_told_when_to_come_back() {
        let overloaded = status(&Fault::Propose(ProposeError::Overloaded { waiting: 1 }));
        assert_eq!(
            detail(&overloaded),
            Some(Detail::RetryAfter(wire::RetryAfter { after_ms: 1_000 }))
        );
    }

    #[test]
    fn immutable_fields_are_told_in_the_detail() {
        let status = status(&Fault::Rejected(wire::Rejected {
            code: Rejection::Conflict.into(),
            message: "why".to_owned(),
            fields: vec!["spec.egress".to_owned()],
        }));
        let fields = vec!["spec.egress".to_owned()];
        assert_eq!(
            detail(&status),
            Some(Detail::Immutable(wire::Immutable { fields }))
        );
    }

    #[test]
    fn leader_is_told_wherever_a_request_turns_out_to_need_it() {
        let leader = || {
            Some(Leader {
                id: 2,
                endpoint: "http://b:1".to_owned(),
            })
        };
        let expected = Detail::NotLeader(wire::NotLeader {
            leader_id: 2,
            endpoint: "http://b:1".to_owned(),
        });
        let lost = RelayError::Session(SessionError::NotLeader { leader: leader() });
        for status in [
            status(&Fault::NotLeader(leader())),
            session_status(&SessionError::NotLeader { leader: leader() }),
            status(&Fault::Relay {
                what: "logs",
                id: "s".to_owned(),
                source: lost,
            }),
        ] {
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert_eq!(detail(&status).as_ref(), Some(&expected));
        }
    }
}
