//! The same over HTTP and JSON.

use crate::agent::{Agent, running};
use crate::cluster::{Cluster, within};
use crate::session::relay_lines;
use crate::user::{self, Watch};
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use futures::StreamExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::wire::{Kind, Phase};
use serde_json::{Value, json};

/// Above every answer of these tests.
const LONGEST: usize = 1 << 20;

/// A client of one replica.
pub(crate) struct Http<'a> {
    endpoint: &'a str,
    client: Client<HttpConnector, Body>,
}

impl<'a> Http<'a> {
    pub(crate) fn of(cluster: &'a Cluster, replica: usize) -> Self {
        Self::at(cluster.endpoint(replica))
    }

    pub(crate) fn at(endpoint: &'a str) -> Self {
        Self {
            endpoint,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> axum::http::Response<Body> {
        within("an answer", self.client.request(request))
            .await
            .expect("the replica is there")
            .map(Body::new)
    }

    pub(crate) fn request(&self, method: &Method, path: &str, body: &Value) -> Request<Body> {
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let builder = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.endpoint));
        builder.body(body).expect("the request is good")
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.send(self.request(&method, path, &body)).await;
        let status = response.status();
        let bytes = within("the body", to_bytes(response.into_body(), LONGEST))
            .await
            .expect("it is whole");
        let value = serde_json::from_slice(&bytes);
        (
            status,
            value.unwrap_or_else(|_| panic!("{method} {path}: {status}, {bytes:?}")),
        )
    }

    /// Fails where the status is another one; gives the body.
    pub(crate) async fn check(&self, method: Method, path: &str, body: Value, expected: u16) -> Value {
        let what = format!("{method} {path} {body}");
        let (status, answer) = self.ask(method, path, body).await;
        assert_eq!(status.as_u16(), expected, "{what}: {answer}");
        if expected >= 400 {
            assert!(answer["error"].is_string(), "{what}: {answer}");
        }
        answer
    }
}

fn body(id: &str) -> Value {
    json!({
        "id": id,
        "metadata": { "labels": { "team": "a" } },
        "spec": { "containers": [
            { "name": "main", "image": "busybox", "resource": { "cpu": "100m", "memory": "32Mi" } }
        ] },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_goes_round_through_a_follower() {
    let cluster = Cluster::start(3).await;
    let http = Http::of(&cluster, cluster.follower().await);
    let path = "/api/v1/sandboxes";
    let created = http.check(Method::POST, path, body("s"), 201).await;
    assert_eq!(created["sandbox"]["status"]["phase"], "Pending");
    assert_eq!(
        created["sandbox"]["spec"]["containers"][0]["image"],
        "docker.io/library/busybox:latest"
    );
    http.check(Method::POST, path, body("s"), 409).await;
    let shown = http
        .check(Method::GET, "/api/v1/sandboxes/s", Value::Null, 200)
        .await;
    assert_eq!(shown["sandbox"]["id"], "s");
    let patch = json!({ "ttl_seconds": 3600, "labels": { "team": null, "tier": "1" } });
    let patched = http.check(Method::PATCH, "/api/v1/sandboxes/s", patch, 200).await;
    assert_eq!(patched["sandbox"]["metadata"]["labels"], json!({ "tier": "1" }));
    assert_eq!(patched["sandbox"]["spec"]["ttl_seconds"], 3600);
    assert!(patched["sandbox"]["status"]["expire_at"].is_string());
    http.check(
        Method::PATCH,
        "/api/v1/sandboxes/s",
        json!({ "spec": { "egress": true } }),
        400,
    )
    .await;
    let deleted = http
        .check(Method::DELETE, "/api/v1/sandboxes/s", Value::Null, 200)
        .await;
    assert_eq!(deleted, json!({ "deleted": "s" }));
    http.check(Method::GET, "/api/v1/sandboxes/s", Value::Null, 404)
        .await;
    http.check(Method::DELETE, "/api/v1/sandboxes/s", Value::Null, 404)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_requests_are_refused_with_their_status() {
    let cluster = Cluster::start(1).await;
    let http = Http::of(&cluster, 0);
    let nothing = || Value::Null;
    http.check(
        Method::POST,
        "/api/v1/sandboxes",
        json!({ "id": "s", "spec": {} }),
        400,
    )
    .await;
    http.check(Method::POST, "/api/v1/sandboxes", json!("text"), 400)
        .await;
    http.check(Method::GET, "/api/v1/sandboxes?phase=Asleep", nothing(), 400)
        .await;
    http.check(Method::GET, "/api/v1/sandboxes?limit=many", nothing(), 400)
        .await;
    http.check(Method::GET, "/api/v1/sandboxes?label=!", nothing(), 400)
        .await;
    http.check(Method::GET, "/api/v1/nodes?phase=Running", nothing(), 400)
        .await;
    http.check(Method::GET, "/api/v1/sandboxes/s/logs", nothing(), 404)
        .await;
    http.check(Method::GET, "/api/v1/nothing", nothing(), 404).await;
    http.check(Method::PUT, "/api/v1/sandboxes", nothing(), 405).await;
    http.check(Method::PATCH, "/api/v1/nodes/n", json!({}), 404).await;
    http.check(Method::GET, "/api/v1/watch?kind=pod", nothing(), 400)
        .await;
    let mut request = http.request(&Method::DELETE, "/api/v1/externals/e", &nothing());
    request
        .headers_mut()
        .insert("idempotency-key", "1".parse().expect("a value"));
    assert_eq!(http.send(request).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_filtered_and_read_page_by_page() {
    let cluster = Cluster::start(1).await;
    let http = Http::of(&cluster, 0);
    for id in ["a", "b", "c"] {
        http.check(Method::POST, "/api/v1/sandboxes", body(id), 201).await;
    }
    let check = async |query: &str, expected: &[&str]| {
        let answer = http
            .check(
                Method::GET,
                &format!("/api/v1/sandboxes{query}"),
                Value::Null,
                200,
            )
            .await;
        let items = answer["items"].as_array().expect("a list").iter();
        let ids: Vec<&str> = items.filter_map(|item| item["id"].as_str()).collect();
        assert_eq!(ids, expected, "{query}");
        answer["cursor"].as_str().map(str::to_owned)
    };
    assert_eq!(check("", &["a", "b", "c"]).await, None);
    assert_eq!(check("?label=team=b", &[]).await, None);
    assert_eq!(check("?label=team=a&phase=pending", &["a", "b", "c"]).await, None);
    assert_eq!(check("?phase=Running", &[]).await, None);
    let cursor = check("?limit=2", &["a", "b"]).await.expect("there is more");
    assert_eq!(check(&format!("?limit=2&cursor={cursor}"), &["c"]).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_externals_are_created_changed_and_deleted() {
    let cluster = Cluster::start(1).await;
    let http = Http::of(&cluster, 0);
    let _agent = Agent::join(&cluster, "n").await;
    let node = json!({ "id": "n", "metadata": { "labels": { "region": "eu" } } });
    http.check(Method::POST, "/api/v1/nodes", node, 200).await;
    let external = json!({ "id": "e", "spec": { "node_id": "n", "external": "x.test" } });
    let shown = http.check(Method::POST, "/api/v1/externals", external, 200).await;
    assert_eq!(shown["external"]["spec"]["external"], "x.test");
    let patch = json!({ "metadata": { "labels": { "region": "us" } }, "spec": { "unschedulable": true } });
    http.check(Method::PATCH, "/api/v1/nodes/n", patch, 200).await;
    let node = http.check(Method::GET, "/api/v1/nodes/n", Value::Null, 200).await["node"].take();
    assert_eq!(
        (&node["state"], &node["unschedulable"]),
        (&json!("Ready"), &json!(true))
    );
    assert_eq!(node["metadata"]["labels"], json!({ "region": "us" }));
    assert_eq!(node["resources"]["external"], "x.test");
    assert_eq!(node["resources"]["allocatable_cpu_milli"], 3_600);
    assert!(node["last_heartbeat"].is_string());
    let listed = http
        .check(Method::GET, "/api/v1/externals", Value::Null, 200)
        .await;
    assert_eq!(listed["items"][0]["id"], "e");
    http.check(Method::DELETE, "/api/v1/externals/e", Value::Null, 200)
        .await;
    http.check(Method::GET, "/api/v1/externals/e", Value::Null, 404)
        .await;
    http.check(Method::DELETE, "/api/v1/nodes/n?force=true", Value::Null, 200)
        .await;
}

/// A path of what is not there.
fn missing(path: &str) -> String {
    ["{id}", "{sid}", "{c}"]
        .iter()
        .fold(path.to_owned(), |path, name| path.replace(name, "no-such"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_described_path_is_served() {
    let cluster = Cluster::start(1).await;
    let http = Http::of(&cluster, 0);
    let description = http.check(Method::GET, "/openapi.json", Value::Null, 200).await;
    for (path, operations) in description["paths"].as_object().expect("paths") {
        for method in operations
            .as_object()
            .expect("operations")
            .keys()
            .filter(|key| *key != "parameters")
        {
            let method: Method = method.to_uppercase().parse().expect("a method");
            // What is asked for is not there, which the interface says in its own words.
            let request = http.request(&method, &missing(path), &Value::Null);
            let response = http.send(request).await;
            let status = response.status();
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            if status == StatusCode::NOT_FOUND {
                let bytes = to_bytes(response.into_body(), LONGEST)
                    .await
                    .expect("it is whole");
                let text = String::from_utf8_lossy(&bytes);
                assert!(!text.contains("no such path"), "{method} {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_says_that_it_lives_and_is_ready_and_who_is_there() {
    let cluster = Cluster::start(3).await;
    let http = Http::of(&cluster, cluster.follower().await);
    http.check(Method::GET, "/healthz", Value::Null, 200).await;
    http.check(Method::GET, "/readyz", Value::Null, 200).await;
    let members = http.check(Method::GET, "/api/v1/cluster", Value::Null, 200).await;
    assert_eq!(members["replicas"].as_array().map(Vec::len), Some(3));
    let leader = cluster.leader().await as u64 + 1;
    assert_eq!(members["leader_id"], leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_through_a_follower() {
    let cluster = Cluster::start(3).await;
    let mut agent = Agent::join(&cluster, "n").await;
    user::apply(&cluster, user::sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let http = Http::of(&cluster, cluster.follower().await);
    let read = http.check(Method::GET, "/api/v1/sandboxes/s/logs?tail=2", Value::Null, 200);
    let answer = async {
        let (request, says, down) = relay_lines(&cluster, &mut agent, &["hello", "again"]).await;
        assert_eq!(request.tail, Some(2));
        drop(says);
        down
    };
    let (lines, _down) = tokio::join!(read, answer);
    let expected = json!({ "sandbox_id": "s", "logs": { "lines": ["[main] hello", "[main] again"] } });
    assert_eq!(lines, expected);
    drop(agent);
    http.check(Method::GET, "/api/v1/sandboxes/s/logs", Value::Null, 502)
        .await;
}

/// Lines come as they are written, as text; since when is told by a time or by how long ago.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_as_text() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    user::apply(&cluster, user::sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let http = Http::of(&cluster, 0);
    let path = "/api/v1/sandboxes/s/logs?follow=true&container=main&since=2026-01-31T08:00:00Z";
    let request = http.request(&Method::GET, path, &Value::Null);
    let read = http.send(request);
    let answer = relay_lines(&cluster, &mut agent, &["hello"]);
    let (response, (asked, says, _down)) = tokio::join!(read, answer);
    assert!(asked.follow);
    assert_eq!((&*asked.container, asked.since_ms), ("main", 1_769_846_400_000));
    let mut lines = response.into_body().into_data_stream();
    let line = within("a line", lines.next())
        .await
        .expect("it goes on")
        .expect("no fault");
    assert_eq!(line, "[main] hello\n");
    drop(says);
    assert!(within("the end", lines.next()).await.is_none());
    for (wrong, why) in [
        ("since=yesterday", "10m"),
        ("tail=-1", "tail"),
        ("container=x", "it has main"),
        ("lines=3", "lines"),
    ] {
        let path = format!("/api/v1/sandboxes/s/logs?{wrong}");
        let refused = http.check(Method::GET, &path, Value::Null, 400).await;
        let told = refused["error"].as_str().unwrap_or_default();
        assert!(told.contains(why), "{wrong}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_events() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    let http = Http::of(&cluster, 0);
    let request = http.request(&Method::GET, "/api/v1/watch?kind=sandbox", &Value::Null);
    let mut stream = http.send(request).await.into_body().into_data_stream();
    let mut text = String::new();
    let mut until = async |part: &str| {
        let told = async {
            while !text.contains(part) {
                let bytes = stream.next().await.expect("it goes on").expect("no fault");
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        within(part, told).await;
    };
    until("event: synced").await;
    user::apply(&cluster, user::sandbox("s", "")).await;
    until("event: changed").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    let desired = agent.told_to_run("s").await;
    agent.report(running(&desired)).await;
    watch.until_phase(Phase::Running).await;
    until("\"phase\":\"Running\"").await;
}

/// As a browser does that opens a broken stream again: with the id of the last event.
#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_behind_the_last_one_of_all_kinds() {
    let cluster = Cluster::start(1).await;
    user::apply(&cluster, user::external("a", "n", "x.test")).await;
    let http = Http::of(&cluster, 0);
    let read = async |query: &str, last: Option<&str>, until: &str| {
        let mut request = http.request(&Method::GET, &format!("/api/v1/watch{query}"), &Value::Null);
        if let Some(last) = last {
            let last = last.parse().expect("a value");
            request.headers_mut().insert("last-event-id", last);
        }
        let mut stream = http.send(request).await.into_body().into_data_stream();
        let mut text = String::new();
        while !text.contains(until) {
            let bytes = within(until, stream.next())
                .await
                .expect("it goes on")
                .expect("no fault");
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        text
    };
    let text = read("", None, "event: synced").await;
    assert!(
        text.contains("\"id\":\"a\"") && text.contains("id: 0\n"),
        "{text}"
    );
    let last = text.rsplit_once("id: ").expect("an id").1;
    let last = last.lines().next().expect("an id");
    user::delete(&cluster, Kind::External, "a").await;
    let text = read("", Some(last), "event: synced").await;
    assert!(
        text.contains("event: deleted") && !text.contains("event: changed"),
        "{text}"
    );
    let gone = http
        .check(Method::GET, "/api/v1/watch?since=1000000", Value::Null, 410)
        .await;
    let told = gone["error"].as_str().unwrap_or_default();
    assert!(told.contains("List again"), "{told}");
    http.check(Method::GET, "/api/v1/watch?since=yesterday", Value::Null, 400)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patch_of_another_version_is_refused() {
    let cluster = Cluster::start(1).await;
    let http = Http::of(&cluster, 0);
    let node = json!({ "id": "n", "metadata": { "labels": { "region": "eu" } } });
    let node = http.check(Method::POST, "/api/v1/nodes", node, 200).await;
    let version = node["node"]["resource_version"].as_u64().expect("a number");
    let patch =
        |version: u64, region: &str| json!({ "resource_version": version, "labels": { "region": region } });
    let path = "/api/v1/nodes/n";
    let patched = http.check(Method::PATCH, path, patch(version, "us"), 200).await;
    http.check(Method::PATCH, path, patch(version, "asia"), 409).await;
    let shown = http.check(Method::GET, path, Value::Null, 200).await;
    assert_eq!(shown, patched);
    assert_eq!(shown["node"]["metadata"]["labels"]["region"], "us");
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_reached_through_their_node() {
    let cluster = Cluster::start(3).await;
    let http = Http::of(&cluster, cluster.follower().await);
    let nothing = || Value::Null;
    let mut agent = Agent::join(&cluster, "n").await;
    let _other = Agent::join(&cluster, "m").await;
    // Pinned: also the fuller of both would have taken it.
    let path = "/api/v1/nodes/n/sandboxes";
    let created = http.check(Method::POST, path, body("s"), 201).await;
    assert_eq!(
        created["sandbox"]["spec"]["node_selector"]["sandboxd.o/node"],
        "n"
    );
    let desired = agent.told_to_run("s").await;
    agent.report(running(&desired)).await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    watch.until_phase(Phase::Running).await;
    let listed = http.check(Method::GET, path, nothing(), 200).await;
    assert_eq!(listed["items"][0]["id"], "s");
    let elsewhere = http
        .check(Method::GET, "/api/v1/nodes/m/sandboxes", nothing(), 200)
        .await;
    assert_eq!(elsewhere["items"], json!([]));
    http.check(Method::GET, "/api/v1/nodes/n/sandboxes/s", nothing(), 200)
        .await;
    http.check(Method::GET, "/api/v1/nodes/m/sandboxes/s", nothing(), 404)
        .await;
    http.check(Method::DELETE, "/api/v1/nodes/m/sandboxes/s", nothing(), 404)
        .await;
    let logs = "/api/v1/nodes/n/sandboxes/s/containers/main/logs";
    let read = http.check(Method::GET, logs, nothing(), 200);
    let answer = async {
        let (request, says, down) = relay_lines(&cluster, &mut agent, &["hello"]).await;
        assert_eq!(request.container, "main");
        drop(says);
        down
    };
    let (lines, _down) = tokio::join!(read, answer);
    assert_eq!(lines["logs"]["lines"], json!(["[main] hello"]));
    // A sign of life that is asked for, and comes.
    let beat = http.check(Method::POST, "/api/v1/nodes/n/heartbeat", nothing(), 200);
    let beating = async {
        agent.asked_for_heartbeat().await;
        agent.heartbeat(1).await;
    };
    let (told, ()) = tokio::join!(beat, beating);
    assert_eq!((&told["node"], &told["heartbeat"]), (&json!("n"), &json!("ok")));
    assert_eq!(told["resources"]["used_cpu_milli"], 100);
    let told = http
        .check(Method::POST, "/api/v1/nodes/n/reconcile", nothing(), 200)
        .await;
    assert_eq!(told, json!({ "ok": true }));
    http.check(Method::DELETE, "/api/v1/nodes/n/sandboxes/s", nothing(), 200)
        .await;
    // Nobody speaks for it any more.
    drop(agent);
    let away = async {
        let path = "/api/v1/nodes/n/reconcile";
        while http.ask(Method::POST, path, nothing()).await.0 != StatusCode::BAD_GATEWAY {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the end of the session", away).await;
    http.check(Method::GET, path, nothing(), 502).await;
    let told = http
        .check(Method::POST, "/api/v1/nodes/n/heartbeat", nothing(), 200)
        .await;
    assert_eq!(told["heartbeat"], "failed");
    http.check(Method::GET, "/api/v1/nodes/none/sandboxes", nothing(), 404)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_where_they_are_asked_for() {
    let cluster = Cluster::start(1).await;
    let http = Http::of(&cluster, 0);
    let mut agent = Agent::join(&cluster, "n").await;
    http.check(Method::POST, "/api/v1/sandboxes", body("s"), 201)
        .await;
    agent.told_to_run("s").await;
    let shown = http
        .check(Method::GET, "/api/v1/sandboxes/s?events=true", Value::Null, 200)
        .await;
    let events = shown["sandbox"]["events"].as_array().expect("a list");
    let reasons: Vec<&str> = events
        .iter()
        .filter_map(|event| event["reason"].as_str())
        .collect();
    assert_eq!(reasons, ["Created", "Scheduled"]);
    assert_eq!(events[1]["message"], "placed on node n");
    let shown = http
        .check(Method::GET, "/api/v1/sandboxes/s", Value::Null, 200)
        .await;
    assert!(shown["sandbox"].get("events").is_none(), "{shown}");
    let listed = http
        .check(Method::GET, "/api/v1/nodes?events=true", Value::Null, 200)
        .await;
    assert_eq!(listed["items"][0]["events"][0]["reason"], "Registered");
}

/// From the request, through a follower, to the agent that runs the sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn trace_of_a_request_goes_with_what_it_makes() {
    let cluster = Cluster::start(3).await;
    let http = Http::of(&cluster, cluster.follower().await);
    let mut agent = Agent::join(&cluster, "n").await;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut request = http.request(&Method::POST, "/api/v1/sandboxes", &body("s"));
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    request
        .headers_mut()
        .insert("traceparent", parent.parse().expect("a value"));
    let response = http.send(request).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["x-trace-id"], id);
    assert_eq!(agent.told_to_run("s").await.trace_id, id);
    // Whoever brings none is given one.
    let response = http
        .send(http.request(&Method::GET, "/healthz", &Value::Null))
        .await;
    let given = response.headers()["x-trace-id"].to_str().expect("text");
    assert!(given.len() == 32 && given != id, "{given}");
}
