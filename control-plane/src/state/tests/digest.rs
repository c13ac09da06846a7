//! Sums of whole states.

use super::*;

fn check_state() -> Op {
    Op::CheckState(wire::CheckState {})
}

#[test]
fn any_difference_gives_another_digest() {
    let mut world = World::with_nodes(&["n"]);
    let mut seen = vec![world.state.digest()];
    let uid = world.placed("a", "n", "ttl_seconds: 60");
    let steps = [
        report("n", "a", uid, wire::Phase::Running),
        external("e", "n", "a.test"),
        external("e", "n", "b.test"),
        levels::raise(1),
        delete(wire::Kind::External, "e", false),
    ];
    for (n, step) in steps.into_iter().enumerate() {
        world.run_with_id(&format!("request-{n}"), step).accepted();
        let digest = world.state.digest();
        assert!(!seen.contains(&digest), "step {n}");
        seen.push(digest);
        world.check_reload();
    }
    assert_eq!(world.state.clone().digest(), world.state.digest());
}

#[test]
fn check_changes_nothing_and_is_told_with_its_entry_once() {
    let mut world = World::with_nodes(&["n"]);
    let command = wire::Command {
        request_id: "check-1".to_owned(),
        op: Some(check_state()),
    };
    for (index, expected) in [(10, vec!["check-1".to_owned()]), (11, vec![])] {
        let batch = wire::Batch {
            now_ms: world.now_ms,
            commands: vec![command.clone()],
        };
        let applied = world.state.apply_batch(index, batch);
        assert_eq!(applied.checks, expected);
        assert!(applied.changes.is_empty());
    }
}

/// Commands stand in the log: a replica of a later version applies what this one has written.
#[test]
fn check_has_the_bytes_that_it_had_first() {
    use prost::Message;
    let command = wire::Command {
        request_id: String::new(),
        op: Some(check_state()),
    };
    assert_eq!(command.encode_to_vec(), [0xca, 0x02, 0x00]);
}
