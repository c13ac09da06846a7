//! Machines that join: with a token, once.

use crate::agent::Agent;
use crate::cluster::{Cluster, within};
use crate::secure::token;
use crate::user::*;
use identity::authority::{Authority, Unsigned};
use identity::credentials::Credentials;
use identity::dial::Dialer;
use identity::folder;
use identity::pin::{self, Fingerprint};
use identity::token::Secret;
use proto::wire::access_client::AccessClient;
use proto::wire::join_request::Machine;
use proto::wire::{self, Grant};
use std::time::Duration;
use tonic::{Code, Status};

const HOUR: Duration = Duration::from_secs(3_600);

/// A machine that knows nothing but its token and the authority's fingerprint.
struct Newcomer {
    unsigned: Unsigned,
    request: wire::JoinRequest,
}

impl Newcomer {
    fn new(machine: Machine, secret: &Secret) -> Self {
        let unsigned = Unsigned::create().expect("a key");
        let public = unsigned.public();
        let request = wire::JoinRequest {
            request_id: request_id(),
            token_id: secret.id().to_owned(),
            secret: secret.bytes().to_vec(),
            machine: Some(machine),
            key: Some(wire::PublicKey {
                point: public.point,
                proof: public.proof,
            }),
            hosts: vec!["127.0.0.1".to_owned()],
        };
        Self { unsigned, request }
    }

    fn node(id: &str, secret: &Secret) -> Self {
        Self::new(Machine::NodeId(id.to_owned()), secret)
    }

    async fn ask(&self, cluster: &Cluster, replica: usize) -> Result<wire::JoinResponse, Status> {
        let fingerprint = Fingerprint::of_pem(cluster.identity().authority.certificate());
        let config = pin::client(fingerprint.expect("a certificate")).expect("settings");
        let dialer = Dialer::fixed(config);
        let endpoint = dialer.endpoint(cluster.endpoint(replica)).expect("a URL");
        let channel = dialer.connect(&endpoint).await.expect("it is trusted");
        let joined = AccessClient::new(channel).join(self.request.clone()).await;
        joined.map(tonic::Response::into_inner)
    }

    /// Its identity, in a folder.
    fn settle(&self, cluster: &Cluster, joined: &wire::JoinResponse) -> Credentials {
        let dir = cluster.dir().join(format!("joined-{}", self.request.request_id));
        folder::create(&dir).expect("made");
        folder::write(&dir.join(folder::AUTHORITY), &joined.authority).expect("written");
        folder::write(&dir.join(folder::KEY), &self.unsigned.key).expect("written");
        folder::write(&dir.join(folder::CERTIFICATE), &joined.certificate).expect("written");
        Credentials::open(&dir).expect("it is whole")
    }
}

#[track_caller]
fn assert_refused(answer: Result<wire::JoinResponse, Status>, code: Code, part: &str) {
    let status = answer.map(drop).expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(
        status.message().contains(part),
        "{status:?} does not say `{part}`"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn token_lets_one_agent_in_and_no_second() {
    let cluster = Cluster::secure(1).await;
    let secret = token(&cluster, Grant::JoinNode, "", HOUR).await;
    let first = Newcomer::node("n", &secret);
    let joined = first.ask(&cluster, 0).await.expect("it is let in");
    assert_eq!(joined.authority_key, "", "an agent signs nothing");
    // The answer was lost: asked again, it is the same request.
    let again = first.ask(&cluster, 0).await.expect("it is the same machine");
    let credentials = first.settle(&cluster, &again);
    let agent = Agent::greet(cluster.agent_as(0, &credentials), "n", Vec::new());
    within("a welcome", agent).await.expect("it is welcome");
    let second = Newcomer::node("m", &secret);
    assert_refused(
        second.ask(&cluster, 0).await,
        Code::FailedPrecondition,
        "used by node/n already",
    );
    // Neither does another machine get in with the first one's request.
    let thief = Newcomer {
        request: wire::JoinRequest {
            machine: Some(Machine::NodeId("m".to_owned())),
            ..first.request.clone()
        },
        unsigned: Unsigned::create().expect("a key"),
    };
    assert_refused(
        thief.ask(&cluster, 0).await,
        Code::FailedPrecondition,
        "let in node/n, not node/m",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_is_not_right_lets_nobody_in() {
    let cluster = Cluster::secure(1).await;
    let expired = token(&cluster, Grant::JoinNode, "", Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let node = Newcomer::node("n", &expired);
    assert_refused(node.ask(&cluster, 0).await, Code::Unauthenticated, "has expired");
    let stranger = Newcomer::node("n", &Secret::generate().expect("randomness"));
    assert_refused(
        stranger.ask(&cluster, 0).await,
        Code::Unauthenticated,
        "not known",
    );
    let person = Newcomer::node("n", &cluster.identity().token);
    assert_refused(person.ask(&cluster, 0).await, Code::Unauthenticated, "not known");
    let of_node = token(&cluster, Grant::JoinNode, "", HOUR).await;
    let replica = Newcomer::new(Machine::ReplicaId(2), &of_node);
    assert_refused(replica.ask(&cluster, 0).await, Code::Unauthenticated, "not known");
    let bound = token(&cluster, Grant::JoinNode, "node/other", HOUR).await;
    let node = Newcomer::node("n", &bound);
    assert_refused(
        node.ask(&cluster, 0).await,
        Code::FailedPrecondition,
        "is for node/other",
    );
    // A token for joining is good for nothing else.
    let mut access = AccessClient::new(cluster.service(0, Some(&of_node)));
    let listed = access.list_tokens(wire::ListTokensRequest::default()).await;
    assert_eq!(listed.expect_err("refused").code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_that_is_there_is_named_again_only_by_a_token_of_its_own() {
    let cluster = Cluster::secure(1).await;
    let agent = Agent::greet(
        cluster.agent_as(0, &cluster.identity().node("n")),
        "n",
        Vec::new(),
    );
    let _agent = within("a welcome", agent).await.expect("it is welcome");
    let any = token(&cluster, Grant::JoinNode, "", HOUR).await;
    let thief = Newcomer::node("n", &any);
    assert_refused(
        thief.ask(&cluster, 0).await,
        Code::FailedPrecondition,
        "--for node/n",
    );
    let own = token(&cluster, Grant::JoinNode, "node/n", HOUR).await;
    Newcomer::node("n", &own)
        .ask(&cluster, 0)
        .await
        .expect("it is let in");
    let any = token(&cluster, Grant::JoinReplica, "", HOUR).await;
    let thief = Newcomer::new(Machine::ReplicaId(1), &any);
    assert_refused(
        thief.ask(&cluster, 0).await,
        Code::FailedPrecondition,
        "--for replica/1",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_joins_gets_the_authority_and_a_follower_names_the_leader() {
    let cluster = Cluster::secure(3).await;
    let secret = token(&cluster, Grant::JoinReplica, "", HOUR).await;
    let newcomer = Newcomer::new(Machine::ReplicaId(4), &secret);
    let status = newcomer.ask(&cluster, cluster.follower().await).await.map(drop);
    let leader = cluster.leader().await;
    assert_names_leader(&status.expect_err("it does not lead"), cluster.endpoint(leader));
    let joined = newcomer.ask(&cluster, leader).await.expect("it is let in");
    let now = control_plane::clock::wall();
    assert!(Authority::open(&joined.authority, &joined.authority_key, now).is_ok());
    assert_eq!(
        newcomer.settle(&cluster, &joined).principal().to_string(),
        "replica/4"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_renews_its_own_certificate_until_its_node_is_deleted() {
    let cluster = Cluster::secure(1).await;
    let credentials = cluster.identity().node("n");
    let agent = Agent::greet(cluster.agent_as(0, &credentials), "n", Vec::new());
    drop(within("a welcome", agent).await.expect("it is welcome"));
    let dialer = Dialer::following(credentials);
    let endpoint = dialer.endpoint(cluster.endpoint(0)).expect("a URL");
    let mut access = AccessClient::new(dialer.connect(&endpoint).await.expect("connected"));
    let public = Unsigned::create().expect("a key").public();
    let request = wire::RenewRequest {
        key: Some(wire::PublicKey {
            point: public.point,
            proof: public.proof,
        }),
    };
    let renewed = access
        .renew(request.clone())
        .await
        .expect("it is signed")
        .into_inner();
    assert!(renewed.certificate.contains("BEGIN CERTIFICATE"));
    let delete = wire::DeleteRequest {
        request_id: request_id(),
        kind: wire::Kind::Node.into(),
        id: "n".to_owned(),
        force: true,
    };
    cluster.control(0).delete(delete).await.expect("it is deleted");
    let status = access.renew(request).await.expect_err("it is gone");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}
