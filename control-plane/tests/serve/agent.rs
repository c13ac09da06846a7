//! An agent that does what the test says.

use crate::cluster::{Cluster, within};
use proto::wire::agent_client::AgentClient;
use proto::wire::{self, agent_message, leader_message::Message};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

pub(crate) struct Agent {
    pub(crate) welcome: wire::Welcome,
    says: mpsc::Sender<wire::AgentMessage>,
    hears: Streaming<wire::LeaderMessage>,
}

fn hello(node: &str, inventory: Vec<wire::SandboxReport>) -> wire::Hello {
    wire::Hello {
        node_id: node.to_owned(),
        node: Some(wire::NodeReport {
            ip: "192.0.2.1".to_owned(),
            capacity: Some(wire::NodeCapacity {
                cpu_milli: 4_000,
                memory_bytes: 8 << 30,
                max_alloc_percent: 90,
            }),
            runtimes: vec![wire::RuntimeInfo {
                runtime: wire::Runtime::Native.into(),
                version: "1".to_owned(),
            }],
            default_runtime: wire::Runtime::Native.into(),
            agent_version: "1".to_owned(),
            ..Default::default()
        }),
        inventory,
        ..Default::default()
    }
}

/// "It runs", of what an agent was told to run.
pub(crate) fn running(sandbox: &wire::DesiredSandbox) -> wire::SandboxReport {
    wire::SandboxReport {
        sandbox_id: sandbox.sandbox_id.clone(),
        uid: sandbox.uid,
        phase: wire::Phase::Running.into(),
        ip: "10.89.0.1".to_owned(),
        ..Default::default()
    }
}

impl Agent {
    /// # Errors
    /// What the replica says instead of Welcome.
    pub(crate) async fn try_join(
        cluster: &Cluster,
        replica: usize,
        node: &str,
        inventory: Vec<wire::SandboxReport>,
    ) -> Result<Self, Status> {
        Self::greet(cluster.agent(replica), node, inventory).await
    }

    /// # Errors
    /// What the replica says instead of Welcome.
    pub(crate) async fn greet(
        mut client: AgentClient<Channel>,
        node: &str,
        inventory: Vec<wire::SandboxReport>,
    ) -> Result<Self, Status> {
        let (says, said) = mpsc::channel(16);
        let first = agent_message::Message::Hello(hello(node, inventory));
        let first = wire::AgentMessage { message: Some(first) };
        says.send(first).await.expect("there is room");
        let opened = within("a session", client.session(ReceiverStream::new(said))).await?;
        let mut hears = opened.into_inner();
        match within("the welcome", hears.message())
            .await?
            .and_then(|m| m.message)
        {
            Some(Message::Welcome(welcome)) => Ok(Self { welcome, says, hears }),
            other => panic!("an agent is welcomed first, not told {other:?}"),
        }
    }

    /// Of the leader, with nothing on its node.
    pub(crate) async fn join(cluster: &Cluster, node: &str) -> Self {
        Self::join_with(cluster, node, Vec::new()).await
    }

    /// Goes to the leader, again while a new one is still taking over.
    pub(crate) async fn join_with(
        cluster: &Cluster,
        node: &str,
        inventory: Vec<wire::SandboxReport>,
    ) -> Self {
        let joined = async {
            loop {
                let leader = cluster.leader().await;
                match Self::try_join(cluster, leader, node, inventory.clone()).await {
                    Ok(agent) => return agent,
                    Err(status) => eprintln!("not welcome yet: {status}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("a welcome", joined).await
    }

    pub(crate) async fn say(&self, message: agent_message::Message) {
        let message = wire::AgentMessage {
            message: Some(message),
        };
        self.says.send(message).await.expect("the session is open");
    }

    pub(crate) async fn report(&self, report: wire::SandboxReport) {
        self.say(agent_message::Message::Report(wire::Report {
            sandboxes: vec![report],
        }))
        .await;
    }

    pub(crate) async fn heartbeat(&self, sequence: u64) {
        self.say(agent_message::Message::Heartbeat(wire::Heartbeat {
            sequence,
            ..Default::default()
        }))
        .await;
    }

    /// # Errors
    /// How the session ended.
    pub(crate) async fn hear(&mut self) -> Result<Message, Status> {
        match within("a word of the leader", self.hears.message()).await? {
            Some(message) => Ok(message.message.expect("no newer version is here")),
            None => panic!("a session ends with a status"),
        }
    }

    /// Returns when a heartbeat is wanted.
    pub(crate) async fn asked_for_heartbeat(&mut self) {
        loop {
            if let Message::AskHeartbeat(_) = self.hear().await.expect("the session is open") {
                return;
            }
        }
    }

    /// The next desired state.
    pub(crate) async fn desired(&mut self) -> wire::Desired {
        loop {
            match self.hear().await.expect("the session is open") {
                Message::Desired(desired) => return desired,
                Message::HeartbeatAck(_) | Message::ReportAck(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    /// Waits until it is told to run a sandbox.
    pub(crate) async fn told_to_run(&mut self, id: &str) -> wire::DesiredSandbox {
        loop {
            let desired = self.desired().await;
            if let Some(sandbox) = desired
                .sandboxes
                .into_iter()
                .find(|s| s.sandbox_id == id && !s.ended)
            {
                return sandbox;
            }
        }
    }

    /// Waits until it is told that a sandbox must go.
    pub(crate) async fn told_to_remove(&mut self, uid: u64) {
        while !self.desired().await.removed_uids.contains(&uid) {}
    }

    /// How the session ends, whatever is told before.
    pub(crate) async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}
