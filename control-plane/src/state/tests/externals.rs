use super::*;
use wire::Outcome;
use wire::rejected::Code;

#[test]
fn node_has_one_external_which_can_move() {
    let mut world = World::with_nodes(&[]);
    world.run(external("e", "n", "a.test")).outcome(Outcome::Created);
    world
        .run(external("e", "n", "a.test"))
        .outcome(Outcome::Unchanged);
    world
        .run(external("f", "n", "b.test"))
        .rejected(Code::Conflict, "has the external e already");
    assert_eq!(world.state.external_of(&"n".parse().unwrap()), Some("a.test"));
    world
        .run(external("e", "m", "c.test"))
        .outcome(Outcome::Configured);
    assert_eq!(world.state.external_of(&"n".parse().unwrap()), None);
    world.run(external("f", "n", "b.test")).outcome(Outcome::Created);
    world.check_reload();
    world
        .run(delete(wire::Kind::External, "e", false))
        .outcome(Outcome::Deleted);
    world
        .run(delete(wire::Kind::External, "e", false))
        .rejected(Code::NotFound, "external e");
    assert_eq!(world.state.external_of(&"m".parse().unwrap()), None);
    world.check_reload();
}
