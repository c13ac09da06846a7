//! How a machine joins a cluster with a token: it makes its key, asks one replica after another to sign it, and keeps
//! what it gets. Owns the asking and the files; who is let in is the control plane's. Called by agents and by replicas
//! at their first start.

use crate::authority::{AuthorityError, Unsigned};
use crate::dial::{Dialer, TlsError};
use crate::folder::{self, FolderError};
use crate::pin;
use crate::token::JoinToken;
use prost::Message;
use proto::wire::access_client::AccessClient;
use proto::wire::error_detail::Detail;
use proto::wire::join_request::Machine;
use proto::wire::{self, ErrorDetail};
use std::path::Path;
use std::time::Duration;
use tonic::{Code, Status};

/// For one replica's answer: the leader writes an entry of the log for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between rounds over all replicas, while none can let this machine in.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a machine is not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{server} does not let this machine in: {message}")]
    Refused { server: String, message: String },
    #[error(transparent)]
    Key(#[from] AuthorityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    File(#[from] FolderError),
}

/// Joins as `machine`, for as long as no replica answers: the folder `dir` then holds the identity of this machine.
/// Gives the cluster's answer. `hosts` are the names and addresses at which others reach it, where it serves them;
/// `request_id` is a UUID, the same for all attempts: the token is good for one.
///
/// # Errors
/// [`JoinError`], where it can't come to one by waiting.
pub async fn join(
    dir: &Path,
    machine: Machine,
    hosts: Vec<String>,
    token: &JoinToken,
    servers: &[String],
    request_id: String,
) -> Result<wire::JoinResponse, JoinError> {
    let unsigned = Unsigned::create()?;
    let dialer = Dialer::fixed(pin::client(token.authority)?);
    let public = unsigned.public();
    let request = wire::JoinRequest {
        request_id,
        token_id: token.secret.id().to_owned(),
        secret: token.secret.bytes().to_vec(),
        machine: Some(machine),
        key: Some(wire::PublicKey {
            point: public.point,
            proof: public.proof,
        }),
        hosts,
    };
    let joined = ask_all(&dialer, servers, &request).await?;
    folder::create(dir)?;
    folder::write(&dir.join(folder::AUTHORITY), &joined.authority)?;
    if !joined.authority_key.is_empty() {
        folder::write(&dir.join(folder::AUTHORITY_KEY), &joined.authority_key)?;
    }
    folder::write(&dir.join(folder::KEY), &unsigned.key)?;
    // Last: with it the identity is whole.
    folder::write(&dir.join(folder::CERTIFICATE), &joined.certificate)?;
    Ok(joined)
}

/// Asks every replica in turn, and the one that another names as the leader before the next, until one has decided.
///
/// # Errors
/// [`JoinError::Refused`]
pub async fn ask_all(
    dialer: &Dialer,
    servers: &[String],
    request: &wire::JoinRequest,
) -> Result<wire::JoinResponse, JoinError> {
    loop {
        for server in servers {
            let mut target = server.clone();
            // A follower names the leader; a second hop is one too many.
            for _ in 0..2 {
                let status = match ask(dialer, &target, request).await {
                    Ok(joined) => return Ok(joined),
                    Err(status) => status,
                };
                match judge(&status) {
                    Verdict::Redirect(leader) => target = leader,
                    Verdict::Refused => {
                        return Err(JoinError::Refused {
                            server: target,
                            message: status.message().to_owned(),
                        });
                    }
                    Verdict::Later => {
                        let why = text(&status);
                        tracing::warn!(server = target, why, "cannot join yet");
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(
    dialer: &Dialer,
    server: &str,
    request: &wire::JoinRequest,
) -> Result<wire::JoinResponse, Status> {
    let endpoint = dialer
        .endpoint(server)
        .map_err(|error| Status::invalid_argument(format!("{server} {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT);
    let channel = dialer.connect(&endpoint).await;
    let channel = channel.map_err(|error| Status::from_error(error.into()))?;
    Ok(AccessClient::new(channel)
        .join(request.clone())
        .await?
        .into_inner())
}

/// What an attempt means that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This one leads, as far as the replica knows that was asked.
    Redirect(String),
    /// Decided.
    Refused,
    Later,
}

/// What to do after a replica has answered so.
#[must_use]
pub fn judge(status: &Status) -> Verdict {
    let detail = ErrorDetail::decode(status.details()).ok().and_then(|d| d.detail);
    if let Some(Detail::NotLeader(not_leader)) = detail {
        return if not_leader.endpoint.is_empty() {
            Verdict::Later
        } else {
            Verdict::Redirect(not_leader.endpoint)
        };
    }
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::NotFound
        | Code::Unimplemented => Verdict::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Verdict::Later,
    }
}

/// What a status says; of one that a transport has made, the innermost cause: "Connection refused" rather than
/// "transport error".
#[must_use]
pub fn text(status: &Status) -> String {
    use std::error::Error;
    let Some(mut cause) = status.source() else {
        return if status.message().is_empty() {
            status.code().description().to_owned()
        } else {
            status.message().to_owned()
        };
    };
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
