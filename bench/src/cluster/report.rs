//! The figures as JSON, as tables and as charts.

use super::burst::Burst;
use super::failover::Failover;
use super::load::Load;
use super::placement::Placement;
use super::scale::Size;
use super::snapshot::Sent;
use super::storm::Storm;
use super::{ETCD, OURS};
use crate::quantile::Summary;
use crate::svg::{self, Bar, Line};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const OUR_COLOUR: &str = "#2b6cb0";
const OTHER_COLOUR: &str = "#a0aec0";

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Of `sbxbench` itself, which is built as the replicas beside it, as a rule.
    build: &'static str,
    processors: usize,
    pub(super) fdatasync: Option<Summary>,
    pub(super) writes: Vec<Writes>,
    pub(super) placement: Option<Placement>,
    pub(super) burst: Option<Burst>,
    pub(super) failovers: Vec<Failover>,
    pub(super) storm: Option<Storm>,
    pub(super) scale: Vec<Size>,
    pub(super) snapshot: Option<Sent>,
    /// What could not be measured, and why.
    pub(super) left_out: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Writes {
    pub(super) contender: &'static str,
    /// Of each value.
    pub(super) bytes: usize,
    #[serde(flatten)]
    pub(super) load: Load,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            fdatasync: None,
            writes: Vec::new(),
            placement: None,
            burst: None,
            failovers: Vec::new(),
            storm: None,
            scale: Vec::new(),
            snapshot: None,
            left_out: BTreeMap::new(),
        }
    }

    pub(super) fn json(&self) -> String {
        // Nothing in it can fail to be written as JSON: strings and numbers.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    pub(super) fn tables(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "A {} build on {} processors. Milliseconds.",
            self.build, self.processors
        );
        self.write_table(&mut text);
        self.placement_table(&mut text);
        self.failover_table(&mut text);
        self.storm_table(&mut text);
        self.scale_table(&mut text);
        self.snapshot_table(&mut text);
        for (name, why) in &self.left_out {
            let _ = writeln!(text, "\n{name} is not among them: {why}");
        }
        text
    }

    fn write_table(&self, text: &mut String) {
        if let Some(disk) = &self.fdatasync {
            let _ = writeln!(text, "\nfdatasync: p50 {:.2}, p99 {:.2}", disk.p50, disk.p99);
        }
        if self.writes.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n{:<17} {:>8} {:>10} {:>7} {:>8} {:>7} {:>8}",
            "writes", "clients", "a second", "ratio", "p50", "ratio", "p99"
        );
        for writes in &self.writes {
            let ours = self
                .writes
                .iter()
                .find(|w| w.contender == OURS && w.load.clients == writes.load.clients);
            let ratio = |pick: fn(&Load) -> f64| {
                let ours = ours.map_or(f64::NAN, |ours| pick(&ours.load));
                pick(&writes.load) / ours
            };
            let _ = writeln!(
                text,
                "{:<17} {:>8} {:>10.0} {:>7} {:>8.2} {:>7} {:>8.2}",
                writes.contender,
                writes.load.clients,
                writes.load.per_second,
                format!("x{:.2}", ratio(|load| load.per_second)),
                writes.load.latency.p50,
                format!("x{:.2}", ratio(|load| load.latency.p50)),
                writes.load.latency.p99,
            );
        }
    }

    fn placement_table(&self, text: &mut String) {
        if let Some(placement) = &self.placement {
            let _ = writeln!(
                text,
                "\nplacement on one core, a second: plan {:.0}, apply {:.0}, both {:.0}",
                placement.plan_per_second, placement.apply_per_second, placement.both_per_second
            );
        }
        if let Some(burst) = &self.burst {
            let waits = &burst.pending_to_scheduled;
            let _ = writeln!(
                text,
                "\nburst by {} clients, pending to scheduled: p50 {:.1}, p99 {:.1}; all acknowledged after {:.0}, scheduled {:.0}, \
                 running {:.0}",
                burst.clients,
                waits.p50,
                waits.p99,
                burst.all_acknowledged_ms,
                burst.all_scheduled_ms,
                burst.all_running_ms
            );
        }
    }

    fn failover_table(&self, text: &mut String) {
        if self.failovers.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n{:<10} {:<10} {:>7} {:>16} {:>8} {:>8}   {:>16} {:>8} {:>8}",
            "failover", "", "trials", "others' next: p50", "p99", "max", "same client: p50", "p99", "max"
        );
        for failover in &self.failovers {
            let cells = |summary: Option<Summary>| {
                let cell = |pick: fn(&Summary) -> f64| summary.as_ref().map(|s| format!("{:.0}", pick(s)));
                [cell(|s| s.p50), cell(|s| s.p99), cell(|s| s.max)].map(Option::unwrap_or_default)
            };
            let [p50, p99, max] = cells(Some(failover.others));
            let [same_p50, same_p99, same_max] = cells(failover.same_client);
            let _ = writeln!(
                text,
                "{:<10} {:<10} {:>7} {p50:>17} {p99:>8} {max:>8}   {same_p50:>16} {same_p99:>8} {same_max:>8}",
                failover.contender,
                format!("{:?}", failover.how).to_lowercase(),
                failover.others.count,
            );
        }
    }

    fn storm_table(&self, text: &mut String) {
        let Some(storm) = &self.storm else {
            return;
        };
        let _ = writeln!(text, "\n{} agents, {} sandboxes:", storm.agents, storm.sandboxes);
        let rows = [
            ("a write while it is quiet", Some(storm.quiet)),
            ("a write while all report all the time", Some(storm.flooded)),
            ("a write while all come to the next leader", storm.meanwhile),
            ("an agent back at the next leader", storm.back),
        ];
        for (name, summary) in rows {
            if let Some(summary) = summary {
                let _ = writeln!(
                    text,
                    "{name:<44} p50 {:>8.1}  p99 {:>8.1}  max {:>8.1}",
                    summary.p50, summary.p99, summary.max
                );
            }
        }
        if storm.not_back > 0 {
            let _ = writeln!(text, "{} agents did not come back", storm.not_back);
        }
    }

    fn scale_table(&self, text: &mut String) {
        if self.scale.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n{:>8} {:>10} {:>10} {:>10} {:>13} {:>13} {:>10} {:>10} {:>10} {:>10}",
            "agents",
            "sandboxes",
            "leader MiB",
            "other MiB",
            "leader cpu %",
            "us/heartbeat",
            "write p50",
            "p99",
            "list all",
            "restart"
        );
        for size in &self.scale {
            let _ = writeln!(
                text,
                "{:>8} {:>10} {:>10.0} {:>10.0} {:>13.1} {:>13.0} {:>10.2} {:>10.2} {:>10.0} {:>10.0}",
                size.agents,
                size.sandboxes,
                size.leader_mib(),
                size.other_mib(),
                size.leader_cpu_percent(),
                size.heartbeat_us,
                size.write.p50,
                size.write.p99,
                size.list_all_ms,
                size.restart_ms
            );
            if let Some(snapshot) = &size.snapshot {
                let _ = writeln!(
                    text,
                    "a follower that had missed {} entries had all after {:.0} ms, by a snapshot of {:.1} MiB",
                    snapshot.missed_entries, snapshot.catch_up_ms, snapshot.mib
                );
            }
        }
    }

    fn snapshot_table(&self, text: &mut String) {
        if let Some(sent) = &self.snapshot {
            let _ = writeln!(
                text,
                "\na snapshot of {:.0} MiB: arrived after {:.0}, all there after {:.0}; memory above what was there: sender {:.0} MiB, \
                 receiver {:.0} MiB; above the {:.0} MiB that it has with the whole state, while it was loaded: {:.0} MiB; \
                 a backup of it: {:.0}, {:.0} MiB of the leader's memory",
                sent.mib,
                sent.arrived_ms,
                sent.caught_up_ms,
                sent.sender_mib,
                sent.receiver_mib,
                sent.after_mib,
                sent.loading_mib,
                sent.backup_ms,
                sent.backup_mib
            );
        }
    }

    /// Writes and failovers beside etcd's.
    pub(super) fn compared(&self) -> String {
        let bar = |contender: &str, label: String, summary: &Summary| Bar {
            label,
            value: summary.p50,
            whisker: summary.p99,
            colour: if contender == ETCD {
                OTHER_COLOUR
            } else {
                OUR_COLOUR
            },
        };
        let writes = self.writes.iter().map(|writes| {
            let label = format!("{}, write, {} clients", writes.contender, writes.load.clients);
            bar(writes.contender, label, &writes.load.latency)
        });
        let failovers = self.failovers.iter().map(|failover| {
            let label = format!("{}, leader gone: {:?}", failover.contender, failover.how).to_lowercase();
            bar(failover.contender, label, &failover.others)
        });
        svg::bars(
            "Until a write is acknowledged",
            "Bars: median; lines: 99th percentile. Shorter is better.",
            "ms",
            &writes.chain(failovers).collect::<Vec<_>>(),
        )
    }

    /// Costs against size.
    pub(super) fn scaled(&self) -> String {
        let line = |label: &str, colour, pick: fn(&Size) -> f64| Line {
            label: label.to_owned(),
            colour,
            points: self
                .scale
                .iter()
                .map(|size| (size.sandboxes as f64, pick(size)))
                .collect(),
        };
        svg::lines(
            "What a cluster costs against its size",
            "Each as a multiple of itself at the smallest size; both axes logarithmic. Flat is better.",
            "sandboxes",
            &[
                line("memory of the leader", "#2b6cb0", Size::leader_mib),
                line(
                    "idle processor time of the leader",
                    "#c05621",
                    Size::leader_cpu_percent,
                ),
                line("a write, p50", "#2f855a", |size| size.write.p50),
                line("a list of everything", "#805ad5", |size| size.list_all_ms),
                line("a follower's restart", "#b83280", |size| size.restart_ms),
            ],
        )
    }
}

impl Size {
    fn leader_mib(&self) -> f64 {
        self.replicas
            .iter()
            .filter(|replica| replica.leads)
            .map(|replica| replica.rss_mib)
            .sum()
    }

    /// The largest of the others.
    fn other_mib(&self) -> f64 {
        let others = self.replicas.iter().filter(|replica| !replica.leads);
        others.map(|replica| replica.rss_mib).fold(0.0, f64::max)
    }

    fn leader_cpu_percent(&self) -> f64 {
        self.replicas
            .iter()
            .filter(|replica| replica.leads)
            .map(|replica| replica.idle_cpu_percent)
            .sum()
    }
}
