//! Numbers of replicas: given out once, and never again after a removal.

use super::*;
use std::fmt::Write as _;
use wire::Outcome;
use wire::rejected::Code;

fn claim(id: u64, by: &str) -> Op {
    Op::ClaimReplica(wire::ClaimReplica {
        id,
        by: by.to_owned(),
        again: false,
        highest_member: 3,
    })
}

fn retire(id: u64) -> Op {
    Op::RetireReplica(wire::RetireReplica { id })
}

#[test]
fn number_is_given_to_one_replica_however_often_it_asks() {
    let mut world = World::default();
    world.run(claim(4, "token-a")).outcome(Outcome::Created);
    world.run(claim(4, "token-a")).outcome(Outcome::Unchanged);
    world
        .run(claim(4, "token-b"))
        .rejected(Code::Conflict, "next free one is 5");
    let again = Op::ClaimReplica(wire::ClaimReplica {
        id: 4,
        by: "token-c".to_owned(),
        again: true,
        highest_member: 4,
    });
    world.run(again).outcome(Outcome::Unchanged);
    world
        .run(claim(0, "token-a"))
        .rejected(Code::Invalid, "1 or more");
    world
        .run(claim(9, ""))
        .rejected(Code::Invalid, "given to somebody");
    assert_eq!(world.state.next_replica(3), 5);
    assert_eq!(world.state.next_replica(7), 8);
    world.check_reload();
}

#[test]
fn removed_number_is_refused_for_ever_and_the_next_free_one_is_named() {
    let mut world = World::default();
    world.run(claim(4, "token-a")).accepted();
    // A member from the beginning, and one that has joined.
    for id in [2, 4] {
        world.run(retire(id)).outcome(Outcome::Deleted);
        world.run(retire(id)).outcome(Outcome::Unchanged);
        for by in ["token-a", "token-b"] {
            world
                .run(claim(id, by))
                .rejected(Code::Conflict, "never used again; the next free one is 5");
        }
    }
    world.check_reload();
}

/// The bytes that every later version must read.
#[test]
fn numbers_are_stored_as_they_were_first_written() {
    let mut world = World::with_nodes(&[]);
    world.run(claim(4, "token-a")).accepted();
    world.run(retire(2)).accepted();
    let mut text = String::new();
    for (key, value) in &world.stored {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        writeln!(text, "{} {}", hex(key), hex(value)).expect("written");
    }
    const GOLDEN: &str = include_str!("golden/replicas.txt");
    assert_eq!(text, GOLDEN);
    let bytes = |hex: &str| -> Vec<u8> {
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(byte).collect()
    };
    let records = GOLDEN.lines().map(|line| {
        let (key, value) = line.split_once(' ').expect("key and value");
        (bytes(key), bytes(value))
    });
    assert_eq!(State::load(records).expect("readable"), world.state);
}

/// Commands stand in the log: a replica of a later version applies what this one has written.
#[test]
fn commands_have_the_bytes_that_they_had_first() {
    use prost::Message;
    let hex = |op: Op| -> String {
        let command = wire::Command {
            request_id: String::new(),
            op: Some(op),
        };
        let bytes = command.encode_to_vec();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    };
    let golden = include_str!("golden/replica-commands.txt");
    assert_eq!(
        format!("{}\n{}\n", hex(claim(4, "token-a")), hex(retire(2))),
        golden
    );
}
