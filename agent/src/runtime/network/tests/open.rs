//! What must pass.

use super::world::{CONTROL, NODE, OTHER, OUTSIDE, World, allow, allowing, egress, port, publishing};
use crate::runtime::firewall::Rules;
use proto::spec::Protocol::{Tcp, Udp};
use std::net::Ipv4Addr;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[tokio::test]
async fn egress_reaches_the_outside_in_the_name_of_the_node() {
    let world = World::new().await;
    let sandbox = world.connected(2, &egress()).await;
    let server = world.outside.listen(ANY, 80);
    sandbox.host.reaches(OUTSIDE, 80);
    sandbox.host.reaches(OTHER, 80);
    let (_, from) = server.accept().expect("accepted");
    assert_eq!(from.ip(), NODE);
    let server = world.outside.udp(ANY, 53);
    sandbox.host.exchanges(OUTSIDE, 53, &server);
}

#[tokio::test]
async fn allowed_destinations_alone_are_reached_without_egress() {
    let world = World::new().await;
    let sandbox = world
        .connected(2, &allowing(vec![allow("203.0.113.0/24", None)]))
        .await;
    let by_port = allowing(vec![
        allow("198.51.100.0/24", Some((443, Tcp))),
        allow("198.51.100.2/32", Some((443, Tcp))),
    ]);
    let other = world.connected(3, &by_port).await;
    let _servers = [world.outside.listen(ANY, 80), world.outside.listen(ANY, 443)];
    sandbox.host.reaches(OTHER, 80);
    sandbox.host.reaches(OTHER, 443);
    sandbox.host.never_reaches(OUTSIDE, 80);
    other.host.reaches(OUTSIDE, 443);
    other.host.never_reaches(OUTSIDE, 80);
    other.host.never_reaches(OTHER, 443);
    other.host.never_reaches(CONTROL, 443);
}

#[tokio::test]
async fn published_ports_are_reached_from_outside_and_from_the_node() {
    let world = World::new().await;
    let ports = vec![
        port(10_000, 80, Tcp),
        port(10_000, 53, Udp),
        port(10_001, 81, Tcp),
    ];
    let sandbox = world.connected(2, &publishing(ports)).await;
    let tcp = sandbox.host.listen(ANY, 80);
    let udp = sandbox.host.udp(ANY, 53);
    let _other = sandbox.host.listen(ANY, 81);
    for (host, ip) in [
        (&world.outside, NODE),
        (&world.node, NODE),
        (&world.node, Ipv4Addr::LOCALHOST),
    ] {
        host.reaches(ip, 10_000);
        host.reaches(ip, 10_001);
        host.exchanges(ip, 10_000, &udp);
        host.never_reaches(ip, 80);
    }
    let (_, from) = tcp.accept().expect("accepted");
    assert_eq!(from.ip(), OUTSIDE, "the client's address is kept");
    // Publishing opens nothing outwards.
    let _server = world.outside.listen(ANY, 80);
    sandbox.host.never_reaches(OUTSIDE, 80);
}

#[tokio::test]
async fn first_packets_are_not_lost() {
    let world = World::new().await;
    let server = world.outside.udp(ANY, 53);
    for number in 2..12 {
        let sandbox = world.connected(number, &egress()).await;
        sandbox.host.exchanges(OUTSIDE, 53, &server);
        let own = sandbox.host.udp(ANY, 53);
        world.node.exchanges(sandbox.ip, 53, &own);
    }
}

#[tokio::test]
async fn node_probes_the_private_address() {
    let world = World::new().await;
    let sandbox = world.connected(2, &Rules::default()).await;
    let _server = sandbox.host.listen(ANY, 8080);
    world.node.reaches(sandbox.ip, 8080);
}

#[tokio::test]
async fn hundreds_of_allowed_destinations_hold() {
    let world = World::new().await;
    let many = (0..=255_u8).flat_map(|n| {
        [
            allow(&format!("10.{n}.0.0/24"), None),
            allow(&format!("172.16.{n}.1/32"), Some((1_000 + u16::from(n), Tcp))),
            allow(&format!("172.16.{n}.1/32"), Some((1_000 + u16::from(n), Udp))),
        ]
    });
    let mut rules = allowing(many.collect());
    rules.allow.push(allow("203.0.113.9/32", Some((443, Tcp))));
    let sandbox = world.connected(2, &rules).await;
    world
        .outside
        .sh("ip addr add 10.200.0.7/32 dev lo; ip addr add 172.16.200.1/32 dev lo; ip addr add 10.200.1.7/32 dev lo");
    let _servers = [80, 443, 1_200].map(|port| world.outside.listen(ANY, port));
    sandbox.host.reaches(Ipv4Addr::new(10, 200, 0, 7), 80);
    sandbox.host.never_reaches(Ipv4Addr::new(10, 200, 1, 7), 80);
    sandbox.host.reaches(Ipv4Addr::new(172, 16, 200, 1), 1_200);
    sandbox.host.never_reaches(Ipv4Addr::new(172, 16, 200, 1), 80);
    let server = world.outside.udp(Ipv4Addr::new(172, 16, 200, 1), 1_200);
    sandbox
        .host
        .exchanges(Ipv4Addr::new(172, 16, 200, 1), 1_200, &server);
    sandbox.host.reaches(OTHER, 443);
    sandbox.host.never_reaches(OTHER, 80);
    sandbox.host.never_reaches(OUTSIDE, 443);
}
