//! Users who speak with their sandboxes, by way of an agent that says what the test wants.

use crate::agent::Agent;
use crate::cluster::{Cluster, within};
use crate::user::*;
use proto::relay::{Input, MAX_CHUNK, Output};
use proto::wire::{self, agent_message, leader_message::Message, open_relay, relay_down, relay_up};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// One of a user, and what he said first.
struct User {
    says: mpsc::Sender<wire::RelayInput>,
    hears: Streaming<wire::RelayOutput>,
}

/// The agent's side of it.
struct Relay {
    says: mpsc::Sender<wire::RelayUp>,
    hears: Streaming<wire::RelayDown>,
}

fn exec(sandbox: &str, container: &str) -> wire::RelayRequest {
    wire::RelayRequest {
        sandbox_id: sandbox.to_owned(),
        container: container.to_owned(),
        what: Some(wire::relay_request::What::Exec(wire::ExecRequest {
            args: vec!["id".to_owned()],
            ..Default::default()
        })),
    }
}

/// Of a cluster with the sandbox `s` on the node `n`.
async fn placed(cluster: &Cluster) -> Agent {
    let mut agent = Agent::join(cluster, "n").await;
    apply(cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    agent
}

impl User {
    async fn open(cluster: &Cluster, replica: usize, request: wire::RelayRequest) -> Result<Self, Status> {
        let (says, said) = mpsc::channel(4);
        says.try_send(Input::Open(request).into()).expect("there is room");
        let mut control = cluster.control(replica);
        let answered = within("an answer", control.relay(ReceiverStream::new(said))).await?;
        Ok(Self {
            says,
            hears: answered.into_inner(),
        })
    }

    async fn say(&self, input: Input) {
        within("room", self.says.send(input.into()))
            .await
            .expect("it is taken");
    }

    async fn hear(&mut self) -> Result<Option<Output>, Status> {
        let heard = within("a word", self.hears.message()).await?;
        Ok(heard.and_then(|heard| heard.output))
    }
}

impl Relay {
    async fn say(&self, output: Output) {
        let message = Some(relay_up::Message::Output(output.into()));
        within("room", self.says.send(wire::RelayUp { message }))
            .await
            .expect("it is taken");
    }

    /// `None`: its user has gone.
    async fn hear(&mut self) -> Option<Input> {
        let heard = within("a word", self.hears.message()).await.ok().flatten()?;
        match heard.message.expect("no newer version is here") {
            relay_down::Message::Input(input) => input.input,
        }
    }
}

async fn asked(agent: &mut Agent) -> wire::OpenRelay {
    loop {
        if let Message::OpenRelay(asked) = agent.hear().await.expect("the session is open") {
            return asked;
        }
    }
}

/// Opens the relay that the agent is asked for; gives what it is for.
async fn answer(cluster: &Cluster, agent: &mut Agent) -> (wire::RelayRequest, Relay) {
    let asked = asked(agent).await;
    let Some(open_relay::What::Conversation(request)) = asked.what else {
        panic!("a conversation was asked for");
    };
    let (says, said) = mpsc::channel(1);
    let message = Some(relay_up::Message::RelayId(asked.relay_id));
    says.try_send(wire::RelayUp { message }).expect("there is room");
    let mut client = cluster.agent(cluster.leader().await);
    let down = within("the relay", client.relay(ReceiverStream::new(said)))
        .await
        .expect("it is waited for");
    let hears = down.into_inner();
    (request, Relay { says, hears })
}

/// A user and an agent that speak with each other.
async fn pair(cluster: &Cluster, agent: &mut Agent) -> (User, Relay) {
    let leader = cluster.leader().await;
    let (user, (_, relay)) = tokio::join!(User::open(cluster, leader, exec("s", "")), answer(cluster, agent));
    (user.expect("it is relayed"), relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_sides_say_is_passed_on_as_it_is() {
    let cluster = Cluster::start(1).await;
    let mut agent = placed(&cluster).await;
    let (user, (request, mut relay)) = tokio::join!(
        User::open(&cluster, 0, exec("s", "")),
        answer(&cluster, &mut agent)
    );
    assert_eq!(request, exec("s", "main"), "the first container is meant");
    let mut user = user.expect("it is relayed");
    let size = wire::TerminalSize { rows: 3, columns: 4 };
    let inputs = [
        Input::Begin(wire::RelayBegin {}),
        Input::Data(vec![0, 255]),
        Input::Resize(size),
        Input::Signal(2),
        Input::eof(),
    ];
    for input in inputs {
        user.say(input.clone()).await;
        assert_eq!(relay.hear().await, Some(input));
    }
    let outputs = [
        Output::Data(vec![1]),
        Output::Stderr(vec![2]),
        Output::eof(),
        Output::exit(3),
    ];
    for output in outputs {
        relay.say(output.clone()).await;
        assert_eq!(user.hear().await.expect("no fault"), Some(output));
    }
    drop(relay.says);
    assert_eq!(user.hear().await.expect("it ends well"), None);
    drop(user);
    assert_eq!(
        within("the end", relay.hears.message()).await.expect("it ends"),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_a_users_stream_is_the_end_of_his_data_and_not_of_the_answer() {
    let cluster = Cluster::start(1).await;
    let mut agent = placed(&cluster).await;
    let (User { says, mut hears }, mut relay) = pair(&cluster, &mut agent).await;
    drop(says);
    assert_eq!(relay.hear().await, Some(Input::eof()));
    relay.say(Output::exit(0)).await;
    let heard = within("a word", hears.message()).await.expect("no fault");
    assert_eq!(heard.and_then(|heard| heard.output), Some(Output::exit(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_side_holds_the_other_back_and_nobody_else() {
    let cluster = Cluster::start(1).await;
    let mut agent = placed(&cluster).await;
    let (user, relay) = pair(&cluster, &mut agent).await;
    // Until neither takes any more, of which the session must notice nothing.
    let up = async {
        let chunk = || wire::RelayUp {
            message: Some(relay_up::Message::Output(Output::Data(vec![0; MAX_CHUNK]).into())),
        };
        let mut sent = 0;
        while let Ok(taken) = tokio::time::timeout(Duration::from_millis(500), relay.says.send(chunk())).await
        {
            taken.expect("it is open");
            sent += 1;
        }
        sent
    };
    let down = async {
        let chunk = || Input::Data(vec![0; MAX_CHUNK]).into();
        let mut sent = 0;
        while let Ok(taken) = tokio::time::timeout(Duration::from_millis(500), user.says.send(chunk())).await
        {
            taken.expect("it is open");
            sent += 1;
        }
        sent
    };
    let (up, down) = within("both are held back", async { tokio::join!(up, down) }).await;
    // Some windows and messages of each connection, of which these two are a test's with windows of 2 MiB.
    assert!(up < 128 && down < 128, "{up} and {down} chunks are held");
    agent.heartbeat(1).await;
    assert!(matches!(agent.hear().await, Ok(Message::HeartbeatAck(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_that_goes_ends_the_other() {
    let cluster = Cluster::start(1).await;
    let mut agent = placed(&cluster).await;
    let (user, mut relay) = pair(&cluster, &mut agent).await;
    drop(user);
    while relay.hear().await.is_some() {}
    within("the other direction", relay.says.closed()).await;

    let (mut user, relay) = pair(&cluster, &mut agent).await;
    let message = Some(relay_up::Message::Error("it does not run".to_owned()));
    relay
        .says
        .send(wire::RelayUp { message })
        .await
        .expect("there is room");
    let status = user.hear().await.expect_err("it is refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(
        status.message(),
        "exec of sandbox s: the agent of node n: it does not run"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn user_who_breaks_the_rules_is_told() {
    let cluster = Cluster::start(1).await;
    let mut agent = placed(&cluster).await;
    for input in [Input::Data(vec![0; MAX_CHUNK + 1]), Input::Open(exec("s", ""))] {
        let (mut user, mut relay) = pair(&cluster, &mut agent).await;
        user.say(input).await;
        let status = user.hear().await.expect_err("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(relay.hear().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversation_that_cannot_be_is_refused_with_the_reason_and_nothing_is_begun() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let check = async |replica: usize, request: wire::RelayRequest, code: Code| {
        let status = match User::open(&cluster, replica, request).await {
            Err(status) => status,
            Ok(_) => panic!("it must be refused with {code:?}"),
        };
        assert_eq!(status.code(), code, "{status:?}");
        status
    };
    apply(&cluster, sandbox("s", "")).await;
    let status = check(follower, exec("s", ""), Code::FailedPrecondition).await;
    assert_names_leader(&status, cluster.endpoint(leader));
    check(leader, exec("t", ""), Code::NotFound).await;
    check(leader, exec("s", ""), Code::FailedPrecondition).await;
    let mut agent = Agent::join(&cluster, "n").await;
    agent.told_to_run("s").await;
    let status = check(leader, exec("s", "other"), Code::InvalidArgument).await;
    assert!(status.message().contains("it has main"), "{status:?}");
    let nothing = wire::RelayRequest {
        what: None,
        ..exec("s", "")
    };
    check(leader, nothing, Code::InvalidArgument).await;
    let refusing = async {
        let refused = wire::RelayRefused {
            relay_id: asked(&mut agent).await.relay_id,
            why: "it serves too many".to_owned(),
        };
        agent.say(agent_message::Message::RelayRefused(refused)).await;
    };
    let (status, ()) = tokio::join!(check(leader, exec("s", ""), Code::FailedPrecondition), refusing);
    assert!(
        status.message().contains("node n refuses: it serves too many"),
        "{status:?}"
    );
    drop(agent);
    // Until the end of its session is known, it is asked in vain.
    let away = async {
        let away = "agent of node n is not connected";
        while !check(leader, exec("s", ""), Code::Unavailable)
            .await
            .message()
            .contains(away)
        {}
    };
    within("the end of the session", away).await;
}
