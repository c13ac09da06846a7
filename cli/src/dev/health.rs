//! Whether a cluster has a leader, and which of its nodes are Ready: by asking it, as any user would.

use super::DevError;
use super::plan::{Member, Plan, Role};
use super::process::State;
use super::record::Record;
use crate::client::{Access, Change, Client, ClientError, Endpoint};
use crate::provision;
use identity::folder;
use proto::status::NodeState;
use proto::wire::{self, object::Object};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One replica's word about the cluster, for status and for finding the leader.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// After a leader was lost, another one leads within a second or so.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(5);
const ELECTION_PAUSE: Duration = Duration::from_millis(50);

/// A client of all replicas.
pub(super) fn client(plan: &Plan, timeout: Duration) -> Result<Client, DevError> {
    let endpoints = plan
        .endpoints()
        .iter()
        .map(|e| e.parse::<Endpoint>())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Client::new(endpoints, access(plan)?, timeout)?)
}

/// As its administrator.
fn access(plan: &Plan) -> Result<Access, DevError> {
    if plan.insecure {
        return Ok(Access::plain());
    }
    let dir = plan.identity();
    let authority = folder::read(&dir.join(folder::AUTHORITY))?;
    let token = folder::read_secret(&dir.join(provision::TOKEN))?;
    Ok(Access::new(Some(&authority), Some(&token))?)
}

/// What a replica that is asked alone says of the cluster; `None` where it does not answer.
pub(super) async fn ask(plan: &Plan, member: &Member) -> Result<Option<wire::ClusterResponse>, DevError> {
    let endpoint: Endpoint = plan.endpoint_of(member).parse()?;
    let client = Client::new(vec![endpoint], access(plan)?, ASK_TIMEOUT)?;
    match client.cluster(true).await {
        Ok(response) => Ok(Some(response)),
        Err(ClientError::NoAnswer { .. } | ClientError::Refused { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The words of all replicas whose processes run, by name.
pub(super) async fn ask_all(record: &Record) -> Result<BTreeMap<String, wire::ClusterResponse>, DevError> {
    let asked = record.plan().members().into_iter().filter(|member| {
        let running = record.processes.get(&member.name).map(|p| p.state()) == Some(State::Running);
        member.role == Role::Replica && running
    });
    let answers = futures::future::join_all(asked.map(|member| async move {
        let answer = ask(record.plan(), &member).await;
        (member.name, answer)
    }))
    .await;
    let mut words = BTreeMap::new();
    for (name, answer) in answers {
        if let Some(word) = answer? {
            words.insert(name, word);
        }
    }
    Ok(words)
}

/// The replica that leads and says so itself; of two that do, the one of the later term.
pub(super) async fn leader(record: &Record) -> Result<String, DevError> {
    let deadline = tokio::time::Instant::now() + ELECTION_TIMEOUT;
    loop {
        let words = ask_all(record).await?;
        let leader = words
            .iter()
            .filter(|(_, word)| word.leader_id != 0 && word.leader_id == word.answered_by)
            .max_by_key(|(_, word)| word.term);
        if let Some((name, _)) = leader {
            return Ok(name.clone());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(DevError::NoLeader);
        }
        tokio::time::sleep(ELECTION_PAUSE).await;
    }
}

/// Returns once every agent of the plan is Ready; tells each one that becomes so.
pub(super) async fn agents_ready(
    client: &Client,
    waiting: &mut BTreeSet<String>,
    mut tell: impl FnMut(&str),
) -> Result<(), DevError> {
    if waiting.is_empty() {
        return Ok(());
    }
    let mut changes = client.watch(wire::WatchRequest {
        kind: wire::Kind::Node.into(),
        ..Default::default()
    });
    while !waiting.is_empty() {
        if let Change::Changed(object) = changes.next().await?
            && let Some(Object::Node(node)) = object.object
            && NodeState::try_from(node.state()).ok() == Some(NodeState::Ready)
            && waiting.remove(&node.id)
        {
            tell(&node.id);
        }
    }
    Ok(())
}

/// The states of nodes as some replica knows them; empty where none answers.
pub(super) async fn node_states(plan: &Plan) -> Result<BTreeMap<String, NodeState>, DevError> {
    let request = wire::ListRequest {
        kind: wire::Kind::Node.into(),
        stale: true,
        ..Default::default()
    };
    let nodes = match client(plan, ASK_TIMEOUT * 2)?.list(&request).await {
        Ok(response) => response.items,
        Err(ClientError::NoAnswer { .. } | ClientError::Refused { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let known = nodes.into_iter().filter_map(|object| match object.object? {
        Object::Node(node) => Some((node.id.clone(), NodeState::try_from(node.state()).ok()?)),
        Object::Sandbox(_) | Object::External(_) => None,
    });
    Ok(known.collect())
}
