//! When agents were heard last: only the leader knows, so that any other replica asks it when it shows nodes. Owns
//! the connection for that. What is not known in time is not shown.

use super::{Api, Query};
use identity::dial::Dialer;
use proto::id::SandboxId;
use proto::object::Kind;
use proto::wire::control_client::ControlClient;
use proto::wire::{self, object::Object};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;

/// A round trip, and the reading of thousands of nodes. A user who lists nodes waits no longer for a detail.
const TIMEOUT: Duration = Duration::from_millis(500);
/// 5,000 nodes of 2 KiB, and much room.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The connection to the leader that was asked last. Clones share.
#[derive(Clone)]
pub(super) struct Heartbeats {
    dialer: Dialer,
    kept: Arc<Mutex<Option<(String, Channel)>>>,
}

impl Heartbeats {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            kept: Arc::default(),
        }
    }

    fn client(&self, endpoint: &str) -> Option<ControlClient<Channel>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match &*kept {
            Some((to, channel)) if to == endpoint => channel.clone(),
            Some(_) | None => {
                let dialled = self.dialer.endpoint(endpoint).ok()?.connect_timeout(TIMEOUT);
                let channel = self.dialer.lazy(&dialled);
                *kept = Some((endpoint.to_owned(), channel.clone()));
                channel
            }
        };
        Some(ControlClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }
}

impl Api {
    /// Completes nodes that this replica shows although it does not lead.
    pub(super) async fn ask_for_heartbeats(
        &self,
        query: &Query,
        after: Option<&SandboxId>,
        objects: &mut [wire::Object],
    ) {
        let leadership = self.leadership();
        let Some(leader) = leadership.leader.filter(|_| !leadership.is_self) else {
            return;
        };
        if query.kind != Kind::Node || objects.is_empty() {
            return;
        }
        let Some(client) = self.heartbeats.client(&leader.endpoint) else {
            return;
        };
        let Ok(Some(heard)) = tokio::time::timeout(TIMEOUT, ask(client, query, after, objects.len())).await
        else {
            tracing::debug!(
                leader = leader.id,
                "the leader has not told in time when it heard agents"
            );
            return;
        };
        for object in objects {
            if let Some(Object::Node(node)) = &mut object.object {
                node.last_heartbeat_ms = heard.get(&node.id).copied().unwrap_or_default();
            }
        }
    }
}

/// Times by node; `None` where the leader does not answer.
async fn ask(
    mut client: ControlClient<Channel>,
    query: &Query,
    after: Option<&SandboxId>,
    count: usize,
) -> Option<BTreeMap<String, u64>> {
    let kind = wire::Kind::Node.into();
    let nodes = match &query.id {
        Some(id) => {
            let request = wire::GetRequest {
                kind,
                id: id.clone(),
                stale: true,
                ..Default::default()
            };
            vec![client.get(request).await.ok()?.into_inner()]
        }
        None => {
            let request = wire::ListRequest {
                kind,
                labels: query.labels.clone(),
                stale: true,
                // The same page.
                limit: u32::try_from(count).unwrap_or(u32::MAX),
                cursor: after.map(ToString::to_string).unwrap_or_default(),
                ..Default::default()
            };
            client.list(request).await.ok()?.into_inner().items
        }
    };
    let times = nodes.into_iter().filter_map(|object| match object.object? {
        Object::Node(node) => Some((node.id, node.last_heartbeat_ms)),
        Object::Sandbox(_) | Object::External(_) => None,
    });
    Some(times.collect())
}
