//! The bytes that every later version must read.

use super::super::codec;
use super::*;
use crate::raft::types::{SnapshotMeta, Vote};
use openraft::StoredMembership;
use prost::Message;
use std::fmt::Write as _;

const GOLDEN: &str = include_str!("golden.txt");

/// One of each stored form.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let membership = members(&[&[1, 2], &[2, 3]], &[4]);
    let stored = StoredMembership::new(Some(log_id(2, 8)), membership.clone());
    let entry = |payload| {
        let entry = Entry {
            log_id: log_id(3, 9),
            payload,
        };
        codec::entry(entry).encode_to_vec()
    };
    let batch = wire::Batch {
        now_ms: 1_700_000_000_000,
        commands: vec![external("a", "a.test")],
    };
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(3, 9)),
        last_membership: stored.clone(),
    };
    let position = codec::position(&meta);
    let manifest = wire::SnapshotManifest {
        last_log_id: position.last_log_id,
        last_membership: position.last_membership.clone(),
        files: vec![wire::SnapshotFile {
            name: "000012.sst".to_owned(),
            len: 70_000,
            crc32: 0xdead_beef,
        }],
    };
    vec![
        ("entry-blank", entry(Payload::Blank)),
        ("entry-batch", entry(Payload::Normal(Proposal(batch)))),
        ("entry-membership", entry(Payload::Membership(membership))),
        ("log-id", codec::log_id(&log_id(3, 9)).encode_to_vec()),
        ("vote", codec::vote(&Vote::new(3, 2)).encode_to_vec()),
        (
            "vote-committed",
            codec::vote(&Vote::new_committed(3, 2)).encode_to_vec(),
        ),
        ("membership", codec::stored_membership(&stored).encode_to_vec()),
        (
            "membership-none",
            codec::stored_membership(&StoredMembership::default()).encode_to_vec(),
        ),
        ("position", position.encode_to_vec()),
        ("snapshot-manifest", manifest.encode_to_vec()),
        ("sealed", codec::seal(b"key", b"value")),
        (
            "sealed-message",
            codec::seal_message(b"key", &codec::log_id(&log_id(3, 9))),
        ),
    ]
}

fn golden(name: &str) -> Vec<u8> {
    let hex = GOLDEN
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .expect("a line of the golden file");
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
        .collect()
}

#[test]
fn every_form_is_byte_for_byte_as_it_was_first_written() {
    let mut text = String::new();
    for (name, bytes) in forms() {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{name} {hex}").expect("written");
    }
    assert_eq!(
        text, GOLDEN,
        "a stored form has changed: old replicas could not read it"
    );
}

#[test]
fn the_golden_file_is_read_back() {
    fn decode<M: Message + Default>(name: &str) -> M {
        M::decode(&golden(name)[..]).expect("readable")
    }
    for name in ["entry-blank", "entry-batch", "entry-membership"] {
        let entry = codec::entry_from(decode(name)).expect("an entry");
        assert_eq!(entry.log_id, log_id(3, 9));
        assert_eq!(codec::entry(entry).encode_to_vec(), golden(name));
    }
    assert_eq!(codec::log_id_from(decode("log-id")), log_id(3, 9));
    assert_eq!(codec::vote_from(decode("vote")), Vote::new(3, 2));
    assert_eq!(
        codec::vote_from(decode("vote-committed")),
        Vote::new_committed(3, 2)
    );
    let membership = codec::stored_membership_from(decode("membership")).expect("a membership");
    let expected = StoredMembership::new(Some(log_id(2, 8)), members(&[&[1, 2], &[2, 3]], &[4]));
    assert_eq!(membership, expected);
    let none = codec::stored_membership_from(decode("membership-none")).expect("a membership");
    assert_eq!(none, StoredMembership::default());
    let meta = codec::position_from(decode("position")).expect("a position");
    assert_eq!(meta.last_log_id, Some(log_id(3, 9)));
    assert_eq!(meta.last_membership, expected);
    let manifest: wire::SnapshotManifest = decode("snapshot-manifest");
    assert_eq!(codec::snapshot_meta_from(&manifest).expect("a manifest"), meta);
    assert_eq!(manifest.files[0].crc32, 0xdead_beef);
    assert_eq!(codec::open(b"key", &golden("sealed")).expect("whole"), b"value");
    let id: wire::LogId = codec::open_message("log id", b"key", &golden("sealed-message")).expect("whole");
    assert_eq!(codec::log_id_from(id), log_id(3, 9));
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, codec::CodecError>, expected: &str) {
    let error = outcome.expect_err("refused").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_no_value_of_ours_is_named() {
    let sealed = codec::seal(b"key", b"value");
    refused(codec::open(b"other", &sealed), "checksum mismatch");
    refused(
        codec::open(b"key", &sealed[..sealed.len() - 1]),
        "checksum mismatch",
    );
    refused(codec::open(b"key", &sealed[..3]), "3 bytes are too few");
    let sealed = codec::seal(b"key", &[0xff]);
    refused(
        codec::open_message::<wire::Vote>("vote", b"key", &sealed),
        "not a vote",
    );
    refused(
        codec::entry_from(wire::Entry::default()),
        "entry.payload is missing",
    );
    let member = |id| wire::Member {
        id,
        ..wire::Member::default()
    };
    let config = |ids: &[u64], nodes: &[u64]| wire::MembershipConfig {
        configs: vec![wire::VoterSet { ids: ids.to_vec() }],
        nodes: nodes.iter().map(|&id| member(id)).collect(),
    };
    refused(codec::membership_from(config(&[1], &[1, 1])), "listed twice");
    refused(codec::membership_from(config(&[1, 2], &[1])), "not a membership");
    refused(codec::membership_from(config(&[], &[1])), "not a membership");
}
