//! The bytes that every later version must read.

use super::*;
use prost::Message;
use std::fmt::Write as _;

/// One of each kind of record.
fn world() -> World {
    let mut world = World::with_nodes(&["n"]);
    world.run(external("e", "n", "a.test")).accepted();
    world
        .run_with_id("request-1", sandbox("a", "ttl_seconds: 60"))
        .accepted();
    let uid = world.sandbox("a").uid.0;
    world.run(place(uid, "n", &[])).accepted();
    world.run(report("n", "a", uid, wire::Phase::Running)).accepted();
    world
}

/// What the present version writes, and what it wrote before: every form is read for ever.
const PRESENT: &str = include_str!("golden/events.txt");
/// Before objects had events.
const CONDITIONS: &str = include_str!("golden/conditions.txt");
/// Before sandboxes had conditions.
const FIRST: &str = include_str!("golden/first.txt");

#[test]
fn every_record_is_byte_for_byte_as_it_was_first_written() {
    let mut text = String::new();
    for (key, value) in &world().stored {
        let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{} {hex}", key.escape_ascii()).expect("written");
    }
    assert_eq!(
        text, PRESENT,
        "a stored form has changed: give it a golden file of its own, and keep the others"
    );
}

fn load_golden(golden: &str) -> State {
    let records = golden.lines().map(|line| {
        let (key, hex) = line.split_once(' ').expect("key and value");
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
                .collect()
        };
        let key = key.replace("\\x00", "\0").replace("\\x01", "\u{1}");
        (key.into_bytes(), bytes(hex))
    });
    State::load(records).expect("readable")
}

#[test]
fn records_of_every_golden_file_load() {
    let world = world();
    assert_eq!(load_golden(PRESENT), world.state);
    let mut sandbox = Sandbox::clone(&world.sandbox("a"));
    let without_events = world.state.nodes().map(|node| Node {
        events: Vec::new(),
        ..Node::clone(node)
    });
    let without_events: Vec<Node> = without_events.collect();
    sandbox.events.clear();
    for (golden, has_conditions) in [(CONDITIONS, true), (FIRST, false)] {
        if !has_conditions {
            sandbox.status.conditions.clear();
        }
        let loaded = load_golden(golden);
        assert_eq!(**loaded.sandbox(&sandbox.id).expect("it is there"), sandbox);
        assert!(loaded.nodes().map(AsRef::as_ref).eq(&without_events));
        assert!(loaded.externals().eq(world.state.externals()));
        assert_eq!(loaded.answers(), world.state.answers());
    }
}

/// A policy is in the record that every state has.
#[test]
fn policy_is_stored_as_it_was_first_written() {
    let mut world = World::default();
    world
        .run(Op::SetPolicy(wire::PolicyChange {
            extra_capabilities: Some(true),
            unconfined: Some(true),
            new_privileges: Some(true),
        }))
        .accepted();
    let golden = load_golden(include_str!("golden/policy.txt"));
    assert_eq!(golden, world.state);
    let hex: String = world.stored[b"m".as_slice()]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(format!("m {hex}\n"), include_str!("golden/policy.txt"));
}

/// Of an agent that says whether sandboxes have user namespaces; those of before it did are in the other files.
#[test]
fn report_of_user_namespaces_is_stored_as_it_was_first_written() {
    const GOLDEN: &str = include_str!("golden/user_namespaces.txt");
    let mut world = World::default();
    let Op::RegisterNode(mut register) = register("n") else {
        panic!("it is a registration");
    };
    let report = register.report.as_mut().expect("a report");
    report.user_namespaces = Some(true);
    world.run(Op::RegisterNode(register)).accepted();
    let node = world.stored.iter().filter(|(key, _)| key.starts_with(b"n"));
    let mut text = String::new();
    for (key, value) in node {
        // It was written before nodes had events.
        let mut node = wire::Node::decode(value.as_slice()).expect("a node");
        node.events.clear();
        let hex: String = node.encode_to_vec().iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{} {hex}", key.escape_ascii()).expect("written");
    }
    assert_eq!(text, GOLDEN);
    let loaded = load_golden(GOLDEN);
    let node = loaded.nodes().next().expect("one node");
    let report = node.report.as_ref().expect("its agent's");
    assert_eq!(report.user_namespaces, Some(true));
}

#[test]
fn damaged_and_unknown_records_are_named() {
    let load = |key: &[u8], value: &[u8]| {
        State::load([(key, value)].into_iter())
            .expect_err("refused")
            .to_string()
    };
    assert!(load(b"nnode-1", &[0xff]).contains("`nnode-1` can't be decoded"));
    assert!(load(b"nnode-1", &[]).contains("`nnode-1` breaks a rule"));
    assert!(load(b"zebra", &[]).contains("`zebra` is of no kind"));
}

#[test]
fn record_under_anothers_key_is_refused() {
    let stored = world().stored;
    for (key, value) in &stored {
        let wrong = match key[0] {
            b's' => b"s\x00\x00\x00\x00\x00\x00\x00\x09".to_vec(),
            kind => [&[kind][..], b"another"].concat(),
        };
        let error = State::load([(&wrong, value)].into_iter()).expect_err("refused");
        assert!(matches!(error, LoadError::Misplaced { .. }), "{error}");
    }
}

/// A uid that came again would name two sandboxes to an agent.
#[test]
fn sandbox_without_the_count_of_uids_is_refused() {
    let mut stored = world().stored;
    stored.remove(&b"m"[..]);
    let error = State::load(stored.iter()).expect_err("refused");
    assert!(
        matches!(error, LoadError::UnknownUid { last_uid: 0, .. }),
        "{error}"
    );
}
