//! What is there already and only read when it is asked for: how far consensus is, how many objects there are and in
//! which state, who is connected, what the disk holds.

use crate::api::Api;
use crate::raft::Replica;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use proto::status::{NodeState, Phase};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Collected {
    pub(super) data_dir: PathBuf,
    pub(super) replica: Replica,
    pub(super) api: Api,
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").finish_non_exhaustive()
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauges = Gauges(encoder);
        self.consensus(&mut gauges)?;
        self.objects(&mut gauges)?;
        gauges.one(
            "sessions_open",
            "Agents that have a session here, at the leader",
            self.api.sessions().count() as f64,
        )?;
        gauges.one(
            "watches_open",
            "Watches that are open here",
            self.api.watches() as f64,
        )?;
        let parts = parts(&self.data_dir);
        gauges.each(
            "storage_bytes",
            "Files of this replica, by what they hold",
            "part",
            parts,
        )
    }
}

impl Collected {
    fn consensus(&self, gauges: &mut Gauges<'_>) -> fmt::Result {
        let progress = self.replica.progress();
        let cluster = self.replica.cluster();
        let leads = cluster.leader_id == self.replica.id();
        gauges.one("raft_term", "Term of this replica", cluster.term as f64)?;
        gauges.one(
            "raft_is_leader",
            "1 where this replica leads, else 0",
            f64::from(u8::from(leads)),
        )?;
        gauges.one(
            "raft_leader_id",
            "Who leads, as this replica knows it; 0 where nobody is known to",
            cluster.leader_id as f64,
        )?;
        gauges.one(
            "raft_last_log_index",
            "Of the last entry in the log",
            progress.last_log as f64,
        )?;
        gauges.one(
            "raft_last_applied_index",
            "Of the last entry that the state shows",
            cluster.last_applied as f64,
        )?;
        gauges.one(
            "raft_snapshot_index",
            "Of the last entry that a snapshot covers",
            progress.snapshot as f64,
        )?;
        gauges.one(
            "raft_pending_proposals",
            "Commands that wait for their way into the log",
            self.replica.waiting_proposals() as f64,
        )?;
        let others = cluster.replicas.iter().filter(|_| leads);
        let lag = others.map(|replica| (replica.id.to_string(), replica.lag as f64));
        gauges.each(
            "raft_replication_lag",
            "Entries that a replica is behind, as the leader knows it",
            "replica",
            lag.collect::<Vec<_>>(),
        )
    }

    fn objects(&self, gauges: &mut Gauges<'_>) -> fmt::Result {
        let mut phases: BTreeMap<Phase, u64> = Phase::ALL.into_iter().map(|phase| (phase, 0)).collect();
        let states = [
            NodeState::Unknown,
            NodeState::Ready,
            NodeState::NotReady,
            NodeState::Lost,
        ];
        let mut nodes: BTreeMap<NodeState, u64> = states.into_iter().map(|state| (state, 0)).collect();
        {
            let state = self.replica.replicated().read();
            for sandbox in state.sandboxes() {
                *phases.entry(sandbox.status.phase).or_default() += 1;
            }
            for node in state.nodes() {
                *nodes.entry(node.state).or_default() += 1;
            }
        }
        let pending = phases.get(&Phase::Pending).copied().unwrap_or_default();
        gauges.one(
            "scheduler_pending",
            "Sandboxes that wait for a node",
            pending as f64,
        )?;
        let phases = phases
            .into_iter()
            .map(|(phase, count)| (phase.to_string(), count as f64));
        gauges.each("sandboxes", "Sandboxes, by phase", "phase", phases)?;
        let nodes = nodes
            .into_iter()
            .map(|(state, count)| (state.to_string(), count as f64));
        gauges.each("nodes", "Nodes, by state", "state", nodes)
    }
}

struct Gauges<'a>(DescriptorEncoder<'a>);

impl Gauges<'_> {
    fn one(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let metric = self.0.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }

    fn each(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value_of_label, value) in values {
            let labels = [(label, value_of_label)];
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Bytes by what they are for. A file that is linked twice, as snapshots link the state's, counts twice.
fn parts(data_dir: &Path) -> Vec<(String, f64)> {
    let state = data_dir.join("state");
    let snapshots = state.join("snapshots");
    let of_snapshots = size(&snapshots);
    [
        ("log", size(&data_dir.join("log"))),
        ("state", size(&state).saturating_sub(of_snapshots)),
        ("snapshots", of_snapshots),
    ]
    .map(|(part, bytes)| (part.to_owned(), bytes as f64))
    .into()
}

/// Of all files below; those that go meanwhile count nothing.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
