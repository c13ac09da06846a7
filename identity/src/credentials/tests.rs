//! Real handshakes between identities of one authority, and of others.

use super::*;
use crate::authority::Authority;
use crate::dial::{Dialer, Protocols};
use crate::pin;
use std::io;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Cluster {
    authority: Authority,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        Self {
            authority: Authority::create(SystemTime::now()).expect("made"),
            dir: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Writes a new certificate of `principal` into its folder.
    fn issue(&self, principal: &Principal, hosts: &[&str]) -> PathBuf {
        let folder = self.dir.path().join(principal.to_string());
        folder::create(&folder).expect("made");
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let issued = self
            .authority
            .issue(principal, &hosts, SystemTime::now())
            .expect("issued");
        folder::write(&folder.join(folder::AUTHORITY), self.authority.certificate()).expect("written");
        folder::write(&folder.join(folder::KEY), &issued.key).expect("written");
        folder::write(&folder.join(folder::CERTIFICATE), &issued.chain).expect("written");
        folder
    }

    fn replica(&self) -> Credentials {
        Credentials::open(&self.issue(&Principal::Replica(1), &["127.0.0.1"])).expect("opened")
    }

    fn node(&self) -> Credentials {
        Credentials::open(&self.issue(&Principal::Node("n".parse().expect("an id")), &[])).expect("opened")
    }
}

/// One connection; what the server learned of the client, where both were content.
async fn meet(server: &Credentials, peers: bool, client: &Dialer) -> io::Result<Option<Principal>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}", listener.local_addr()?)
        .parse()
        .expect("a URL");
    let config = if peers {
        server.serve_peers()
    } else {
        server.serve_users()
    };
    let serving = async {
        let (tcp, _) = listener.accept().await?;
        let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
        tls.write_all(b"hello").await?;
        tls.flush().await?;
        let shown = tls
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first().cloned());
        let certified = shown.map(|shown| Certified::read(&shown).expect("it is readable"));
        Ok::<_, io::Error>(certified.and_then(|certified| certified.principal))
    };
    let dialling = async {
        let mut stream = client.open(&url, Protocols::Http2).await?;
        let mut hello = [0; 5];
        // A refused certificate is told after the client's side of the handshake.
        stream.read_exact(&mut hello).await.map(drop)
    };
    let (served, dialled) = tokio::join!(serving, dialling);
    dialled.and(served)
}

#[tokio::test]
async fn machines_of_one_cluster_know_each_other_and_no_others() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let replica = cluster.replica();
    let node = Dialer::following(cluster.node());
    let learned = meet(&replica, true, &node).await.expect("they meet");
    assert_eq!(
        learned.map(|principal| principal.to_string()).as_deref(),
        Some("node/n")
    );
    // Another authority's node, and another authority's replica.
    assert!(
        meet(&replica, false, &Dialer::following(other.node()))
            .await
            .is_err()
    );
    assert!(meet(&other.replica(), false, &node).await.is_err());
    let person = Dialer::trusting(cluster.authority.certificate()).expect("trusts");
    assert_eq!(meet(&replica, false, &person).await.expect("they meet"), None);
    assert!(
        meet(&replica, true, &person).await.is_err(),
        "a certificate is required"
    );
}

#[tokio::test]
async fn certificate_of_a_node_is_not_good_for_serving() {
    let cluster = Cluster::new();
    let person = Dialer::trusting(cluster.authority.certificate()).expect("trusts");
    let node = Principal::Node("n".parse().expect("an id"));
    let impostor = Credentials::open(&cluster.issue(&node, &["127.0.0.1"])).expect("opened");
    assert!(meet(&impostor, false, &person).await.is_err());
}

#[tokio::test]
async fn fingerprint_is_enough_to_trust_its_authority_and_no_other() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let (replica, stranger) = (cluster.replica(), other.replica());
    let pinned = Dialer::fixed(pin::client(replica.authority()).expect("settings"));
    meet(&replica, false, &pinned).await.expect("they meet");
    assert!(meet(&stranger, false, &pinned).await.is_err());
}

#[tokio::test]
async fn exchanged_files_are_used_from_the_next_connection_on() {
    let cluster = Cluster::new();
    let replica = cluster.replica();
    let mut exchanged = replica.exchanged();
    let following = tokio::spawn(replica.clone().follow());
    let before = replica.serve_users();
    cluster.issue(&Principal::Replica(1), &["127.0.0.1", "localhost"]);
    tokio::time::timeout(Duration::from_secs(10), exchanged.changed())
        .await
        .expect("in time")
        .expect("it is told");
    assert!(!Arc::ptr_eq(&before, &replica.serve_users()));
    meet(&replica, false, &Dialer::following(cluster.node()))
        .await
        .expect("they meet");
    following.abort();
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let cluster = Cluster::new();
    let (one, two) = (
        cluster.issue(&Principal::Replica(1), &[]),
        cluster.issue(&Principal::Replica(2), &[]),
    );
    std::fs::copy(one.join(folder::KEY), two.join(folder::KEY)).expect("copied");
    assert!(matches!(
        Credentials::open(&two),
        Err(CredentialsError::Mismatch { .. })
    ));
    let empty = cluster.dir.path().join("empty");
    folder::create(&empty).expect("made");
    assert!(matches!(Credentials::open(&empty), Err(CredentialsError::File(e)) if e.is_not_found()));
}
