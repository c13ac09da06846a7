//! What a failed attempt means, and how a request ends that did not succeed.

use super::Endpoint;
use identity::token::TokenError;
use prost::Message;
use proto::wire::{self, error_detail::Detail};
use std::error::Error;
use std::time::Duration;
use tonic::{Code, Status};

/// How a request ended that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no replica was named")]
    NoServer,
    #[error("`{text}` is no address of a replica: {why}")]
    Endpoint { text: String, why: String },
    #[error(
        "replicas speak TLS, and no certificate authority is known to trust: name the cluster's with --ca FILE or SBX_CA \
         (`sbxctl cluster init` has written it as ca.crt); replicas that run with --insecure are http://HOST:PORT"
    )]
    NoAuthority,
    #[error("{0}")]
    Authority(String),
    #[error("the token {0}")]
    Token(TokenError),
    #[error("this cluster runs with --insecure: its machines need no token to join")]
    NoJoining,
    #[error(
        "{endpoint} does not prove that it belongs to the cluster: {why}\nIs --ca (or SBX_CA) the authority of this cluster, and --server an address that its certificates name?"
    )]
    Untrusted { endpoint: Endpoint, why: String },
    /// The cluster has decided: asking again gives the same answer.
    #[error("{act}: {message}{}", next_step(*.code, fields))]
    Refused {
        act: String,
        code: Code,
        message: String,
        /// Paths of the fields that can't be changed.
        fields: Vec<String>,
    },
    /// No replica has decided in time. A write may have taken effect, or may do so yet.
    #[error(
        "{act}: no replica could answer within {}{}\nSee `sbxctl get cluster --stale`, or allow more time with --request-timeout.{}",
        humantime::format_duration(*waited),
        list(attempts),
        if *write { "\nIt is not known whether the change took effect; asking for it again is safe." } else { "" }
    )]
    NoAnswer {
        act: String,
        waited: Duration,
        /// What each replica said last.
        attempts: Vec<(Endpoint, String)>,
        write: bool,
    },
    /// The way to what was begun is gone, and it is ended there. It may have done something before.
    #[error("{act}: broken off: {why}")]
    Broken { act: String, why: String },
}

fn list(attempts: &[(Endpoint, String)]) -> String {
    attempts
        .iter()
        .map(|(endpoint, why)| format!("\n  {endpoint}: {why}"))
        .collect()
}

fn next_step(code: Code, fields: &[String]) -> String {
    if !fields.is_empty() {
        return format!(
            "\n  can't be changed: {}; delete it and apply again, or apply with --replace",
            fields.join(", ")
        );
    }
    if code == Code::Unimplemented {
        return " (is this the address of a replica, and of this version?)".to_owned();
    }
    String::new()
}

impl ClientError {
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// The next request would wait as long and fail as well.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::NoServer
            | Self::Endpoint { .. }
            | Self::NoAuthority
            | Self::Authority(_)
            | Self::Token(_)
            | Self::NoJoining
            | Self::Untrusted { .. }
            | Self::Broken { .. }
            | Self::Refused { .. } => false,
        }
    }

    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::NoServer
            | Self::Endpoint { .. }
            | Self::NoAuthority
            | Self::Authority(_)
            | Self::Token(_)
            | Self::NoJoining
            | Self::Untrusted { .. }
            | Self::Broken { .. }
            | Self::NoAnswer { .. } => None,
        }
    }

    pub(super) fn refused(act: &str, status: &Status) -> Self {
        let fields = match detail(status) {
            Some(Detail::Immutable(immutable)) => immutable.fields,
            Some(Detail::NotLeader(_) | Detail::RetryAfter(_)) | None => Vec::new(),
        };
        Self::Refused {
            act: act.to_owned(),
            code: status.code(),
            message: text(status),
            fields,
        }
    }
}

/// What to do about a failed attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// That replica does not lead; this one does, as far as it knows.
    Redirect(Option<Endpoint>),
    /// Nobody has decided: ask again, elsewhere or later.
    Retry,
    /// More is asked for than the cluster takes at present: the same replica, after this time.
    Later(Duration),
    /// Decided.
    Final,
    /// It may be anybody: nothing more is said to it.
    Untrusted(String),
}

pub(super) fn judge(status: &Status) -> Verdict {
    match detail(status) {
        Some(Detail::NotLeader(not_leader)) => return Verdict::Redirect(not_leader.endpoint.parse().ok()),
        Some(Detail::Immutable(_)) => return Verdict::Final,
        Some(Detail::RetryAfter(retry)) => return Verdict::Later(Duration::from_millis(retry.after_ms)),
        None => {}
    }
    // A status with a source was made on this side, of a fault of the transport.
    if let Some(why) = status.source().and_then(identity::dial::untrusted) {
        return Verdict::Untrusted(why);
    }
    if status.source().is_some() {
        return Verdict::Retry;
    }
    match status.code() {
        // Without a word on when: soon.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::ResourceExhausted => Verdict::Retry,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Verdict::Final,
    }
}

fn detail(status: &Status) -> Option<Detail> {
    if status.details().is_empty() {
        return None;
    }
    wire::ErrorDetail::decode(status.details()).ok()?.detail
}

/// The innermost cause says most: "Connection refused" rather than "transport error".
pub(super) fn text(status: &Status) -> String {
    let mut cause = status.source();
    let mut text = None;
    while let Some(error) = cause {
        text = Some(error.to_string());
        cause = error.source();
    }
    match text {
        Some(text) => text,
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}
