//! Format levels: when the cluster's is raised, and what a version may apply.

use super::*;
use crate::state::level::{admit, check_batch, check_state, raised};
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use wire::Outcome;

pub(super) fn raise(level: u32) -> Op {
    Op::RaiseLevel(wire::RaiseLevel { level })
}

fn command(op: Option<Op>) -> wire::Command {
    wire::Command {
        request_id: String::new(),
        op,
    }
}

#[track_caller]
fn check_raised(cluster: u32, members: &[Option<u32>], expected: Option<u32>) {
    let members = members.iter().map(|level| level.map(Level));
    assert_eq!(raised(Level(cluster), members), expected.map(Level));
}

#[test]
fn level_is_raised_to_what_every_member_is_known_to_speak_and_no_further() {
    let newest = Level::NEWEST.0;
    check_raised(0, &[Some(1)], Some(1));
    check_raised(0, &[Some(1), Some(1), Some(1)], Some(1));
    check_raised(0, &[Some(1), Some(0), Some(1)], None);
    check_raised(0, &[Some(1), None, Some(1)], None);
    check_raised(0, &[Some(newest + 7), Some(newest + 8)], Some(newest));
    check_raised(newest, &[Some(newest), Some(newest)], None);
    // One that speaks less than the cluster: it has stopped, and nothing is lowered for it.
    check_raised(newest, &[Some(newest), Some(newest - 1)], None);
}

#[test]
fn command_is_admitted_where_the_cluster_has_its_level() {
    let plain = command(Some(delete(wire::Kind::Sandbox, "a", false)));
    assert_eq!(admit(Level::FIRST, &plain), Ok(()));
    assert_eq!(admit(Level::NEWEST, &plain), Ok(()));
    let newer = command(Some(Op::CheckState(wire::CheckState {})));
    assert_eq!(admit(Level(1), &newer), Err(Level(2)));
    assert_eq!(admit(Level(2), &newer), Ok(()));
    // What raises the level leads beyond it.
    assert_eq!(
        admit(Level::FIRST, &command(Some(raise(Level::NEWEST.0)))),
        Ok(())
    );
}

#[track_caller]
fn check_applies(own: u32, op: Option<Op>, expected: Option<&str>) {
    let batch = wire::Batch {
        now_ms: 1,
        commands: vec![command(Some(register("n"))), command(op)],
    };
    let refused = check_batch(Level(own), 9, &batch).err();
    match (refused, expected) {
        (None, None) => {}
        (Some(refused), Some(told)) if refused.to_string().contains(told) => {}
        (refused, _) => panic!("{refused:?} instead of {expected:?}"),
    }
}

#[test]
fn version_applies_what_it_knows_and_nothing_beyond() {
    check_applies(0, Some(register("m")), None);
    check_applies(1, Some(raise(1)), None);
    check_applies(1, Some(raise(2)), Some("level 2 is in force in this cluster"));
    // A version from before there were levels knows none, however low.
    check_applies(0, Some(raise(0)), Some("level 1 is in force in this cluster"));
    check_applies(
        1,
        Some(Op::CheckState(wire::CheckState {})),
        Some("entry 9 of the log holds a command that this version"),
    );
    check_applies(2, Some(Op::CheckState(wire::CheckState {})), None);
    check_applies(
        1,
        None,
        Some("entry 9 of the log holds a command that this version"),
    );
    assert_eq!(check_state(Level(1), Level(1)), Ok(()));
    assert!(check_state(Level(1), Level(2)).is_err());
}

#[test]
fn level_goes_up_and_never_down() {
    let mut world = World::default();
    assert_eq!(world.state.level(), Level::FIRST);
    world.run(raise(1)).outcome(Outcome::Configured);
    for level in [1, 0] {
        world.run(raise(level)).outcome(Outcome::Unchanged);
        assert_eq!(world.state.level(), Level(1));
    }
    world.check_reload();
    // A state from before there were levels has the bytes that it had.
    let meta = wire::StateMeta {
        now_ms: 7,
        ..Default::default()
    };
    assert_eq!(meta.encode_to_vec(), [8, 7]);
}

/// A cluster that is made of a backup goes on at the backup's level: its records are of that.
#[test]
fn restored_state_keeps_its_level() {
    let mut world = World::default();
    world.run(raise(1)).accepted();
    let beginning = Beginning {
        index: 100,
        last_uid: 100,
    };
    for write in world.state.restored([1].into_iter(), beginning) {
        match write.value {
            Some(value) => world.stored.insert(write.key, value),
            None => world.stored.remove(&write.key),
        };
    }
    let restored = State::load(world.stored.iter()).expect("readable");
    assert_eq!(restored.level(), Level(1));
}

/// Commands stand in the log: a replica of a later version applies what this one has written.
#[test]
fn raising_has_the_bytes_that_it_had_first() {
    let bytes = command(Some(raise(1))).encode_to_vec();
    assert_eq!(bytes, [0xc2, 0x02, 0x02, 0x08, 0x01]);
}

/// All that a command may hold: fields, and values of enums. A version that does not know one ignores it, and does something
/// else than one that does.
#[test]
fn all_that_a_command_holds_has_its_level() {
    const KNOWN: &str = include_str!("golden/command-fields.txt");
    let described = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).expect("it is described");
    let mut messages = BTreeMap::new();
    let mut enums = BTreeMap::new();
    for file in described.file {
        let package = format!(".{}", file.package());
        gather(
            &package,
            file.message_type,
            file.enum_type,
            &mut messages,
            &mut enums,
        );
    }
    let mut held = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut ahead = vec![".sandboxd.v1.Command".to_owned()];
    while let Some(name) = ahead.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let short = name.trim_start_matches(".sandboxd.v1.");
        for field in messages.get(&name).into_iter().flat_map(|message| &message.field) {
            held.insert(format!("{short}.{} {}", field.name(), field.number()));
            ahead.push(field.type_name().to_owned());
        }
        for value in enums.get(&name).into_iter().flat_map(|one| &one.value) {
            held.insert(format!("{short}.{} {}", value.name(), value.number()));
        }
    }
    let mut text = String::new();
    for held in held {
        writeln!(text, "{held}").expect("written");
    }
    assert_eq!(
        text, KNOWN,
        "commands hold something new: give it a level in state/level.rs, where older replicas would apply it otherwise, \
         and then a line in golden/command-fields.txt"
    );
}

/// By their full names, those within others included.
fn gather(
    within: &str,
    found: Vec<DescriptorProto>,
    found_enums: Vec<EnumDescriptorProto>,
    messages: &mut BTreeMap<String, DescriptorProto>,
    enums: &mut BTreeMap<String, EnumDescriptorProto>,
) {
    for one in found_enums {
        enums.insert(format!("{within}.{}", one.name()), one);
    }
    for mut message in found {
        let name = format!("{within}.{}", message.name());
        let nested = std::mem::take(&mut message.nested_type);
        let nested_enums = std::mem::take(&mut message.enum_type);
        gather(&name, nested, nested_enums, messages, enums);
        messages.insert(name, message);
    }
}
