//! Who may do what, on replicas with TLS: certificates, roles, revocation, exchanged certificates, audit, and answers to
//! those who guess.

use crate::agent::Agent;
use crate::cluster::{Cluster, Service, within};
use crate::identity::{audit_of, keep_audit};
use crate::user::*;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use control_plane::clock;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use identity::dial::{Dialer, Http1Dialer};
use identity::principal::Principal;
use identity::token::Secret;
use proto::wire::access_client::AccessClient;
use proto::wire::control_client::ControlClient;
use proto::wire::raft_client::RaftClient;
use proto::wire::{self, Grant, Kind};
use std::time::Duration;
use tonic::{Code, Status, Streaming};

/// Makes a token as the administrator.
pub(crate) async fn token(cluster: &Cluster, grant: Grant, machine: &str, life: Duration) -> Secret {
    let secret = Secret::generate().expect("randomness");
    let request = wire::CreateTokenRequest {
        request_id: request_id(),
        id: secret.id().to_owned(),
        name: "test".to_owned(),
        grant: grant.into(),
        hash: secret.hash().0.to_vec(),
        machine: machine.to_owned(),
        life_ms: u64::try_from(life.as_millis()).expect("short"),
    };
    let mut access = access(cluster, cluster.leader().await);
    within("a token", access.create_token(request))
        .await
        .expect("it is made");
    secret
}

fn access(cluster: &Cluster, replica: usize) -> AccessClient<Service> {
    AccessClient::new(cluster.service(replica, Some(&cluster.identity().token)))
}

async fn list(cluster: &Cluster, replica: usize, token: Option<&Secret>) -> Result<(), Status> {
    let request = wire::ListRequest {
        kind: Kind::Node.into(),
        ..Default::default()
    };
    let mut control = ControlClient::new(cluster.service(replica, token));
    within("an answer", control.list(request)).await.map(drop)
}

/// A page of the first replica, over TLS, as text.
pub(crate) async fn get_page(cluster: &Cluster, path: &str, token: Option<&Secret>) -> (StatusCode, String) {
    let http: Client<Http1Dialer, Body> =
        Client::builder(TokioExecutor::new()).build(Http1Dialer(cluster.dialer()));
    let mut request = Request::builder().uri(format!("{}{path}", cluster.endpoint(0)));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = within("an answer", http.request(request))
        .await
        .expect("it answers");
    let status = response.status();
    let body = axum::body::to_bytes(Body::new(response.into_body()), 1 << 20);
    let body = within("the body", body).await.expect("it is whole");
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[track_caller]
fn assert_code(answer: Result<(), Status>, expected: Code, part: &str) {
    let status = answer.expect_err("it is refused");
    assert_eq!(status.code(), expected, "{status:?}");
    assert!(
        status.message().contains(part),
        "{status:?} does not say `{part}`"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_token_of_this_cluster_is_answered() {
    let cluster = Cluster::secure(1).await;
    let stranger = Secret::generate().expect("randomness");
    assert_code(
        list(&cluster, 0, None).await,
        Code::Unauthenticated,
        "sbxctl token create",
    );
    assert_code(
        list(&cluster, 0, Some(&stranger)).await,
        Code::Unauthenticated,
        "not known",
    );
    list(&cluster, 0, Some(&cluster.identity().token))
        .await
        .expect("it is known");
    // Another authority's replica is none.
    let other = Cluster::secure(1).await;
    let dialer = other.dialer();
    let endpoint = dialer.endpoint(cluster.endpoint(0)).expect("a URL");
    assert!(dialer.connect(&endpoint).await.is_err());
    // And plain text is no way around.
    let plain = Dialer::plain();
    let endpoint = plain
        .endpoint(&cluster.endpoint(0).replace("https", "http"))
        .expect("a URL");
    if let Ok(channel) = plain.connect(&endpoint).await {
        let asked = ControlClient::new(channel)
            .cluster(wire::ClusterRequest::default())
            .await;
        assert!(asked.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_listener_is_for_replicas_alone() {
    let cluster = Cluster::secure(1).await;
    let url = cluster.endpoint(0).replace("7070", "7071");
    let ask = async |dialer: Dialer| {
        let endpoint = dialer.endpoint(&url).expect("a URL");
        let channel = dialer.connect(&endpoint).await.map_err(|e| e.to_string())?;
        let mut request = tonic::Request::new(wire::ClusterRequest::default());
        request.metadata_mut().insert("sbx-replica", 1.into());
        let asked = RaftClient::new(channel).describe_cluster(request).await;
        asked.map(drop).map_err(|status| status.to_string())
    };
    let replica =
        identity::credentials::Credentials::open(&cluster.identity().folder(&Principal::Replica(1)));
    let replica = Dialer::following(replica.expect("it is whole"));
    within("an answer", ask(replica))
        .await
        .expect("a replica is answered");
    assert!(
        within("a refusal", ask(cluster.dialer())).await.is_err(),
        "no certificate"
    );
    let node = Dialer::following(cluster.identity().node("n"));
    assert!(
        within("a refusal", ask(node)).await.is_err(),
        "a node's certificate"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_speaks_for_its_own_node_alone() {
    let cluster = Cluster::secure(1).await;
    let credentials = cluster.identity().node("n");
    let greet = async |node: &str| {
        let client = cluster.agent_as(0, &credentials);
        within("an answer", Agent::greet(client, node, Vec::new()))
            .await
            .map(drop)
    };
    greet("n").await.expect("it is its own");
    assert_code(
        greet("other").await,
        Code::PermissionDenied,
        "does not speak for node other",
    );
    let anonymous = Agent::greet(cluster.agent(0), "n", Vec::new());
    let refused = within("an answer", anonymous).await.map(drop);
    assert_code(refused, Code::PermissionDenied, "certificate");
    let mut control = ControlClient::new(cluster.service(0, None));
    assert!(control.cluster(wire::ClusterRequest::default()).await.is_err());
    // A person's token does not make an agent.
    let status = get(&mut cluster.control(0), Kind::Node, "other").await;
    assert_eq!(status.expect_err("never registered").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_may_what_they_are_for_over_grpc_and_rest() {
    let cluster = Cluster::secure(1).await;
    let http: Client<Http1Dialer, Body> =
        Client::builder(TokioExecutor::new()).build(Http1Dialer(cluster.dialer()));
    let check = async |grant: Grant, [read, write, rule]: [bool; 3]| {
        let token = token(&cluster, grant, "", Duration::ZERO).await;
        let mut control = ControlClient::new(cluster.service(0, Some(&token)));
        let may = |answer: Result<(), Status>| match answer {
            Ok(()) => true,
            Err(status) => {
                assert_eq!(status.code(), Code::PermissionDenied, "{grant:?}: {status:?}");
                false
            }
        };
        let manifest = external("e", "n", "x.test");
        assert_eq!(
            may(list(&cluster, 0, Some(&token)).await),
            read,
            "{grant:?} lists"
        );
        let applied = control.apply(apply_request(manifest)).await.map(drop);
        assert_eq!(may(applied), write, "{grant:?} applies");
        let listed = AccessClient::new(cluster.service(0, Some(&token)))
            .list_tokens(wire::ListTokensRequest::default())
            .await;
        assert_eq!(may(listed.map(drop)), rule, "{grant:?} lists tokens");
        let ask = async |method: Method, path: &str, body: &'static str| {
            let request = Request::builder()
                .method(method)
                .uri(format!("{}{path}", cluster.endpoint(0)))
                .header("authorization", format!("Bearer {token}"));
            let request = request.body(Body::from(body)).expect("a request");
            http.request(request).await.expect("an answer").status()
        };
        let read_status = ask(Method::GET, "/api/v1/nodes", "").await;
        assert_eq!(read_status == StatusCode::OK, read, "{grant:?}: {read_status}");
        let body = r#"{"id": "f", "spec": {"node_id": "m", "external": "y.test"}}"#;
        let write_status = ask(Method::POST, "/api/v1/externals", body).await;
        let expected = if write {
            StatusCode::OK
        } else {
            StatusCode::FORBIDDEN
        };
        assert_eq!(write_status, expected, "{grant:?}");
    };
    check(Grant::Viewer, [true, false, false]).await;
    check(Grant::Operator, [true, true, false]).await;
    check(Grant::Admin, [true, true, true]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_speaks_http_1_beside_grpc_and_opens_three_pages_alone() {
    let cluster = Cluster::secure(3).await;
    let follower = cluster.follower().await;
    let http: Client<Http1Dialer, Body> =
        Client::builder(TokioExecutor::new()).build(Http1Dialer(cluster.dialer()));
    let ask = async |method: Method, path: &str, token: Option<&Secret>, body: &'static str| {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", cluster.endpoint(follower)));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = http.request(request.body(Body::from(body)).expect("a request"));
        let answer = within("an answer", answer).await.expect("an answer");
        assert_eq!(answer.version(), axum::http::Version::HTTP_11);
        answer.status()
    };
    for page in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(ask(Method::GET, page, None, "").await, StatusCode::OK, "{page}");
    }
    for page in ["/metrics", "/api/v1/cluster", "/api/v1/nodes", "/nothing"] {
        assert_eq!(
            ask(Method::GET, page, None, "").await,
            StatusCode::UNAUTHORIZED,
            "{page}"
        );
    }
    // Handed on to the leader with the token, over TLS.
    let body = r#"{"id": "e", "spec": {"node_id": "n", "external": "x.test"}}"#;
    let admin = Some(&cluster.identity().token);
    assert_eq!(
        ask(Method::POST, "/api/v1/externals", admin, body).await,
        StatusCode::OK
    );
    get(&mut cluster.control(follower), Kind::External, "e")
        .await
        .expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_token_is_refused_at_once_by_every_replica() {
    let cluster = Cluster::secure(3).await;
    for _ in 0..5 {
        let token = token(&cluster, Grant::Viewer, "", Duration::ZERO).await;
        for replica in 0..3 {
            list(&cluster, replica, Some(&token))
                .await
                .expect("known at once");
        }
        let request = wire::RevokeTokenRequest {
            request_id: request_id(),
            id: token.id().to_owned(),
        };
        let mut access = access(&cluster, cluster.leader().await);
        access.revoke_token(request).await.expect("it is revoked");
        for replica in 0..3 {
            let refused = list(&cluster, replica, Some(&token)).await;
            assert_eq!(refused.expect_err("refused").code(), Code::Unauthenticated);
        }
    }
}

/// A watch of all externals that has told what there is, by somebody with this token.
async fn watching(cluster: &Cluster, replica: usize, token: &Secret) -> Streaming<wire::WatchEvent> {
    let request = wire::WatchRequest {
        kind: Kind::External.into(),
        ..Default::default()
    };
    let mut control = ControlClient::new(cluster.service(replica, Some(token)));
    let opened = within("a watch", control.watch(request)).await.expect("begun");
    let mut watch = opened.into_inner();
    within("the present", watch.message()).await.expect("told");
    watch
}

/// What a watch is told at its end.
async fn ended(mut watch: Streaming<wire::WatchEvent>) -> Status {
    let ended = async {
        loop {
            if let Err(status) = watch.message().await {
                return status;
            }
        }
    };
    within("the end of a watch", ended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_token_that_they_were_begun_with_and_no_others() {
    let cluster = Cluster::secure(3).await;
    let revoked = token(&cluster, Grant::Viewer, "", Duration::ZERO).await;
    let expiring = token(&cluster, Grant::Viewer, "", Duration::from_secs(3)).await;
    let mut others = Vec::new();
    let mut watches = Vec::new();
    for replica in 0..3 {
        others.push(watching(&cluster, replica, &cluster.identity().token).await);
        watches.push(watching(&cluster, replica, &revoked).await);
        watches.push(watching(&cluster, replica, &revoked).await);
    }
    let until = watching(&cluster, 0, &expiring).await;
    let events = tokio::spawn({
        let http: Client<Http1Dialer, Body> =
            Client::builder(TokioExecutor::new()).build(Http1Dialer(cluster.dialer()));
        let request = Request::builder()
            .uri(format!("{}/api/v1/watch?kind=external", cluster.endpoint(0)))
            .header("authorization", format!("Bearer {revoked}"))
            .body(Body::empty())
            .expect("a request");
        let answer = within("an answer", http.request(request))
            .await
            .expect("it answers");
        async move { axum::body::to_bytes(Body::new(answer.into_body()), 1 << 20).await }
    });
    let request = wire::RevokeTokenRequest {
        request_id: request_id(),
        id: revoked.id().to_owned(),
    };
    let mut access = access(&cluster, cluster.leader().await);
    access.revoke_token(request).await.expect("it is revoked");
    for watch in watches {
        assert_code(Err(ended(watch).await), Code::Unauthenticated, "it was revoked");
    }
    let events = within("the end of the events", events).await.expect("no panic");
    let events = String::from_utf8_lossy(&events.expect("it ends well")).into_owned();
    assert!(
        events.contains("event: error") && events.contains("401"),
        "{events}"
    );
    assert_code(Err(ended(until).await), Code::Unauthenticated, "has expired");
    // Nobody else notices.
    apply(&cluster, external("e", "n", "a.test")).await;
    for mut other in others {
        let told = within("an event", other.message()).await.expect("it goes on");
        assert!(told.expect("it goes on").object.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_administrator_stays_and_uses_are_listed() {
    let cluster = Cluster::secure(1).await;
    let first = cluster.identity().token.clone();
    let request = wire::RevokeTokenRequest {
        request_id: request_id(),
        id: first.id().to_owned(),
    };
    let status = access(&cluster, 0)
        .revoke_token(request)
        .await
        .expect_err("refused");
    assert!(status.message().contains("make another one first"), "{status:?}");
    let unused = token(&cluster, Grant::Viewer, "", Duration::ZERO).await;
    let listed = access(&cluster, 0)
        .list_tokens(wire::ListTokensRequest::default())
        .await
        .expect("listed")
        .into_inner();
    let used = |id: &str| {
        listed
            .tokens
            .iter()
            .find(|t| t.id == id)
            .expect("it is listed")
            .last_used_ms
    };
    assert!(used(first.id()) > 0);
    assert_eq!(used(unused.id()), 0);
    assert!(listed.tokens.iter().all(|token| token.hash.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanged_certificate_is_served_without_a_restart_and_sessions_go_on() {
    let cluster = Cluster::secure(1).await;
    let identity = cluster.identity();
    let client = cluster.agent_as(0, &identity.node("n"));
    let agent = within("a welcome", Agent::greet(client, "n", Vec::new()));
    let mut agent = agent.await.expect("it is welcome");
    let uri = cluster.endpoint(0).parse().expect("a URL");
    let shown = async || {
        let stream = cluster.dialer().shown(&uri).await.expect("a handshake");
        stream.expect("a certificate")
    };
    let before = shown().await;
    let host = cluster
        .endpoint(0)
        .trim_start_matches("https://")
        .trim_end_matches(":7070");
    identity.issue(&Principal::Replica(1), &[host.to_owned()]);
    let exchanged = async {
        while shown().await == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the new certificate", exchanged).await;
    agent.heartbeat(1).await;
    within("an answer on the old session", agent.hear())
        .await
        .expect("it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_leaves_a_line_of_who_and_what_and_how_it_ended() {
    keep_audit();
    let cluster = Cluster::secure(1).await;
    let operator = token(&cluster, Grant::Operator, "", Duration::ZERO).await;
    let mut control = ControlClient::new(cluster.service(0, Some(&operator)));
    let id = format!("audited-{}", request_id());
    let request = apply_request(external(&id, &id, "x.test"));
    control.apply(request).await.expect("it is made");
    let request = apply_request(external(&format!("{id}-2"), &id, "x.test"));
    control.apply(request).await.expect_err("the node has one");
    let check = |what: String, outcome: &str| {
        let lines = audit_of(&what);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["outcome"], outcome);
        assert_eq!(lines[0]["act"], "apply");
        assert_eq!(lines[0]["who"], format!("token/{} (test)", operator.id()));
        assert!(
            lines[0]["source"]
                .as_str()
                .is_some_and(|source| source.starts_with("127."))
        );
    };
    check(format!("external/{id}"), "done");
    check(format!("external/{id}-2"), "failed");
    let created = audit_of(&format!("token/{} (test)", operator.id()));
    assert_eq!(
        (&created[0]["act"], &created[0]["outcome"]),
        (&"create".into(), &"done".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_answered_ever_later_and_others_are_not() {
    let cluster = Cluster::secure(1).await;
    let guess = async || {
        let begun = clock::instant();
        let stranger = Secret::generate().expect("randomness");
        assert!(list(&cluster, 0, Some(&stranger)).await.is_err());
        begun.elapsed()
    };
    for _ in 0..5 {
        guess().await;
    }
    assert!(guess().await >= Duration::from_millis(100));
    assert!(guess().await >= Duration::from_millis(200));
    // From the same address, with a good token: at once, while a guess waits.
    let (slow, quick) = tokio::join!(guess(), async {
        let begun = clock::instant();
        list(&cluster, 0, Some(&cluster.identity().token))
            .await
            .expect("it is known");
        begun.elapsed()
    });
    assert!(quick < slow, "{quick:?}, {slow:?}");
}
