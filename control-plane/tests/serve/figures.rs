//! What Prometheus is told, and what gRPC's own tools are.

use crate::agent::Agent;
use crate::cluster::{Cluster, within};
use crate::rest::Http;
use crate::user::*;
use axum::body::to_bytes;
use axum::http::{Method, StatusCode, header};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const DOCUMENT: &str = include_str!("../../../docs/operations.md");

async fn scrape(cluster: &Cluster, replica: usize) -> String {
    let http = Http::of(cluster, replica);
    let response = http
        .send(http.request(&Method::GET, "/metrics", &Value::Null))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let content = response.headers()[header::CONTENT_TYPE].to_str().expect("text");
    assert!(content.starts_with("application/openmetrics-text"), "{content}");
    let bytes = within("the body", to_bytes(response.into_body(), 1 << 20)).await;
    String::from_utf8(bytes.expect("it is whole").to_vec()).expect("it is text")
}

/// As they are asked for: counters end in `_total`, and what is counted in buckets has no ending.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| match line.split_once(' ').expect("name and type") {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect()
}

fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name, value.parse().ok()?))
    });
    samples.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_is_documented_and_every_documented_one_is_there() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let told = names(&scrape(&cluster, 0).await);
    let section = DOCUMENT
        .split("\n## ")
        .find(|section| section.starts_with("Metrics"));
    let documented: BTreeSet<String> = section
        .expect("there is a section")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.split('{').next().unwrap_or(name).to_owned())
        .collect();
    assert_eq!(told, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_tell_what_has_happened() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    apply(&cluster, sandbox("far", "node_selector: {region: mars},")).await;
    agent.told_to_run("s").await;
    let text = scrape(&cluster, leader).await;
    let samples = samples(&text);
    let check =
        |name: &str, expected: f64| assert_eq!(samples.get(name), Some(&expected), "{name} in {text}");
    check("sandboxd_raft_is_leader", 1.0);
    check("sandboxd_raft_leader_id", leader as f64 + 1.0);
    check("sandboxd_scheduler_pending", 1.0);
    check("sandboxd_scheduler_placements_total", 1.0);
    check("sandboxd_scheduler_wait_seconds_count", 1.0);
    check("sandboxd_sandboxes{phase=\"Pending\"}", 1.0);
    check("sandboxd_sandboxes{phase=\"Scheduled\"}", 1.0);
    check("sandboxd_nodes{state=\"Ready\"}", 1.0);
    check("sandboxd_sessions_open", 1.0);
    check(
        "sandboxd_api_requests_total{transport=\"grpc\",method=\"Control/Apply\",code=\"Ok\"}",
        2.0,
    );
    let positive = |name: &str| assert!(samples.get(name).is_some_and(|v| *v > 0.0), "{name} in {text}");
    positive("sandboxd_raft_last_applied_index");
    positive("sandboxd_raft_commit_seconds_count");
    positive("sandboxd_storage_fsync_seconds_count");
    positive("sandboxd_storage_bytes{part=\"log\"}");
    positive("process_resident_memory_bytes");
    positive("process_start_time_seconds");
    // Only a viewer is told, and whoever is turned away is counted.
    let secure = Cluster::secure(1).await;
    let token = Some(&secure.identity().token);
    let (status, _) = crate::secure::get_page(&secure, "/metrics", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, text) = crate::secure::get_page(&secure, "/metrics", token).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("code=\"401\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_to_everybody_and_follows_the_leadership() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let check = async |cluster: &Cluster, replica: usize, service: &str| {
        let mut health = HealthClient::new(cluster.service(replica, None));
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = within("health", health.check(request)).await.expect("it is told");
        answer.into_inner().status()
    };
    for (replica, service, expected) in [
        (leader, "", ServingStatus::Serving),
        (leader, "sandboxd.v1.Agent", ServingStatus::Serving),
        (follower, "sandboxd.v1.Control", ServingStatus::Serving),
        (follower, "sandboxd.v1.Agent", ServingStatus::NotServing),
    ] {
        let told = check(&cluster, replica, service).await;
        assert_eq!(told, expected, "replica {replica}, `{service}`");
    }
    for replica in (0..3).filter(|n| *n != leader) {
        cluster.stop(replica).await;
    }
    let alone = async {
        while check(&cluster, leader, "").await != ServingStatus::NotServing {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the loss of the quorum", alone).await;
    // A stranger is told as well.
    let secure = Cluster::secure(1).await;
    assert_eq!(check(&secure, 0, "").await, ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_described_to_who_may_look() {
    let cluster = Cluster::secure(1).await;
    let ask = async |token| {
        let mut reflection = ServerReflectionClient::new(cluster.service(0, token));
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let asked = futures::stream::iter([request]);
        let mut answers = within("an answer", reflection.server_reflection_info(asked))
            .await?
            .into_inner();
        within("an answer", answers.message()).await
    };
    ask(None).await.expect_err("a stranger is told nothing");
    let answer = ask(Some(&cluster.identity().token)).await.expect("it is told");
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.and_then(|a| a.message_response) else {
        panic!("no list of services");
    };
    let names: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains("sandboxd.v1.Control"), "{names:?}");
    assert!(!names.contains("sandboxd.v1.Raft"), "{names:?}");
}
