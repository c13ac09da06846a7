//! From faults to HTTP statuses: the only such place. Every error is `{"error": "..."}`.

use crate::access::Denied;
use crate::api::Fault;
use crate::raft::{ProposeError, ReadError};
use crate::session::RelayError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::wire::rejected::Code as Rejection;
use serde::Serialize;

/// An error as it is sent.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    /// Paths of fields that can't be changed.
    fields: Vec<String>,
    /// Seconds.
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Body {
    error: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            fields: Vec::new(),
            retry_after: None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Body {
            error: self.error,
            fields: self.fields,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let mut refusal = Self::new(status(&fault), fault.to_string());
        // In whole seconds: the next one, so that nobody comes too early.
        refusal.retry_after = fault
            .retry_after()
            .map(|after| after.as_millis().div_ceil(1_000) as u64);
        if let Fault::Rejected(rejected) = fault {
            refusal.fields = rejected.fields;
        }
        refusal
    }
}

pub(super) fn status(fault: &Fault) -> StatusCode {
    match fault {
        Fault::RequestId(_) | Fault::Convert(_) | Fault::Manifest(_) | Fault::Invalid(_) => {
            StatusCode::BAD_REQUEST
        }
        Fault::NotFound { .. } => StatusCode::NOT_FOUND,
        Fault::Rejected(rejected) => match rejected.code() {
            Rejection::NotFound => StatusCode::NOT_FOUND,
            Rejection::Conflict | Rejection::Stale => StatusCode::CONFLICT,
            Rejection::Invalid => StatusCode::BAD_REQUEST,
            Rejection::Unspecified => StatusCode::INTERNAL_SERVER_ERROR,
        },
        Fault::Propose(error) => match error {
            ProposeError::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            ProposeError::TooLarge { .. } => StatusCode::BAD_REQUEST,
            ProposeError::Rejected(_) => StatusCode::CONFLICT,
            ProposeError::NotLeader { .. }
            | ProposeError::Unknown { .. }
            | ProposeError::NearlyFull(_)
            | ProposeError::Level { .. }
            | ProposeError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        },
        Fault::Init(_) | Fault::Member(_) | Fault::NotPlaced(_) | Fault::IsOver { .. } => {
            StatusCode::CONFLICT
        }
        Fault::Relay { source, .. } => match source {
            RelayError::Away(_)
            | RelayError::Silent(_)
            | RelayError::Agent { .. }
            | RelayError::Broken { .. } => StatusCode::BAD_GATEWAY,
            RelayError::TooMany | RelayError::Refused { .. } => StatusCode::TOO_MANY_REQUESTS,
            RelayError::Input(_) => StatusCode::BAD_REQUEST,
            RelayError::Unknown => StatusCode::NOT_FOUND,
            RelayError::Session(_) => StatusCode::SERVICE_UNAVAILABLE,
        },
        Fault::Denied(denied) => match denied {
            Denied::NoToken
            | Denied::Malformed(_)
            | Denied::Unknown
            | Denied::Expired(_)
            | Denied::ForJoining(_) => StatusCode::UNAUTHORIZED,
            Denied::Role { .. } | Denied::NotNode(_) | Denied::NotReplica(_) => StatusCode::FORBIDDEN,
            Denied::NotYet => StatusCode::SERVICE_UNAVAILABLE,
            Denied::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        },
        // Machines join by gRPC.
        Fault::Join(_) => StatusCode::CONFLICT,
        Fault::Read(ReadError::Overloaded { .. }) | Fault::Refused(_) => StatusCode::TOO_MANY_REQUESTS,
        Fault::Away(_) => StatusCode::BAD_GATEWAY,
        Fault::TooOld(_) => StatusCode::GONE,
        Fault::Unread(_) => StatusCode::REQUEST_TIMEOUT,
        Fault::Watches(_) => StatusCode::TOO_MANY_REQUESTS,
        Fault::Backup(_)
        | Fault::BackupFiles(_)
        | Fault::NotLeader(_)
        | Fault::Read(_)
        | Fault::Stopping
        | Fault::Forward { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}
