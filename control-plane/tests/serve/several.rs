//! Replicas that are processes, of one cluster without TLS: each may be ended, frozen, or have a disk of its own.

use crate::cluster::{Service, within};
use crate::identity::Bearer;
use crate::process::{host, sbxorch};
use crate::user::*;
use proto::wire;
use proto::wire::control_client::ControlClient;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// Of each replica's disk: little, so that a small one will do.
pub(crate) const NEEDED_MIB: u64 = 24;

/// Killed when dropped.
pub(crate) struct Replica {
    pub(crate) child: Child,
    pub(crate) endpoint: String,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Replica {
    /// With its data and its log in `dir`; the first of a cluster, or one that joins `first`.
    pub(crate) fn start(dir: &Path, number: u8, first: Option<&Self>) -> Self {
        let host = host(number);
        let (endpoint, peer) = (format!("http://{host}:7070"), format!("http://{host}:7071"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("made");
        let cluster = match first {
            None => vec![
                "--id".to_owned(),
                "1".to_owned(),
                "--initial-cluster".to_owned(),
                format!("1={peer}={endpoint}"),
            ],
            Some(first) => vec!["--join".to_owned(), first.endpoint.clone()],
        };
        let child = sbxorch()
            .args(["--insecure", "--log", "info,openraft=error"])
            .args(["--min-free-disk", &format!("{NEEDED_MIB}Mi")])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(cluster)
            .args([
                "--listen",
                &format!("{host}:7070"),
                "--peer-listen",
                &format!("{host}:7071"),
            ])
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the program is there");
        Self { child, endpoint }
    }

    pub(crate) fn control(&self) -> ControlClient<Service> {
        let channel = Channel::from_shared(self.endpoint.clone()).expect("a URL");
        ControlClient::new(InterceptedService::new(channel.connect_lazy(), Bearer(None)))
    }

    pub(crate) async fn apply(&self, id: &str) -> Result<(), Status> {
        let request = apply_request(external(id, id, "a.test"));
        self.control().apply(request).await.map(drop)
    }

    pub(crate) async fn applied(&self, id: &str) {
        let applied = async {
            while self.apply(id).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("a write", applied).await;
    }

    /// Who is there, as this one knows it.
    pub(crate) async fn members(&self) -> wire::ClusterResponse {
        let request = wire::ClusterRequest { stale: true };
        let asked = self.control().cluster(request).await;
        asked.map(tonic::Response::into_inner).unwrap_or_default()
    }
}

/// Three voters, the first of which has formed the cluster, in folders of their own; the first leads.
pub(crate) async fn three(dirs: [&Path; 3], number: u8) -> [Replica; 3] {
    let first = Replica::start(dirs[0], number, None);
    first.applied("first").await;
    let second = Replica::start(dirs[1], number + 1, Some(&first));
    let third = Replica::start(dirs[2], number + 2, Some(&first));
    let whole = async {
        loop {
            let members = first.members().await.replicas;
            if members.iter().filter(|r| r.voter && r.lag == 0).count() == 3 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("three voters", whole).await;
    [first, second, third]
}
