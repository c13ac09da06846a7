//! The agent's part in the cluster: its certificate, got with a token for joining at the first start, and renewed before
//! it ends. Owns the folder of the certificate and decides nothing about sandboxes. Called by `run`.

use crate::config::TlsSettings;
use identity::authority::Unsigned;
use identity::credentials::{Credentials, CredentialsError};
use identity::dial::Dialer;
use identity::folder;
use identity::join::JoinError;
use identity::principal::Principal;
use identity::token::JoinToken;
use proto::id::NodeId;
use proto::wire;
use proto::wire::access_client::AccessClient;
use proto::wire::join_request::Machine;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tonic::Status;

/// For one replica's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts at a renewal; the certificate holds for a month still when they begin.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10 * 60);
/// Timers don't count the time that a machine sleeps: the clock is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Why this machine is no part of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(
        "no certificate: {0}. Let this machine join with --join-token, which `sbxctl token create --join-node` makes, \
         or copy the files that `sbxctl cluster init` made for it"
    )]
    None(CredentialsError),
    #[error(transparent)]
    Credentials(CredentialsError),
    #[error("the certificate in {} is of {found}, but this node is {node}", dir.display())]
    Other {
        dir: PathBuf,
        found: Principal,
        node: NodeId,
    },
    #[error(transparent)]
    Join(#[from] JoinError),
}

/// The certificate of this node; joins for it where there is none yet, for as long as no replica answers.
///
/// # Errors
/// [`MembershipError`], where it can't come to one by waiting.
pub async fn enter(
    settings: &TlsSettings,
    node: &NodeId,
    servers: &[String],
) -> Result<Credentials, MembershipError> {
    let opened = match Credentials::open(&settings.dir) {
        Err(CredentialsError::File(error)) if error.is_not_found() => match &settings.join {
            Some(token) => {
                join(&settings.dir, node, token, servers).await?;
                Credentials::open(&settings.dir)
            }
            None => return Err(MembershipError::None(error.into())),
        },
        opened => opened,
    };
    let credentials = opened.map_err(MembershipError::Credentials)?;
    let found = credentials.principal();
    if found != Principal::Node(node.clone()) {
        return Err(MembershipError::Other {
            dir: settings.dir.clone(),
            found,
            node: node.clone(),
        });
    }
    Ok(credentials)
}

async fn join(
    dir: &Path,
    node: &NodeId,
    token: &JoinToken,
    servers: &[String],
) -> Result<(), MembershipError> {
    let machine = Machine::NodeId(node.to_string());
    let request = uuid::Uuid::new_v4().to_string();
    identity::join::join(dir, machine, Vec::new(), token, servers, request).await?;
    tracing::info!(%node, "this machine has joined the cluster");
    Ok(())
}

async fn connect(dialer: &Dialer, server: &str) -> Result<AccessClient<tonic::transport::Channel>, Status> {
    let endpoint = dialer
        .endpoint(server)
        .map_err(|error| Status::invalid_argument(format!("{server} {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT);
    let channel = dialer.connect(&endpoint).await;
    Ok(AccessClient::new(
        channel.map_err(|error| Status::from_error(error.into()))?,
    ))
}

/// Keeps the certificate valid: takes in files that were exchanged, and asks for a new one when it grows old. Without
/// end. `learned` are replicas that the leader has told of, beside those that were given.
pub async fn keep(credentials: Credentials, given: Vec<String>, learned: watch::Receiver<Vec<String>>) {
    let following = async {
        match credentials.clone().follow().await {
            Ok(never) => match never {},
            Err(error) => tracing::error!(%error, "certificates that are exchanged take a restart"),
        }
    };
    let renewing = async {
        loop {
            let age = credentials
                .certified()
                .renew_at()
                .duration_since(SystemTime::now());
            match age {
                Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK_EVERY)).await,
                Ok(_) | Err(_) => {
                    let mut exchanged = credentials.exchanged();
                    renew(&credentials, given.iter().chain(learned.borrow().clone().iter())).await;
                    tokio::time::timeout(RENEWAL_PAUSE, exchanged.changed())
                        .await
                        .ok();
                }
            }
        }
    };
    futures::join!(following, renewing);
}

/// Asks one replica after another; any can sign that has the authority's key.
async fn renew(credentials: &Credentials, servers: impl Iterator<Item = &String>) {
    let dialer = Dialer::following(credentials.clone());
    for server in servers {
        match renew_at(credentials, &dialer, server).await {
            Ok(()) => {
                tracing::info!(server, "this node's certificate was renewed");
                return;
            }
            Err(why) => tracing::warn!(server, why, "this node's certificate was not renewed"),
        }
    }
}

async fn renew_at(credentials: &Credentials, dialer: &Dialer, server: &str) -> Result<(), String> {
    let unsigned = Unsigned::create().map_err(|error| error.to_string())?;
    let public = unsigned.public();
    let request = wire::RenewRequest {
        key: Some(wire::PublicKey {
            point: public.point,
            proof: public.proof,
        }),
    };
    let mut client = connect(dialer, server)
        .await
        .map_err(|s| crate::session::said(&s))?;
    let renewed = client
        .renew(request)
        .await
        .map_err(|s| crate::session::said(&s))?;
    let certificate = renewed.into_inner().certificate;
    let dir = credentials.folder();
    let write = |name, text| folder::write(&dir.join(name), text).map_err(|error| error.to_string());
    // Until the certificate follows, they don't fit together and the old ones stay in use.
    write(folder::KEY, &unsigned.key)?;
    write(folder::CERTIFICATE, &certificate)
}
