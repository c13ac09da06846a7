//! Agents and the leader.

use crate::agent::{Agent, running};
use crate::cluster::{Cluster, within};
use crate::user::*;
use proto::wire::{self, Kind, Phase, leader_message::Message, open_relay, relay_up};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_that_an_agent_runs_is_shown_running_by_a_follower() {
    let cluster = Cluster::start(3).await;
    let mut agent = Agent::join(&cluster, "n").await;
    assert_eq!(agent.welcome.endpoints.len(), 3);
    assert!(agent.desired().await.full);
    let mut watch = Watch::of(&cluster, cluster.follower().await, Kind::Sandbox, "s").await;
    apply(&cluster, sandbox("s", "ports: [{container_port: 80}],")).await;
    let desired = agent.told_to_run("s").await;
    assert_eq!(desired.ports[0].container_port, 80);
    assert_eq!(desired.ttl_remaining_ms, 0);
    agent.report(running(&desired)).await;
    let shown = watch.until_phase(Phase::Running).await.status.expect("a status");
    assert_eq!((shown.node_name.as_str(), shown.ip.as_str()), ("n", "10.89.0.1"));
    assert_eq!(shown.assigned_ports, desired.ports);
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_sends_an_agent_to_the_leader() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let refused = Agent::try_join(&cluster, follower, "n", Vec::new()).await;
    let status = refused.err().expect("a follower has no sessions");
    assert_names_leader(&status, cluster.endpoint(leader));
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_acknowledged_and_a_report_of_the_agent_itself_is_not_echoed() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    let desired = agent.told_to_run("s").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    agent.report(running(&desired)).await;
    watch.until_phase(Phase::Running).await;
    match agent.hear().await.expect("the session is open") {
        Message::ReportAck(ack) => assert_eq!(ack.reports, 1),
        other => panic!("the report is acknowledged next, not {other:?}"),
    }
    agent.heartbeat(7).await;
    match agent.hear().await.expect("the session is open") {
        Message::HeartbeatAck(ack) => assert_eq!(ack.sequence, 7),
        other => panic!("an acknowledgement comes next, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn report_that_is_no_news_is_acknowledged_as_well() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    agent.desired().await;
    assert!(agent.welcome.report_window > 0);
    let unheard_of = wire::SandboxReport {
        sandbox_id: "unheard-of".to_owned(),
        uid: 99,
        phase: Phase::Running.into(),
        ..Default::default()
    };
    agent.report(unheard_of).await;
    match agent.hear().await.expect("the session is open") {
        Message::ReportAck(ack) => assert_eq!(ack.reports, 1),
        other => panic!("an acknowledgement comes next, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_sandbox_is_gone_once_its_agent_says_so() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    let desired = agent.told_to_run("s").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    delete(&cluster, Kind::Sandbox, "s").await;
    watch.until_phase(Phase::Deleting).await;
    agent.told_to_remove(desired.uid).await;
    // As an agent says it that has kept no name.
    let gone = wire::SandboxReport {
        uid: desired.uid,
        phase: Phase::Deleting.into(),
        ..Default::default()
    };
    agent.report(gone).await;
    watch.until_deleted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_deleted_while_its_agent_was_away_is_gone_when_it_comes_without_it() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    drop(agent);
    delete(&cluster, Kind::Sandbox, "s").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    let _agent = Agent::join(&cluster, "n").await;
    watch.until_deleted().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_sandbox_that_its_node_has_lost_fails_and_is_not_started_again() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    let desired = agent.told_to_run("s").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    agent.report(running(&desired)).await;
    watch.until_phase(Phase::Running).await;
    let found = Agent::try_join(&cluster, 0, "n", vec![running(&desired)]).await;
    let again = found.expect("it is welcome").desired().await;
    assert!(!again.sandboxes[0].ended, "it is there, and goes on");
    let mut restarted = Agent::join(&cluster, "n").await;
    assert!(restarted.desired().await.sandboxes[0].ended);
    let failed = watch.until_phase(Phase::Failed).await.status.expect("a status");
    assert_eq!(failed.reason(), wire::Reason::AgentError);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_session_of_a_node_ends_the_first() {
    let cluster = Cluster::start(1).await;
    let first = Agent::join(&cluster, "n").await;
    let mut second = Agent::join(&cluster, "n").await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    apply(&cluster, sandbox("s", "")).await;
    second.told_to_run("s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_move_to_the_next_leader() {
    let mut cluster = Cluster::start(3).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    let desired = agent.told_to_run("s").await;
    let old = agent.welcome.leader_id;
    cluster.stop(cluster.leader().await).await;
    let status = agent.end().await;
    assert!(
        matches!(status.code(), Code::FailedPrecondition | Code::Unavailable),
        "{status:?}"
    );
    let mut agent = Agent::join_with(&cluster, "n", vec![running(&desired)]).await;
    assert_ne!(agent.welcome.leader_id, old);
    let all = agent.desired().await;
    assert!(all.full);
    assert_eq!(all.sandboxes[0].uid, desired.uid);
    let mut watch = Watch::of(&cluster, cluster.leader().await, Kind::Sandbox, "s").await;
    watch.until_phase(Phase::Running).await;
}

fn line(text: &str) -> wire::LogLine {
    wire::LogLine {
        container: "main".to_owned(),
        line: text.as_bytes().to_vec(),
        time_unix_ns: 1,
        ..Default::default()
    }
}

/// Waits for the relay that the agent is asked for, and sends these lines on it; the relay ends when `says` is dropped.
pub(crate) async fn relay_lines(
    cluster: &Cluster,
    agent: &mut Agent,
    lines: &[&str],
) -> (
    wire::LogsRequest,
    mpsc::Sender<wire::RelayUp>,
    tonic::Streaming<wire::RelayDown>,
) {
    let asked = loop {
        if let Message::OpenRelay(asked) = agent.hear().await.expect("the session is open") {
            break asked;
        }
    };
    let Some(open_relay::What::Logs(request)) = asked.what else {
        panic!("logs were asked for");
    };
    let (says, said) = mpsc::channel(16);
    let up = |message| wire::RelayUp {
        message: Some(message),
    };
    says.send(up(relay_up::Message::RelayId(asked.relay_id)))
        .await
        .expect("there is room");
    let lines = lines.iter().map(|text| line(text)).collect();
    says.send(up(relay_up::Message::Logs(wire::LogsChunk { lines })))
        .await
        .expect("there is room");
    let mut client = cluster.agent(cluster.leader().await);
    let down = within("the relay", client.relay(ReceiverStream::new(said)))
        .await
        .expect("it is waited for");
    (request, says, down.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_relayed_to_the_user_until_they_end() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let request = wire::LogsRequest {
        sandbox_id: "s".to_owned(),
        tail: Some(3),
        ..Default::default()
    };
    let mut control = cluster.control(0);
    let read = async {
        let mut lines = control
            .logs(request.clone())
            .await
            .expect("it is relayed")
            .into_inner();
        let first = lines.message().await.expect("no fault").expect("there are lines");
        (first.lines, lines)
    };
    let ((lines, mut rest), (asked, says, _down)) = within("the relay", async {
        tokio::join!(read, relay_lines(&cluster, &mut agent, &["hello"]))
    })
    .await;
    assert_eq!(asked, request);
    assert_eq!(lines, [line("hello")]);
    drop(says);
    assert_eq!(within("the end", rest.message()).await.expect("no fault"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_who_goes_away_ends_the_agents_relay() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let request = wire::LogsRequest {
        sandbox_id: "s".to_owned(),
        follow: true,
        ..Default::default()
    };
    let mut control = cluster.control(0);
    let (lines, (_, _says, mut down)) = within("the relay", async {
        tokio::join!(
            control.logs(request),
            relay_lines(&cluster, &mut agent, &["hello"])
        )
    })
    .await;
    drop(lines.expect("it is relayed"));
    let ended = within("the end", down.message()).await;
    assert!(!matches!(ended, Ok(Some(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_nobody_can_give_are_refused_with_the_reason() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    apply(&cluster, sandbox("s", "")).await;
    let check = async |replica: usize, id: &str, container: &str, code: Code| {
        let request = wire::LogsRequest {
            sandbox_id: id.to_owned(),
            container: container.to_owned(),
            ..Default::default()
        };
        let status = cluster
            .control(replica)
            .logs(request)
            .await
            .expect_err("there are none");
        assert_eq!(status.code(), code, "{status:?}");
        status
    };
    let status = check(follower, "s", "", Code::FailedPrecondition).await;
    assert_names_leader(&status, cluster.endpoint(leader));
    check(leader, "t", "", Code::NotFound).await;
    check(leader, "s", "other", Code::InvalidArgument).await;
    check(leader, "s", "", Code::FailedPrecondition).await;
    let mut agent = Agent::join(&cluster, "n").await;
    agent.told_to_run("s").await;
    drop(agent);
    check(leader, "s", "", Code::Unavailable).await;
}
