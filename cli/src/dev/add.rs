//! `sbxctl dev add`: one more host, whose replica joins the cluster with a token as on a new machine.

use super::plan::Plan;
use super::record::{self, Record};
use super::{DevError, health, process, up};
use crate::client::{Client, NewToken};
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::wire::Grant;
use std::path::Path;
use std::time::Duration;

/// To join a small cluster and catch up takes a second or so; a large state is copied first.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Between looks at whether it has a vote.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn replica(dir: &Path, invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let mut record = Record::load(dir)?;
    let client = health::client(record.plan(), JOIN_TIMEOUT)?;
    let token = token(record.plan(), &client).await?;
    let member = record.join_replica().ok_or(DevError::NoRoom)?;
    // From here on `dev down` knows of it.
    record.save()?;
    up::make_host(record.plan(), &member).await?;
    let mut starting = member.clone();
    // Once: what is started again has its certificate.
    starting.args.extend(
        token
            .into_iter()
            .flat_map(|token| ["--join-token".to_owned(), token]),
    );
    let (mut child, identity) = process::start(&starting)?;
    let pid = identity.pid;
    record.processes.insert(member.name.clone(), identity);
    record.save()?;
    let log = || process::log_tail(&member.log());
    tokio::select! {
        joined = tokio::time::timeout(JOIN_TIMEOUT, until_voter(&client, u64::from(member.number))) => {
            match joined {
                Ok(joined) => joined?,
                Err(_) => return Err(DevError::NotJoined {
                    member: member.name.clone(),
                    waited: JOIN_TIMEOUT,
                    log: log(),
                }.into()),
            }
        }
        ended = child.wait() => return Err(DevError::Died {
            member: member.name.clone(),
            how: ended.map_or_else(|e| e.to_string(), |status| status.to_string()),
            log: log(),
        }.into()),
    }
    invocation.say(format_args!(
        "{} joined at {}, pid {pid}",
        member.name, member.address
    ))
}

/// What lets it in; `None` where nobody is asked who he is.
async fn token(plan: &Plan, client: &Client) -> Result<Option<String>, DevError> {
    if plan.insecure {
        return Ok(None);
    }
    let new = NewToken {
        name: "dev add".to_owned(),
        grant: Grant::JoinReplica,
        machine: None,
        life: Some(TOKEN_LIFE),
    };
    Ok(Some(client.create_token(new).await?.1))
}

async fn until_voter(client: &Client, id: u64) -> Result<(), DevError> {
    loop {
        let cluster = client.cluster(false).await?;
        if cluster
            .replicas
            .iter()
            .any(|replica| replica.id == id && replica.voter)
        {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
