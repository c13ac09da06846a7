use super::*;
use wire::Outcome;
use wire::rejected::Code;

#[test]
fn retried_request_takes_effect_once_and_gets_the_first_answer() {
    let mut world = World::with_nodes(&[]);
    let first = world.run_with_id("r1", sandbox("a", "")).accepted();
    let again = world.run_with_id("r1", sandbox("a", "")).accepted();
    assert_eq!(first, again);
    assert_eq!(again.outcome(), Outcome::Created);
    world
        .run_with_id("r2", delete(wire::Kind::Sandbox, "a", false))
        .outcome(Outcome::Deleted);
    world
        .run_with_id("r2", delete(wire::Kind::Sandbox, "a", false))
        .outcome(Outcome::Deleted);
    assert!(!world.has("a"));
    let late = world.run_with_id("r1", sandbox("a", "")).accepted();
    assert_eq!((late.outcome(), late.object), (Outcome::Created, None));
    assert!(!world.has("a"), "a retry makes nothing anew");
    world.check_reload();
}

#[test]
fn refusal_is_remembered_too() {
    let mut world = World::with_nodes(&[]);
    let delete = || delete(wire::Kind::Sandbox, "a", false);
    world
        .run_with_id("r1", delete())
        .rejected(Code::NotFound, "sandbox a");
    world.run(sandbox("a", "")).accepted();
    world
        .run_with_id("r1", delete())
        .rejected(Code::NotFound, "sandbox a");
    assert!(world.has("a"));
}

#[test]
fn same_request_twice_in_one_entry_takes_effect_once() {
    let mut world = World::with_nodes(&[]);
    let command = wire::Command {
        request_id: "r".to_owned(),
        op: Some(sandbox("a", "")),
    };
    let answers = world.run_batch(vec![command.clone(), command]);
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn answers_are_forgotten_after_their_time() {
    let mut world = World::with_nodes(&[]);
    world.run_with_id("r1", sandbox("a", "")).accepted();
    world.pass(REMEMBERED - Duration::from_millis(1));
    world.run_with_id("r2", sandbox("b", "")).accepted();
    assert_eq!(world.state.answers(), 2);
    world.pass(Duration::from_millis(1));
    world.run(sandbox("c", "")).accepted();
    assert_eq!(world.state.answers(), 1);
    world.check_reload();
}
