//! A log of few large entries is kept as short as one of many small ones.

use super::Cluster;
use super::cluster::{PATIENCE, external};
use crate::raft::ProposeError;
use crate::raft::compaction::{Bounds, run};
use openraft::async_runtime::WatchReceiver;
use proto::wire;
use std::collections::BTreeMap;

const BOUNDS: Bounds = Bounds {
    snapshot: 4 << 20,
    keep: 6 << 20,
};

/// Takes a MiB of the log, and leaves no trace in the state.
fn large() -> wire::Command {
    let manifest = wire::Manifest {
        id: "large".to_owned(),
        labels: BTreeMap::from([("a".to_owned(), "x".repeat(1 << 20))]),
        spec: Some(wire::manifest::Spec::External(wire::ExternalSpec::default())),
    };
    wire::Command {
        request_id: String::new(),
        op: Some(wire::command::Op::Apply(wire::ApplyObject {
            manifest: Some(manifest),
            ..Default::default()
        })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_large_entries_is_cut_by_bytes() {
    let mut cluster = Cluster::of(1).await;
    cluster.write(external(1)).await;
    let leader = cluster.leader().await;
    tokio::spawn(run(cluster.raft(1), leader.0.growth.clone(), BOUNDS));
    for _ in 0..20 {
        let refused = leader.propose(large()).await;
        assert!(matches!(refused, Err(ProposeError::Rejected(_))), "{refused:?}");
    }
    let mut metrics = cluster.raft(1).metrics();
    let cut = async {
        loop {
            let (purged, last) = {
                let now = metrics.borrow_and_update();
                (
                    now.purged.map_or(0, |id| id.index),
                    now.last_log_index.unwrap_or(0),
                )
            };
            // Six of a MiB each are kept, and what came since the last snapshot.
            if purged > 0 && last - purged <= 12 {
                return;
            }
            metrics.changed().await.expect("it runs");
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.expect("the log is cut");
    drop((leader, metrics));
    cluster.kill(1);
    cluster.restart(1).await;
    cluster.write(external(2)).await;
    assert!(super::has(&cluster.leader().await, 1), "nothing is lost by it");
}
