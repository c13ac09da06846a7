//! openraft's settings, and why each is what it is.

use openraft::{Config, SnapshotPolicy};
use std::time::Duration;

/// How often a leader shows that it lives. Several fit into the shortest election timeout, so that one late
/// heartbeat on a loaded machine starts no election.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// A follower stands for election once the leader's lease, which is the longest timeout, and a random timeout
/// between these two have passed without a heartbeat: after 500 to 600 ms, the first of two followers after 535 on
/// average; that is for a leader that is frozen or cut off. One whose process has died is missed right after the
/// lease, see [`super::succession`]. Two rounds of votes and a commit take some ten milliseconds more. So writes go
/// on within half a second of a leader's death, within a second of its silence, and a follower on a loaded machine
/// may wait ten heartbeats before it disturbs a leader that lives.
const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(200);
pub(super) const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);
/// A leader that has lost its quorum keeps quiet for this long at a time, so that a follower that only it reaches
/// can take part in an election. openraft asks for twice the longest timeout at least.
const QUORUM_PROBE: Duration = Duration::from_millis(600);
/// Entries, each of many commands. A snapshot hard-links tables and syncs a memtable: cheap, and it keeps the log
/// that a restart reads short.
const SNAPSHOT_EVERY: u64 = 5_000;
/// Entries kept although a snapshot covers them. Some snapshots' worth: a replica that was away for a restart, or
/// is receiving a snapshot while more is written, still finds its next entry.
const KEEP_COVERED: u64 = 20_000;
/// A replica further behind gets a snapshot. As far as the log reaches back.
const SNAPSHOT_LAG: u64 = 20_000;
/// Entries read for one message; bytes bound it before that where entries are large.
const MAX_PAYLOAD_ENTRIES: u64 = 1_024;
/// openraft's own limit on a snapshot's transfer; ours are on its progress, see [`super::transfer`].
const INSTALL_SNAPSHOT: Duration = Duration::from_secs(300);

/// The settings of every replica.
///
/// # Errors
/// Never, as the constants above agree; openraft checks them.
pub(super) fn config() -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: "sandboxd".to_owned(),
        heartbeat_interval: ms(HEARTBEAT),
        election_timeout_min: ms(ELECTION_TIMEOUT_MIN),
        election_timeout_max: ms(ELECTION_TIMEOUT_MAX),
        // A replica that was away must not depose a leader just by coming back.
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(ms(QUORUM_PROBE)),
        // A restarted leader has not applied what it committed before: it stands for election like others.
        enable_leader_restore: Some(false),
        install_snapshot_timeout: ms(INSTALL_SNAPSHOT),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_COVERED,
        replication_lag_threshold: SNAPSHOT_LAG,
        max_payload_entries: MAX_PAYLOAD_ENTRIES,
        // An entry goes to the followers while the leader's own disk is still syncing it.
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    }
    .validate()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
