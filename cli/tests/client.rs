//! The client against real in-process replicas that answer as told: redirects, lost replicas, retries under
//! one request id, streams that break.

mod replica;

use cli::client::{Access, Change, Client, ClientError, Endpoint};
use proto::object::Kind;
use proto::wire;
use replica::{Act, Replica, event, event_at, external};
use std::collections::VecDeque;
use std::time::Duration;
use tonic::Code;

fn manifest() -> proto::spec::Manifest {
    let text = "{apiVersion: sandboxd.o/v1, kind: External, id: e, spec: {node_id: n, external: x.test}}";
    proto::manifest::parse(text).unwrap().remove(0)
}

fn client(servers: &[&Endpoint], timeout: Duration) -> Client {
    Client::new(
        servers.iter().map(|e| (*e).clone()).collect(),
        Access::plain(),
        timeout,
    )
    .unwrap()
}

const LONG: Duration = Duration::from_secs(20);
/// How long one replica was waited for before others were asked beside it.
const ONE_ATTEMPT: Duration = Duration::from_secs(2);

/// An address at which nothing listens.
async fn nobody() -> Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap()
}

#[tokio::test]
async fn follower_that_names_the_leader_is_followed_also_to_an_unlisted_one() {
    let leader = Replica::default();
    let leader_at = leader.serve().await;
    let follower = Replica::acting(vec![Act::NotLeader(leader_at.to_string())]);
    let follower_at = follower.serve().await;
    let client = client(&[&follower_at], LONG);
    client.apply(&manifest(), false).await.unwrap();
    client.apply(&manifest(), false).await.unwrap();
    let asked = follower.request_ids.lock().unwrap().clone();
    let answered = leader.request_ids.lock().unwrap().clone();
    assert_eq!(asked, answered[..1], "one id over the redirect");
    assert_eq!(answered.len(), 2, "the second write went straight to the leader");
    assert_ne!(answered[0], answered[1], "each write has an id of its own");
}

#[tokio::test]
async fn write_retried_over_dead_and_leaderless_replicas_keeps_its_request_id() {
    let dead = nobody().await;
    let electing = Replica::acting(vec![
        Act::NotLeader(String::new()),
        Act::NotLeader(dead.to_string()),
        Act::Fail(Code::Unavailable, "leadership was lost"),
        Act::Accept,
    ]);
    let electing_at = electing.serve().await;
    let client = client(&[&dead, &electing_at], LONG);
    let response = client.apply(&manifest(), false).await.unwrap();
    assert_eq!(response.outcome(), wire::Outcome::Created);
    let mut ids = electing.request_ids.lock().unwrap().clone();
    assert_eq!(ids.len(), 4);
    ids.dedup();
    assert_eq!(ids.len(), 1, "one id over all attempts");
}

#[tokio::test]
async fn frozen_replica_costs_a_pause_and_no_more() {
    let frozen = Replica::acting(vec![Act::Hang]);
    let frozen_at = frozen.serve().await;
    let healthy = Replica::default();
    let healthy_at = healthy.serve().await;
    let client = client(&[&frozen_at, &healthy_at], LONG);
    let begun = std::time::Instant::now();
    client.delete(Kind::External, "e", false).await.unwrap();
    assert!(begun.elapsed() < ONE_ATTEMPT, "{:?}", begun.elapsed());
    assert_eq!(
        *frozen.request_ids.lock().unwrap(),
        *healthy.request_ids.lock().unwrap()
    );
    // The next one does not wait for it.
    client.delete(Kind::External, "f", false).await.unwrap();
    assert_eq!(frozen.request_ids.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn others_are_asked_beside_a_frozen_leader_until_they_name_the_next_one() {
    let frozen = Replica::acting(vec![Act::Hang]);
    let frozen_at = frozen.serve().await;
    let next = Replica::acting(vec![Act::NotLeader(frozen_at.to_string()), Act::Accept]);
    let next_at = next.serve().await;
    let follower = Replica::acting(vec![
        Act::NotLeader(frozen_at.to_string()),
        Act::NotLeader(frozen_at.to_string()),
        Act::NotLeader(next_at.to_string()),
    ]);
    let follower_at = follower.serve().await;
    let client = client(&[&follower_at, &next_at], LONG);
    let begun = std::time::Instant::now();
    client.apply(&manifest(), false).await.unwrap();
    assert!(begun.elapsed() < ONE_ATTEMPT, "{:?}", begun.elapsed());
    let mut ids = follower.request_ids.lock().unwrap().clone();
    ids.extend(next.request_ids.lock().unwrap().clone());
    ids.dedup();
    assert_eq!(
        ids,
        *frozen.request_ids.lock().unwrap(),
        "one id, and the frozen one is asked once"
    );
}

#[tokio::test]
async fn others_are_left_alone_where_the_leader_is_merely_slow() {
    let slow = Replica::acting(vec![Act::Slow(700)]);
    let slow_at = slow.serve().await;
    let follower = Replica::acting(vec![Act::NotLeader(slow_at.to_string())]);
    let follower_at = follower.serve().await;
    let client = client(&[&slow_at, &follower_at], LONG);
    client.apply(&manifest(), false).await.unwrap();
    let asked = follower.request_ids.lock().unwrap().len();
    assert!(asked > 0, "the first time it may be frozen");
    client.apply(&manifest(), false).await.unwrap();
    assert_eq!(follower.request_ids.lock().unwrap().len(), asked);
    assert_eq!(slow.request_ids.lock().unwrap().len(), 2, "never asked twice");
}

#[tokio::test]
async fn change_that_would_be_made_twice_is_asked_of_one_replica_at_a_time() {
    let [silent, other] = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let at = |listener: &std::net::TcpListener| {
        let address = listener.local_addr().unwrap();
        format!("http://{address}").parse::<Endpoint>().unwrap()
    };
    let client = client(&[&at(&silent), &at(&other)], Duration::from_secs(1));
    let error = client.transfer_leadership(None).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    other.set_nonblocking(true).unwrap();
    let asked = other.accept().unwrap_err();
    assert_eq!(asked.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn read_goes_to_the_next_replica_and_stays_there() {
    let dead = nobody().await;
    let stopping = Replica::acting(vec![Act::Fail(Code::Unavailable, "stops")]);
    let stopping_at = stopping.serve().await;
    let healthy = Replica::default();
    let healthy_at = healthy.serve().await;
    let client = client(&[&dead, &stopping_at, &healthy_at], LONG);
    client.get(Kind::External, "e", false).await.unwrap();
    *stopping.script.lock().unwrap() = vec![Act::Fail(Code::Internal, "must not be asked again")].into();
    client.get(Kind::External, "e", false).await.unwrap();
}

#[tokio::test]
async fn refusal_for_now_is_waited_for_at_the_same_replica() {
    let busy = Replica::acting(vec![Act::Later(150), Act::Later(100), Act::Accept]);
    let busy_at = busy.serve().await;
    let other = Replica::default();
    let other_at = other.serve().await;
    let patient = client(&[&busy_at, &other_at], LONG);
    let begun = std::time::Instant::now();
    patient.apply(&manifest(), false).await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    let mut ids = busy.request_ids.lock().unwrap().clone();
    assert_eq!(ids.len(), 3);
    ids.dedup();
    assert_eq!(ids.len(), 1, "one id over all attempts");
    assert!(other.request_ids.lock().unwrap().is_empty());
    // But no longer than a request may take.
    *busy.script.lock().unwrap() = vec![Act::Later(60_000)].into();
    let hasty = client(&[&busy_at], Duration::from_millis(300));
    let error = hasty.apply(&manifest(), false).await.unwrap_err();
    assert!(
        error.is_timeout() && error.to_string().contains("too much"),
        "{error}"
    );
}

#[track_caller]
fn check_refused(error: &ClientError, code: Code, part: &str) {
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.to_string().contains(part), "{error}");
    assert!(!error.is_timeout());
}

#[tokio::test]
async fn decision_of_the_cluster_is_not_asked_for_again() {
    let replica = Replica::acting(vec![Act::Fail(Code::NotFound, "no external `e`")]);
    let at = replica.serve().await;
    let other = Replica::default();
    let other_at = other.serve().await;
    let client = client(&[&at, &other_at], LONG);
    let error = client.delete(Kind::External, "e", false).await.unwrap_err();
    check_refused(&error, Code::NotFound, "delete external/e: no external `e`");
    assert!(error.is_not_found());
    assert_eq!(replica.request_ids.lock().unwrap().len(), 1);
    assert!(other.request_ids.lock().unwrap().is_empty());
}

#[tokio::test]
async fn cluster_without_a_leader_is_reported_with_each_replicas_word_at_the_deadline() {
    let replica = Replica::acting(vec![Act::Fail(Code::Unavailable, "no quorum")]);
    let at = replica.serve().await;
    let dead = nobody().await;
    let client = client(&[&at, &dead], Duration::from_millis(600));
    let error = client.apply(&manifest(), false).await.unwrap_err();
    assert!(error.is_timeout());
    let text = error.to_string();
    for part in [
        at.as_str(),
        "no quorum",
        dead.as_str(),
        "refused",
        "not known whether",
        "--request-timeout",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(
        replica.request_ids.lock().unwrap().len() > 2,
        "it was tried again"
    );
}

#[tokio::test]
async fn watch_over_a_lost_replica_tells_what_changed_and_went_meanwhile_once() {
    use wire::watch_event::Type::{Changed, Synced};
    let replica = Replica::default();
    *replica.watches.lock().unwrap() = VecDeque::from([
        vec![
            event(Changed, Some(external("a", 1))),
            event(Changed, Some(external("b", 1))),
            event(Changed, Some(external("c", 1))),
            event(Synced, None),
        ],
        vec![
            event(Changed, Some(external("b", 1))),
            event(Changed, Some(external("c", 2))),
            event(Changed, Some(external("d", 1))),
            event(Synced, None),
        ],
    ]);
    let at = replica.serve().await;
    let client = client(&[&at], LONG);
    let mut watch = client.watch(wire::WatchRequest::default());
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(watch.next().await.unwrap());
    }
    let expected = [
        Change::Changed(external("a", 1)),
        Change::Changed(external("b", 1)),
        Change::Changed(external("c", 1)),
        Change::Synced,
        Change::Changed(external("c", 2)),
        Change::Changed(external("d", 1)),
        Change::Deleted(external("a", 1)),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn watch_over_a_lost_replica_goes_on_behind_the_last_change() {
    use wire::watch_event::Type::{Changed, Deleted, Progress, Synced};
    let replica = Replica::default();
    *replica.watches.lock().unwrap() = VecDeque::from([
        vec![
            event(Changed, Some(external("a", 1))),
            event_at(Synced, None, 5, 0),
            event_at(Progress, None, 9, 0),
            // The first of several that entry 11 has changed.
            event_at(Changed, Some(external("b", 11)), 9, 1),
        ],
        vec![
            event_at(Changed, Some(external("c", 11)), 11, 0),
            event_at(Synced, None, 12, 0),
            event_at(Deleted, Some(external("a", 1)), 13, 0),
        ],
    ]);
    let at = replica.serve().await;
    let client = client(&[&at], LONG);
    let mut watch = client.watch(wire::WatchRequest::default());
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(watch.next().await.unwrap());
    }
    let expected = [
        Change::Changed(external("a", 1)),
        Change::Synced,
        Change::Changed(external("b", 11)),
        Change::Changed(external("c", 11)),
        Change::Deleted(external("a", 1)),
    ];
    assert_eq!(seen, expected);
    let requests = replica.watch_requests.lock().unwrap().clone();
    let since: Vec<_> = requests.iter().map(|r| (r.since_index, r.since_behind)).collect();
    assert_eq!(since[..2], [(0, 0), (9, 1)]);
}

#[tokio::test]
async fn watch_whose_changes_are_not_kept_any_more_makes_them_up_from_the_present() {
    use wire::watch_event::Type::{Changed, Synced};
    let replica = Replica::default();
    *replica.watches.lock().unwrap() = VecDeque::from([
        vec![
            event(Changed, Some(external("a", 1))),
            event(Changed, Some(external("b", 1))),
            event_at(Synced, None, 5, 0),
        ],
        vec![],
        vec![
            event(Changed, Some(external("b", 9))),
            event_at(Synced, None, 90, 0),
        ],
    ]);
    *replica.breaks.lock().unwrap() = VecDeque::from([
        tonic::Status::unavailable("the replica stops"),
        tonic::Status::out_of_range("not kept"),
    ]);
    let at = replica.serve().await;
    let client = client(&[&at], LONG);
    let mut watch = client.watch(wire::WatchRequest::default());
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(watch.next().await.unwrap());
    }
    let expected = [
        Change::Changed(external("a", 1)),
        Change::Changed(external("b", 1)),
        Change::Synced,
        Change::Changed(external("b", 9)),
        Change::Deleted(external("a", 1)),
    ];
    assert_eq!(seen, expected);
    let requests = replica.watch_requests.lock().unwrap().clone();
    let since: Vec<_> = requests.iter().map(|r| r.since_index).collect();
    assert_eq!(since[..3], [0, 5, 0]);
}

#[tokio::test]
async fn watch_from_a_replica_that_is_cut_off_goes_on_elsewhere() {
    use wire::watch_event::Type::{Changed, Synced};
    let cut_off = Replica::acting(vec![Act::Fail(Code::Unavailable, "no quorum")]);
    cut_off
        .silent_after
        .lock()
        .unwrap()
        .push_back(vec![event(Synced, None)]);
    let cut_off_at = cut_off.serve().await;
    let healthy = Replica::default();
    let present = vec![event(Changed, Some(external("a", 1))), event(Synced, None)];
    healthy.silent_after.lock().unwrap().push_back(present);
    let healthy_at = healthy.serve().await;
    let client = client(&[&cut_off_at, &healthy_at], LONG);
    let mut watch = client.watch(wire::WatchRequest::default());
    assert_eq!(watch.next().await.unwrap(), Change::Synced);
    assert_eq!(watch.next().await.unwrap(), Change::Changed(external("a", 1)));
}

fn line(ns: u64, text: &str) -> wire::LogLine {
    wire::LogLine {
        container: "c".to_owned(),
        stderr: false,
        time_unix_ns: ns,
        line: text.as_bytes().to_vec(),
    }
}

#[tokio::test]
async fn followed_logs_over_a_lost_leader_show_each_line_once() {
    let second = 1_000_000_000;
    let replica = Replica::default();
    *replica.logs.lock().unwrap() = VecDeque::from([
        (vec![line(60 * second, "one"), line(61 * second, "two")], false),
        (
            vec![
                line(60 * second, "one"),
                line(61 * second, "two"),
                line(61 * second, "three"),
            ],
            true,
        ),
    ]);
    let at = replica.serve().await;
    let client = client(&[&at], LONG);
    let mut lines = client.logs(wire::LogsRequest {
        sandbox_id: "s".to_owned(),
        follow: true,
        tail: Some(10),
        ..Default::default()
    });
    let mut seen = Vec::new();
    // The stream ends; what the replica says of the sandbox then is no running sandbox: the end.
    while let Some(line) = lines.next().await.unwrap() {
        seen.push(String::from_utf8(line.line).unwrap());
    }
    assert_eq!(seen, ["one", "two", "three"]);
    let requests = replica.log_requests.lock().unwrap().clone();
    assert_eq!((requests[0].tail, requests[0].since_ms), (Some(10), 0));
    assert_eq!((requests[1].tail, requests[1].since_ms), (None, 51_000));
}

#[track_caller]
fn check_endpoint(text: &str, expected: Result<&str, &str>) {
    match (text.parse::<Endpoint>(), expected) {
        (Ok(endpoint), Ok(expected)) => assert_eq!(endpoint.as_str(), expected),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
    }
}

#[test]
fn endpoints_are_taken_in_short_and_long_form_and_checked() {
    check_endpoint("10.0.0.1:7070", Ok("https://10.0.0.1:7070"));
    check_endpoint(" http://host:1/ ", Ok("http://host:1"));
    check_endpoint("[::1]:7070", Ok("https://[::1]:7070"));
    check_endpoint("https://host:1", Ok("https://host:1"));
    check_endpoint("ftp://host:1", Err("https://HOST:PORT"));
    check_endpoint("host", Err("port is missing"));
    check_endpoint("host:0", Err("1 to 65535"));
    check_endpoint("host:http", Err("1 to 65535"));
    check_endpoint("http://:1", Err("HOST:PORT"));
}
