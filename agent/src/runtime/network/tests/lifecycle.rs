//! Coming, going, failing, and coming back after a restart of the agent.

use super::world::{NODE, OTHER, OUTSIDE, World, allow, egress, port, publishing};
use crate::runtime::firewall::{FirewallError, Rules};
use crate::runtime::network::NetworkError;
use proto::id::Uid;
use proto::spec::Protocol::{Tcp, Udp};
use std::net::Ipv4Addr;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// One of everything.
fn rich(host_port: u16) -> Rules {
    Rules {
        egress: true,
        allow: vec![
            allow("203.0.113.0/24", None),
            allow("198.51.100.2/32", Some((80, Tcp))),
        ],
        ports: vec![port(host_port, 80, Tcp), port(host_port, 53, Udp)],
    }
}

#[tokio::test]
async fn detaching_leaves_nothing() {
    let world = World::new().await;
    let before = world.traces();
    let sandbox = world.connected(2, &rich(10_000)).await;
    assert_ne!(world.traces(), before);
    assert_eq!(world.network().attached().await.expect("listed"), [sandbox.uid]);
    let _server = sandbox.host.listen(ANY, 80);
    world.outside.reaches(NODE, 10_000);
    World::detached(world.network().detach(sandbox.uid).await);
    assert_eq!(world.traces(), before);
    assert_eq!(world.network().attached().await.expect("listed"), []);
    world.outside.never_reaches(NODE, 10_000);
    // Nothing is there: nothing fails.
    World::detached(world.network().detach(sandbox.uid).await);
    World::detached(world.network().detach(Uid(u64::MAX)).await);
}

#[tokio::test]
async fn two_hundred_sandboxes_come_and_go_without_a_trace() {
    let world = World::new().await;
    let before = world.traces();
    for round in 0..20_u8 {
        let sandboxes: Vec<_> = (2..12).map(|number| world.sandbox(10 * round + number)).collect();
        let attaching = sandboxes.iter().map(async |sandbox| {
            let rules = rich(10_000 + u16::from(sandbox.ip.octets()[3]));
            world.attach(sandbox, &rules).await.expect("attached");
        });
        futures::future::join_all(attaching).await;
        assert_eq!(world.network().attached().await.expect("listed").len(), 10);
        let detaching = sandboxes
            .iter()
            .map(|sandbox| world.network().detach(sandbox.uid));
        futures::future::join_all(detaching)
            .await
            .into_iter()
            .for_each(World::detached);
    }
    assert_eq!(world.traces(), before);
}

#[tokio::test]
async fn attaching_again_replaces() {
    let world = World::new().await;
    let sandbox = world.connected(2, &rich(10_000)).await;
    world
        .attach(&sandbox, &publishing(vec![port(10_001, 80, Tcp)]))
        .await
        .expect("attached again");
    let _servers = [sandbox.host.listen(ANY, 80), world.outside.listen(ANY, 80)];
    world.outside.reaches(NODE, 10_001);
    world.outside.never_reaches(NODE, 10_000);
    sandbox.host.never_reaches(OUTSIDE, 80);
}

#[tokio::test]
async fn taken_port_is_refused_by_name_and_undone() {
    let world = World::new().await;
    let first = world.connected(2, &publishing(vec![port(10_000, 80, Tcp)])).await;
    let before = world.traces();
    let second = world.sandbox(3);
    let refused = world
        .attach(&second, &rich(10_000))
        .await
        .expect_err("the port is taken");
    assert!(
        matches!(refused, NetworkError::Firewall(FirewallError::Refused { .. })),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(
        text.contains("add tcp . 10000 comment \"sbx-3\" : 10.89.0.3 . 80 to ports"),
        "{text}"
    );
    assert_eq!(world.traces(), before);
    let _server = first.host.listen(ANY, 80);
    world.outside.reaches(NODE, 10_000);
}

#[tokio::test]
async fn failure_behind_the_firewall_undoes_the_firewall() {
    let world = World::new().await;
    let before = world.traces();
    let nowhere = std::path::Path::new("/nonexistent/ns/net");
    let failed = world
        .network()
        .attach(Uid(2), Ipv4Addr::new(10, 89, 0, 2), nowhere, &rich(10_000))
        .await;
    assert!(matches!(failed, Err(NetworkError::Enter { .. })), "{failed:?}");
    let sandbox = world.sandbox(3);
    let elsewhere = world
        .network()
        .attach(sandbox.uid, OTHER, &sandbox.pins.net, &egress())
        .await;
    assert!(
        matches!(elsewhere, Err(NetworkError::OutOfSubnet { .. })),
        "{elsewhere:?}"
    );
    assert_eq!(world.traces(), before);
}

#[tokio::test]
async fn reopening_keeps_what_runs_and_drops_what_is_gone() {
    let mut world = World::new().await;
    let a = world.connected(2, &rich(10_000)).await;
    let before = world.traces();
    let b = world.connected(3, &rich(10_001)).await;
    let _servers = [a.host.listen(ANY, 80), world.outside.listen(ANY, 80)];
    // As after a crash between the two halves of a detachment.
    world.node.sh("ip link del sbx-3");
    assert_eq!(world.network().attached().await.expect("listed"), [a.uid, b.uid]);
    world.reopen().await;
    assert_eq!(world.traces(), before);
    assert_eq!(world.network().attached().await.expect("listed"), [a.uid]);
    world.outside.reaches(NODE, 10_000);
    a.host.reaches(OUTSIDE, 80);
    World::detached(world.network().detach(a.uid).await);
    world.outside.never_reaches(NODE, 10_000);
}

#[tokio::test]
async fn connections_outlive_a_restart_of_the_agent() {
    let mut world = World::new().await;
    let sandbox = world.connected(2, &publishing(vec![port(10_000, 53, Udp)])).await;
    let server = sandbox.host.udp(ANY, 53);
    world.outside.exchanges(NODE, 10_000, &server);
    world.reopen().await;
    world.outside.exchanges(NODE, 10_000, &server);
}

#[tokio::test]
async fn table_removed_by_another_program_is_restored_with_the_next_change() {
    let world = World::shared().await;
    let a = world.connected(2, &rich(10_000)).await;
    world.node.sh("nft flush ruleset");
    let _b = world.connected(3, &rich(10_001)).await;
    let _servers = [a.host.listen(ANY, 80), world.node.listen(ANY, 443)];
    world.outside.reaches(NODE, 10_000);
    a.host.never_reaches(NODE, 443);
}

#[tokio::test]
async fn table_is_listed_as_it_is_meant() {
    let world = World::shared().await;
    let _sandbox = world.connected(2, &rich(10_000)).await;
    let listed = world.node.sh("nft -s list table inet sandboxd");
    assert_eq!(listed, include_str!("table.nft"), "{listed}");
}
