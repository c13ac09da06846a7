//! Tokens: made, used up, revoked, forgotten.

use super::*;
use std::fmt::Write as _;
use wire::rejected::Code;
use wire::{Grant, Outcome};

const HOUR: Duration = Duration::from_secs(3_600);

fn token(id: &str, grant: Grant) -> wire::Token {
    wire::Token {
        id: id.to_owned(),
        name: "ci".to_owned(),
        grant: grant.into(),
        hash: vec![7; 32],
        ..Default::default()
    }
}

fn create(token: wire::Token, life: Duration, first: bool) -> Op {
    Op::CreateToken(wire::CreateToken {
        token: Some(token),
        life_ms: u64::try_from(life.as_millis()).expect("short"),
        first,
    })
}

fn revoke(id: &str) -> Op {
    Op::RevokeToken(wire::RevokeToken { id: id.to_owned() })
}

fn redeem(id: &str, grant: Grant, machine: &str) -> Op {
    Op::RedeemToken(wire::RedeemToken {
        id: id.to_owned(),
        grant: grant.into(),
        machine: machine.to_owned(),
    })
}

#[test]
fn first_token_is_made_once_and_never_again() {
    let mut world = World::with_nodes(&[]);
    let first = || create(token("a", Grant::Admin), Duration::ZERO, true);
    world.run(first()).outcome(Outcome::Created);
    world.run(first()).rejected(Code::Conflict, "first token already");
    let second = create(token("b", Grant::Admin), Duration::ZERO, false);
    world.run(second).outcome(Outcome::Created);
    world.run(revoke("a")).outcome(Outcome::Deleted);
    world.run(first()).rejected(Code::Conflict, "first token already");
    world.check_reload();
}

#[test]
fn last_administrator_that_lasts_is_not_revoked() {
    let mut world = World::with_nodes(&[]);
    world
        .run(create(token("a", Grant::Admin), Duration::ZERO, false))
        .accepted();
    world
        .run(create(token("b", Grant::Admin), HOUR, false))
        .accepted();
    world
        .run(create(token("c", Grant::Operator), Duration::ZERO, false))
        .accepted();
    world
        .run(revoke("a"))
        .rejected(Code::Conflict, "make another one first");
    world.run(revoke("b")).outcome(Outcome::Deleted);
    world.run(revoke("c")).outcome(Outcome::Deleted);
    world.run(revoke("c")).rejected(Code::NotFound, "token c");
}

#[test]
fn token_for_joining_lets_in_one_machine_of_its_kind_in_time() {
    let mut world = World::with_nodes(&[]);
    let node = || redeem("j", Grant::JoinNode, "node/n");
    world.run(node()).rejected(Code::NotFound, "token j");
    let endless = create(token("j", Grant::JoinNode), Duration::ZERO, false);
    world.run(endless).rejected(Code::Invalid, "must end");
    world
        .run(create(token("j", Grant::JoinNode), HOUR, false))
        .accepted();
    world
        .run(redeem("j", Grant::JoinReplica, "replica/2"))
        .rejected(Code::Conflict, "not for joining as replica/2");
    world.run(node()).outcome(Outcome::Accepted);
    world
        .run(node())
        .rejected(Code::Conflict, "used by node/n already");
    let bound = wire::Token {
        machine: "node/m".to_owned(),
        ..token("k", Grant::JoinNode)
    };
    world.run(create(bound, HOUR, false)).accepted();
    world
        .run(redeem("k", Grant::JoinNode, "node/n"))
        .rejected(Code::Conflict, "is for node/m");
    world.pass(HOUR);
    world
        .run(redeem("k", Grant::JoinNode, "node/m"))
        .rejected(Code::Conflict, "has expired");
    world
        .run(create(token("p", Grant::Admin), Duration::ZERO, false))
        .accepted();
    world
        .run(redeem("p", Grant::Admin, "node/m"))
        .rejected(Code::Conflict, "not for joining");
    assert_eq!(world.state.tokens().count(), 1, "what has expired is forgotten");
    world.check_reload();
}

#[test]
fn use_of_a_token_is_noted_and_never_goes_back() {
    let mut world = World::with_nodes(&[]);
    world
        .run(create(token("a", Grant::Viewer), Duration::ZERO, false))
        .accepted();
    let note = |id: &str, at_ms| {
        let id = id.to_owned();
        let uses = vec![wire::TokenUse { id, at_ms }];
        Op::NoteTokenUses(wire::NoteTokenUses { uses })
    };
    for (at, expected) in [(50, 50), (40, 50), (60, 60)] {
        world.run(note("a", at)).accepted();
        let noted = world.state.token("a").expect("it is there").last_used;
        assert_eq!(noted.map(|at| at.0), Some(expected));
    }
    world.run(note("gone", 70)).accepted();
    assert!(world.state.token("gone").is_none());
}

#[test]
fn malformed_token_is_refused() {
    let mut world = World::with_nodes(&[]);
    let good = || token("a", Grant::Viewer);
    let mut check = |token: wire::Token, part: &str| {
        let answered = world.run(create(token, Duration::ZERO, false));
        answered.rejected(Code::Invalid, part);
    };
    check(token("", Grant::Viewer), "token.id");
    check(token("a", Grant::Unspecified), "grant");
    check(
        wire::Token {
            hash: vec![7; 31],
            ..good()
        },
        "token.hash",
    );
    let name = "line\nbreak".to_owned();
    check(wire::Token { name, ..good() }, "token.name");
}

#[test]
fn token_has_the_bytes_that_it_had_first_and_leaves_no_record() {
    let mut world = World::with_nodes(&[]);
    let bound = wire::Token {
        machine: "node/n".to_owned(),
        ..token("j", Grant::JoinNode)
    };
    world.run(create(bound, HOUR, false)).accepted();
    world.run(redeem("j", Grant::JoinNode, "node/n")).accepted();
    let record = |world: &World| {
        let mut text = String::new();
        for (key, value) in world
            .stored
            .iter()
            .filter(|(key, _)| matches!(key[0], b't' | b'm'))
        {
            let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
            writeln!(text, "{} {hex}", key.escape_ascii()).expect("written");
        }
        text
    };
    assert_eq!(record(&world), include_str!("golden/token.txt"));
    world.run(revoke("j")).accepted();
    assert!(!record(&world).contains("tj"));
}
