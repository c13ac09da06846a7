use super::*;
use proto::spec::Protocol;
use std::fmt::Write as _;
use wire::Protocol::{Tcp, Udp};
use wire::rejected::Code;

const ONE_PORT: &str = "ports: [{container_port: 1}]";

/// A sandbox on node n with host port 20,000; gives its uid.
fn holder(world: &mut World, id: &str) -> u64 {
    world.run(sandbox(id, ONE_PORT)).accepted();
    let uid = world.sandbox(id).uid.0;
    world.run(place(uid, "n", &[(20_000, 1, Tcp)])).accepted();
    uid
}

/// Whether port 20,000 of n can be had, for a sandbox that is made for asking.
#[track_caller]
fn check_port(world: &mut World, refused: Option<&str>) {
    world.run(sandbox("asks", ONE_PORT)).accepted();
    let uid = world.sandbox("asks").uid.0;
    let answered = world.run(place(uid, "n", &[(20_000, 1, Tcp)]));
    match refused {
        Some(why) => drop(answered.rejected(Code::Stale, why)),
        None => drop(answered.accepted()),
    }
    world.check_reload();
}

#[test]
fn released_port_rests_for_a_minute() {
    let mut world = World::with_nodes(&["n"]);
    let uid = holder(&mut world, "a");
    check_port(&mut world, Some("tcp port 20000 is not free"));
    world
        .run(report("n", "a", uid, wire::Phase::Succeeded))
        .accepted();
    check_port(&mut world, Some("tcp port 20000 was in use a moment ago"));
    world.pass(PORT_REST - Duration::from_millis(1));
    check_port(&mut world, Some("tcp port 20000 was in use a moment ago"));
    world.pass(Duration::from_millis(1));
    check_port(&mut world, None);
}

#[test]
fn port_is_held_until_its_sandbox_is_gone_and_rests_from_then_on() {
    let mut world = World::with_nodes(&["n"]);
    let uid = holder(&mut world, "a");
    world.run(delete(wire::Kind::Sandbox, "a", false)).accepted();
    world.pass(PORT_REST * 2);
    check_port(&mut world, Some("is not free"));
    world.run(report("n", "a", uid, wire::Phase::Deleting)).accepted();
    world.pass(PORT_REST / 2);
    check_port(&mut world, Some("was in use a moment ago"));
    world.pass(PORT_REST / 2);
    check_port(&mut world, None);
}

#[test]
fn deleting_an_ended_sandbox_begins_no_second_rest() {
    let mut world = World::with_nodes(&["n"]);
    let uid = holder(&mut world, "a");
    world
        .run(report("n", "a", uid, wire::Phase::Succeeded))
        .accepted();
    world.pass(PORT_REST);
    world.run(delete(wire::Kind::Sandbox, "a", false)).accepted();
    world.run(report("n", "a", uid, wire::Phase::Deleting)).accepted();
    check_port(&mut world, None);
}

#[test]
fn ports_of_a_lost_node_rest_too_and_only_those_of_one_protocol() {
    let mut world = World::with_nodes(&["n"]);
    holder(&mut world, "a");
    world.run(set_state("n", wire::NodeState::Lost)).accepted();
    world.run(register("n")).accepted();
    world
        .run(sandbox("u", "ports: [{container_port: 1, protocol: udp}]"))
        .accepted();
    let uid = world.sandbox("u").uid.0;
    world.run(place(uid, "n", &[(20_000, 1, Udp)])).accepted();
    check_port(&mut world, Some("tcp port 20000 was in use a moment ago"));
    let n = "n".parse().expect("an id");
    let resting: Vec<_> = world.state.resting_ports(&n).map(|(port, _)| port).collect();
    assert_eq!(resting, [(Protocol::Tcp, 20_000)]);
}

/// As the golden file of the other records, which had been written before there was this one.
#[test]
fn resting_port_has_the_bytes_that_it_had_first_and_leaves_no_record() {
    let mut world = World::with_nodes(&["n"]);
    let uid = holder(&mut world, "a");
    world
        .run(report("n", "a", uid, wire::Phase::Succeeded))
        .accepted();
    let record = |world: &World| {
        let mut text = String::new();
        for (key, value) in world.stored.iter().filter(|(key, _)| key[0] == b'p') {
            let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
            write!(text, "{} {hex}", key.escape_ascii()).expect("written");
        }
        text
    };
    assert_eq!(record(&world), r"pn\x00tcpN  0a016e100118a09c0120c0843d");
    world.pass(PORT_REST);
    world.run(register("n")).accepted();
    assert_eq!(record(&world), "");
}

#[test]
fn damaged_record_of_a_port_is_named() {
    let load = |value: &[u8]| {
        let key: &[u8] = b"pn\x00tcpN ";
        let error = State::load([(key, value)].into_iter()).expect_err("refused");
        error.to_string()
    };
    assert!(load(&[0xff]).contains(r"`pn\x00tcpN ` can't be decoded"));
    assert!(load(b"\x0a\x01n").contains("breaks a rule: protocol"));
    assert!(load(b"\x10\x01").contains("breaks a rule: node_id"));
}
