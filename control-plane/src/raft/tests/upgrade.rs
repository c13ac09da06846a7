//! A replica of this version on the disk of the first one: the bytes of the golden files, in the places where they stood.

use super::super::{Replica, codec, rocks};
use super::*;
use crate::config::{Config, Timings};
use crate::security::Security;
use prost::Message;
use rocksdb::DBRecoveryMode;
use std::time::Duration;
use tempfile::tempdir;

/// A log entry, a vote; by their names.
const FORMS: &str = include_str!("golden.txt");
/// The state's records, by their keys.
const RECORDS: &str = include_str!("../../state/tests/golden/first.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn form(name: &str) -> Vec<u8> {
    let line = FORMS
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    bytes(line.expect("it is there"))
}

/// A log that holds entry 9 alone, and the vote of its term.
fn write_log(dir: &Path) {
    let db = rocks::open(
        &rocks::options(DBRecoveryMode::TolerateCorruptedTailRecords),
        &dir.join("log"),
        &["logs", "meta"],
    )
    .expect("made");
    let put = |family: &str, key: &[u8], value: &[u8]| {
        let family = db.cf_handle(family).expect("it is there");
        db.put_cf(family, key, codec::seal(key, value)).expect("written");
    };
    put("logs", &9_u64.to_be_bytes(), &form("entry-batch"));
    put("meta", b"vote", &form("vote"));
    put("meta", b"purged", &codec::log_id(&log_id(3, 8)).encode_to_vec());
}

/// The state as of entry 8, of a cluster of one.
fn write_state(dir: &Path, member: wire::Member) {
    let state = dir.join("state");
    fs::create_dir_all(&state).expect("made");
    let db = rocks::open(
        &rocks::options(DBRecoveryMode::PointInTime),
        &state.join("db-1"),
        &[rocksdb::DEFAULT_COLUMN_FAMILY_NAME],
    )
    .expect("made");
    for line in RECORDS.lines() {
        let (key, value) = line.split_once(' ').expect("key and value");
        let key = key.replace("\\x00", "\0").replace("\\x01", "\u{1}");
        let key = [b"o", key.as_bytes()].concat();
        db.put(&key, codec::seal(&key, &bytes(value))).expect("written");
    }
    let position = wire::AppliedPosition {
        last_log_id: Some(codec::log_id(&log_id(3, 8))),
        last_membership: Some(wire::StoredMembership {
            log_id: Some(codec::log_id(&log_id(3, 8))),
            membership: Some(wire::MembershipConfig {
                configs: vec![wire::VoterSet { ids: vec![1] }],
                nodes: vec![member],
            }),
        }),
    };
    db.put(b"p", codec::seal(b"p", &position.encode_to_vec()))
        .expect("written");
    drop(db);
    fs::write(state.join("CURRENT"), "db-1\n").expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_starts_on_what_the_first_version_has_written_and_goes_on() {
    let dir = tempdir().expect("a folder");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let peer = format!("http://{}", listener.local_addr().expect("bound"));
    let member = wire::Member {
        id: 1,
        peer_endpoint: peer.clone(),
        endpoint: "http://127.0.0.1:1".to_owned(),
    };
    write_log(dir.path());
    write_state(dir.path(), member);
    fs::write(dir.path().join("replica-id"), "1\n").expect("written");
    let config = Config {
        id: 1,
        listen: "127.0.0.1:1".parse().expect("an address"),
        peer_listen: listener.local_addr().expect("bound"),
        advertise: "http://127.0.0.1:1".to_owned(),
        advertise_peer: peer,
        data_dir: dir.path().to_owned(),
        min_free_disk: proto::units::Bytes(1 << 20),
        initial_cluster: Vec::new(),
        join: None,
        tls: None,
        timings: Timings::default(),
        scheduling: crate::schedule::Policy::Spread,
        limits: crate::admission::Limits::default(),
        otlp_endpoint: None,
        level: crate::state::Level::NEWEST,
    };
    let replica = Replica::start_on(&config, &Security::Insecure, listener)
        .await
        .expect("it starts");
    let mut leadership = replica.leadership();
    let leads = leadership.wait_for(|now| now.is_self);
    let leads = tokio::time::timeout(Duration::from_secs(30), leads).await;
    assert!(leads.expect("it leads").expect("it runs").term > 3);
    let written = replica.propose(external("new", "new.test")).await;
    assert!(written.is_ok(), "{written:?}");
    {
        let state = replica.replicated().read();
        let has = |id: &str| state.external(&id.parse().expect("an id")).is_some();
        assert!(has("e"), "what the state held");
        assert!(has("a"), "what the log held");
        assert!(has("new"));
        assert!(state.sandbox(&"a".parse().expect("an id")).is_some());
        assert!(state.node(&"n".parse().expect("an id")).is_some());
    }
    replica.shutdown().await;
}
