//! How a replica comes into a cluster that runs. First it becomes somebody: it is told its number, and gets a certificate
//! with its token. Then, running and empty, it asks to be taken in, is sent all there is, and has a vote in the end. A
//! restart at any point goes on where it was, and needs no token once there is a certificate.
//!
//! Decides nothing about who is let in: that is the leader's. Called by `serve`.

use crate::config::{Config, Join};
use crate::raft::{IdentityError, Replica, data_owner};
use crate::security::hosts;
use identity::credentials::{Credentials, CredentialsError};
use identity::dial::Dialer;
use identity::join::{self, JoinError, Verdict};
use identity::principal::Principal;
use proto::wire::cluster_client::ClusterClient;
use proto::wire::join_request::Machine;
use proto::wire::{self, replica_progress::Stage};
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A leader that is silent for so long about a replica that catches up is given up: it tells twice a second.
const SILENCE: Duration = Duration::from_secs(10);
/// Between rounds over all replicas, while none can take this one in.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a replica can't join.
#[derive(Debug, thiserror::Error)]
pub enum JoiningError {
    #[error(transparent)]
    Data(#[from] IdentityError),
    #[error("no certificate: {0}. Join with --join-token, which `sbxctl token create --join-replica` makes")]
    NoToken(CredentialsError),
    #[error(transparent)]
    Credentials(CredentialsError),
    #[error("the certificate in {} is of {found}, which is no replica", dir.display())]
    Node { dir: PathBuf, found: Principal },
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("{server} does not take this replica in: {message}")]
    Refused { server: String, message: String },
}

/// The configuration with the number of this replica, which has a certificate by then where it needs one.
///
/// # Errors
/// [`JoiningError`], where it can't come to one by waiting.
pub async fn enter(mut config: Config) -> Result<Config, JoiningError> {
    let Some(join) = config.join.clone() else {
        return Ok(config);
    };
    // Another replica's data are refused where they are opened.
    let known = (config.id != 0).then_some(config.id);
    let known = known.or(data_owner(&config.data_dir)?);
    config.id = match &config.tls {
        None => match known {
            Some(id) => id,
            None => number(&config, &join).await?,
        },
        Some(files) => {
            let opened = match Credentials::open(&files.dir) {
                Err(CredentialsError::File(error)) if error.is_not_found() => {
                    let Some(token) = &join.token else {
                        return Err(JoiningError::NoToken(error.into()));
                    };
                    let joined = join::join(
                        &files.dir,
                        Machine::ReplicaId(known.unwrap_or_default()),
                        hosts(&[&config.advertise, &config.advertise_peer]),
                        token,
                        &join.servers,
                        uuid::Uuid::new_v4().to_string(),
                    );
                    let id = joined.await?.replica_id;
                    tracing::info!(id, "this replica has a certificate of the cluster");
                    Credentials::open(&files.dir)
                }
                opened => opened,
            };
            match opened.map_err(JoiningError::Credentials)?.principal() {
                // Where both say something, `security` holds them against each other.
                Principal::Replica(id) => known.unwrap_or(id),
                found @ Principal::Node(_) => {
                    let dir = files.dir.clone();
                    return Err(JoiningError::Node { dir, found });
                }
            }
        }
    };
    Ok(config)
}

/// Where plain text is spoken, a number is all that is needed.
async fn number(config: &Config, join: &Join) -> Result<u64, JoiningError> {
    let request = wire::JoinRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        machine: Some(Machine::ReplicaId(config.id)),
        ..Default::default()
    };
    let joined = join::ask_all(&Dialer::plain(), &join.servers, &request).await?;
    Ok(joined.replica_id)
}

/// Asks to be taken in until this replica is a voter; returns at once where it is a member already.
///
/// # Errors
/// [`JoiningError::Refused`]
pub async fn take_part(
    replica: Replica,
    join: Join,
    request: wire::AddReplicaRequest,
    dialer: Dialer,
) -> Result<(), JoiningError> {
    if replica.is_voter() {
        return Ok(());
    }
    loop {
        for server in &join.servers {
            let mut target = server.clone();
            // A follower names the leader; a second hop is one too many.
            for _ in 0..2 {
                let status = match ask(&dialer, &target, &request).await {
                    Ok(()) => return Ok(()),
                    Err(status) => status,
                };
                match join::judge(&status) {
                    Verdict::Redirect(leader) => target = leader,
                    Verdict::Refused => {
                        let message = status.message().to_owned();
                        return Err(JoiningError::Refused {
                            server: target,
                            message,
                        });
                    }
                    Verdict::Later => {
                        let why = join::text(&status);
                        tracing::warn!(server = target, why, "not taken in yet");
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Follows how this replica catches up, to the end.
async fn ask(dialer: &Dialer, server: &str, request: &wire::AddReplicaRequest) -> Result<(), Status> {
    let endpoint = dialer
        .endpoint(server)
        .map_err(|error| Status::invalid_argument(format!("{server} {error}")))?
        .connect_timeout(CONNECT_TIMEOUT);
    let channel = dialer.connect(&endpoint).await;
    let channel = channel.map_err(|error| Status::from_error(error.into()))?;
    let mut client = ClusterClient::new(channel);
    let silent = |_| Status::unavailable(format!("nothing was heard of it for {SILENCE:?}"));
    let asked = tokio::time::timeout(SILENCE, client.add_replica(request.clone()));
    let mut steps = asked.await.map_err(silent)??.into_inner();
    let mut last = Stage::Unspecified;
    loop {
        let step = tokio::time::timeout(SILENCE, steps.message())
            .await
            .map_err(silent)??;
        let Some(step) = step else {
            return Err(Status::unavailable("it has ended the stream"));
        };
        let (matched, of) = (step.matched_index, step.last_index);
        match step.stage() {
            Stage::Learning if last != Stage::Learning => {
                tracing::info!(leader = server, matched, of, "taken in as a learner");
            }
            Stage::Learning | Stage::Unspecified => tracing::debug!(matched, of, "catching up"),
            Stage::CaughtUp => tracing::info!(matched, of, "caught up"),
            Stage::Voter => {
                tracing::info!("this replica is a member of the cluster, with a vote");
                return Ok(());
            }
        }
        if step.stage() == Stage::CaughtUp && request.learner {
            return Ok(());
        }
        last = step.stage();
    }
}
