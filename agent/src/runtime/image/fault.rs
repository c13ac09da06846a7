//! Why a registry or mirror does not give what it is asked for, and whether asking again may help.

use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use reqwest::StatusCode;

/// Of what a registry says in its errors; rate limits are explained in about 200 characters.
const MAX_MESSAGE: usize = 300;

/// Why one place did not give what it was asked for. Texts of strangers appear only where they come in
/// the form of a registry's error: any other body may be from a place that the registry has led us to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    #[error("not found")]
    NotFound,
    #[error("access refused{}", said(.0))]
    Refused(String),
    #[error("busy (HTTP status {code}){}", said(.message))]
    Busy { code: u16, message: String },
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("answers with HTTP status {0}")]
    Status(u16),
    #[error("sent content that is not {expected}; it is damaged or was tampered with")]
    Digest { expected: String },
    #[error("sent a manifest of {0} bytes, which is refused")]
    LongManifest(u64),
    #[error("does not speak as a registry does: {0}")]
    Protocol(String),
    #[error("sent another part of the content than it was asked for")]
    Range,
    #[error("the client does not start: {0}")]
    Client(String),
    #[error("cannot be kept: {0}")]
    Disk(String),
}

impl Fault {
    /// It may pass by itself.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unreachable(_) => true,
            Self::NotFound
            | Self::Refused(_)
            | Self::Status(_)
            | Self::Digest { .. }
            | Self::LongManifest(_)
            | Self::Protocol(_)
            | Self::Range
            | Self::Client(_)
            | Self::Disk(_) => false,
        }
    }

    /// The disk of this node is at fault.
    pub(super) fn is_of_disk(&self) -> bool {
        matches!(self, Self::Disk(_))
    }

    /// What a person can do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::NotFound => "check the image's name and tag",
            Self::Refused(_) => "check the image's name, or give the agent credentials for this registry",
            Self::Busy { .. } => "try again later, or use a mirror",
            Self::Unreachable(_) => "check the network of the node, or use a mirror",
            Self::Digest { .. } => "ask who runs this registry or mirror, or push the image again",
            Self::Status(_) | Self::LongManifest(_) | Self::Protocol(_) | Self::Range => {
                "check that a registry answers there"
            }
            Self::Client(_) => {
                "check that the node has certificates of authorities (package ca-certificates), and its own file of them"
            }
            Self::Disk(_) => "check the disk of the node",
        }
    }
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// What an answer means that is no success.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Fault {
    let envelope: Option<OciEnvelope> = serde_json::from_slice(body).ok();
    let said = envelope.as_ref().and_then(|e| e.errors.first());
    let message: String = said
        .map(|e| e.message.chars().take(MAX_MESSAGE).collect())
        .unwrap_or_default();
    match (status.as_u16(), said.map(|e| &e.code)) {
        (404, _)
        | (
            _,
            Some(
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::BlobUnknown,
            ),
        ) => Fault::NotFound,
        (401 | 403, _) | (_, Some(OciErrorCode::Unauthorized | OciErrorCode::Denied)) => {
            Fault::Refused(message)
        }
        (code @ (408 | 429 | 500..), _) => Fault::Busy { code, message },
        (_, Some(OciErrorCode::Toomanyrequests)) => Fault::Busy { code: 429, message },
        (_, Some(_)) => Fault::Protocol(message),
        (code, None) => Fault::Status(code),
    }
}

/// What went wrong when a token was asked for.
pub(super) fn unauthorized(error: OciDistributionError) -> Fault {
    match error {
        OciDistributionError::RequestError(error) => unreachable(error),
        // The text is the whole page of who gives the tokens.
        OciDistributionError::AuthenticationFailure(_) => Fault::Refused(String::new()),
        // Parsers' messages may quote what they have read; the kind says enough.
        OciDistributionError::RegistryTokenDecodeError(_) => {
            Fault::Protocol("its token is malformed".to_owned())
        }
        other => Fault::Protocol(other.to_string().chars().take(MAX_MESSAGE).collect()),
    }
}

pub(super) fn unreachable(error: reqwest::Error) -> Fault {
    Fault::Unreachable(chain(&error.without_url()))
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
