//! What is asked of one node: a sign of life, a look at everything, and the sandboxes that are there. On the leader alone:
//! agents are there.

use super::{Api, Fault, Query};
use crate::access::{Caller, audit};
use crate::clock;
use proto::id::NodeId;
use proto::object::Kind;
use proto::wire;
use tokio::time::timeout;

/// An agent answers at once, one of an earlier version with its next heartbeat: two more may be late.
const HEARTBEATS: u32 = 3;

impl Api {
    /// Asks the agent for a sign of life; the node as it is then, and whether there was one.
    ///
    /// # Errors
    /// [`Fault::NotLeader`]; [`Fault::NotFound`] of the node; [`Fault::Read`].
    pub async fn ask_for_heartbeat(&self, node: &str) -> Result<(wire::Object, bool), Fault> {
        let id = self.known_node(node).await?;
        let since = clock::instant();
        let patience = self.sessions.heartbeat() * HEARTBEATS;
        let heard = self.sessions.ask_for_heartbeat(&id)
            && timeout(patience, self.liveness.heard_after(&id, since))
                .await
                .is_ok();
        Ok((self.get(Kind::Node, node, true).await?, heard))
    }

    /// Lets the agent compare all that is on its node with all that shall be, and tell what it finds.
    ///
    /// # Errors
    /// As of [`Self::ask_for_heartbeat`]; [`Fault::Away`].
    pub async fn reconcile_node(&self, caller: &Caller, node: &str) -> Result<(), Fault> {
        let told = async {
            let id = self.known_node(node).await?;
            if self.sessions.tell_all(&id) {
                Ok(())
            } else {
                Err(Fault::Away(id))
            }
        };
        let told = told.await;
        audit::note(caller, "reconcile", &format!("node/{node}"), &told);
        told
    }

    /// A node whose agent is here.
    ///
    /// # Errors
    /// As of [`Self::reconcile_node`].
    pub async fn reached_node(&self, node: &str) -> Result<NodeId, Fault> {
        let id = self.known_node(node).await?;
        if self.sessions.has(&id) {
            Ok(id)
        } else {
            Err(Fault::Away(id))
        }
    }

    /// A sandbox of a node whose agent is here.
    ///
    /// # Errors
    /// As of [`Self::reached_node`], and [`Fault::NotFound`] of the sandbox.
    pub async fn sandbox_on(&self, node: &str, sandbox: &str) -> Result<wire::Object, Fault> {
        let query = Query {
            node: Some(self.reached_node(node).await?),
            ..Query::one(Kind::Sandbox, sandbox)
        };
        self.look_at(query, true).await
    }

    /// Checked against a state that is up to date, by the replica that leads.
    async fn known_node(&self, node: &str) -> Result<NodeId, Fault> {
        let leadership = self.leadership();
        if !leadership.is_self {
            return Err(Fault::NotLeader(leadership.leader));
        }
        self.get(Kind::Node, node, false).await?;
        let missing = |_| Fault::NotFound {
            kind: "node",
            id: node.to_owned(),
        };
        node.parse().map_err(missing)
    }
}
