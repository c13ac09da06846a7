use super::*;
use wire::rejected::Code::Invalid;

fn loose(id: &str, option: &str) -> Op {
    let text = manifest(id, "").replace(
        "{name: main,",
        &format!("{{name: main, security_opt: ['{option}'],"),
    );
    apply(&text, false)
}

fn set(unconfined: Option<bool>, new_privileges: Option<bool>) -> Op {
    Op::SetPolicy(wire::PolicyChange {
        extra_capabilities: None,
        unconfined,
        new_privileges,
    })
}

#[test]
fn policy_decides_about_what_is_created_from_then_on() {
    let mut world = World::with_nodes(&["n"]);
    let (unconfined, privileged) = ("seccomp=unconfined", "no-new-privileges:false");
    let path = "spec.containers[0].security_opt[0]";
    world.run(loose("a", unconfined)).rejected(Invalid, path);
    world
        .run(set(Some(true), None))
        .outcome(wire::Outcome::Configured);
    world.run(set(Some(true), None)).outcome(wire::Outcome::Unchanged);
    world.check_reload();
    world.run(loose("a", unconfined)).outcome(wire::Outcome::Created);
    world.run(loose("b", privileged)).rejected(Invalid, path);
    // What is absent stays as it is.
    world.run(set(None, Some(true))).accepted();
    assert!(world.state.policy().unconfined);
    world.run(loose("b", privileged)).outcome(wire::Outcome::Created);
    world.run(set(Some(false), Some(false))).accepted();
    // What is there goes on; nothing like it comes.
    world
        .run(loose("a", unconfined))
        .outcome(wire::Outcome::Unchanged);
    world.run(loose("c", unconfined)).rejected(Invalid, path);
    world.check_reload();
}
