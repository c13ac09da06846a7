//! The stores on real disks: openraft's own suite, reopening, crashes, damage, snapshots, and stored bytes.

mod commit;
mod crash;
mod golden;
mod levels;
mod log;
mod resumed;
mod snapshots;
mod state;
mod suite;
mod upgrade;

use super::log_store::LogStore;
use super::types::{Entry, LeaderId, LogId, Member, Membership, Payload, Proposal, TypeConfig};
use crate::state::{Level, State};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use proto::wire;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn log_id(term: u64, index: u64) -> LogId {
    let leader_id = LeaderId { term, node_id: 1 };
    LogId::new(leader_id, index)
}

fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: Payload::Blank,
    }
}

/// An entry of about `size` bytes.
fn sized(index: u64, size: usize) -> Entry {
    let command = wire::Command {
        request_id: "x".repeat(size),
        op: None,
    };
    normal(1, index, 1_000 + index, vec![command])
}

fn normal(term: u64, index: u64, now_ms: u64, commands: Vec<wire::Command>) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: Payload::Normal(Proposal(wire::Batch { now_ms, commands })),
    }
}

/// Makes or changes an external object: the change of the state in these tests.
fn external(id: &str, name: &str) -> wire::Command {
    let spec = wire::ExternalSpec {
        node_id: format!("node-{id}"),
        external: name.to_owned(),
    };
    let manifest = wire::Manifest {
        id: id.to_owned(),
        spec: Some(wire::manifest::Spec::External(spec)),
        ..wire::Manifest::default()
    };
    wire::Command {
        request_id: format!("{id}-{name}"),
        op: Some(wire::command::Op::Apply(wire::ApplyObject {
            manifest: Some(manifest),
            ..wire::ApplyObject::default()
        })),
    }
}

/// Entries `from..=to`, each of which changes one of ten objects.
fn changes(from: u64, to: u64) -> Vec<Entry> {
    (from..=to)
        .map(|i| {
            let command = external(&format!("e{}", i % 10), &format!("name-{i}.test"));
            normal(1, i, 1_000 * i, vec![command])
        })
        .collect()
}

/// The state after these entries, by the pure function alone.
fn state_after(entries: &[Entry]) -> State {
    let mut state = State::default();
    for entry in entries {
        if let Payload::Normal(Proposal(batch)) = &entry.payload {
            state.apply_batch(entry.log_id.index, batch.clone());
        }
    }
    state
}

fn members(voters: &[&[u64]], learners: &[u64]) -> Membership {
    let configs: Vec<BTreeSet<u64>> = voters.iter().map(|ids| ids.iter().copied().collect()).collect();
    let ids = voters.iter().copied().flatten().chain(learners);
    let nodes: BTreeMap<u64, Member> = ids
        .map(|&id| {
            let member = Member {
                peer_endpoint: format!("10.0.0.{id}:7001"),
                endpoint: format!("https://10.0.0.{id}:7000"),
            };
            (id, member)
        })
        .collect();
    Membership::new(configs, nodes).expect("a membership")
}

/// Appends and waits until it is durable.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, durable) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    durable.await.expect("an answer")
}

async fn entries(store: &mut LogStore) -> io::Result<Vec<Entry>> {
    let mut reader = store.get_log_reader().await;
    reader.try_get_log_entries(0..).await
}

async fn indexes(store: &mut LogStore) -> Vec<u64> {
    let entries = entries(store).await.expect("a readable log");
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// Applies without anybody waiting for answers.
async fn apply(store: &mut impl RaftStateMachine<TypeConfig>, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    store
        .apply(futures::stream::iter(entries))
        .await
        .expect("applied");
}

/// Copies a folder, as a crash would have left it.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

/// The newest write-ahead log of the database in `dir`, and its bytes.
fn newest_wal(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut wals: Vec<PathBuf> = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    wals.sort();
    let newest = wals.pop().expect("a write-ahead log");
    let bytes = fs::read(&newest).expect("readable");
    (newest, bytes)
}

/// Changes one byte of the value that is stored under `key`.
fn flip_stored_byte(dir: &Path, family: &str, key: &[u8]) {
    let mut options = rocksdb::Options::default();
    options.create_missing_column_families(false);
    let families = rocksdb::DB::list_cf(&options, dir).expect("families");
    let db = rocksdb::DB::open_cf(&options, dir, families).expect("opened");
    let family = db.cf_handle(family).expect("the family");
    let mut value = db.get_cf(family, key).expect("read").expect("a value");
    let middle = value.len() / 2;
    value[middle] ^= 0x40;
    db.put_cf(family, key, value).expect("written");
}
