//! Other programs that change firewalls: what they can't do, and what becomes of what they can.

use super::world::{NODE, OUTSIDE, World, egress, port, publishing};
use crate::runtime::firewall::{FirewallError, Rules};
use crate::runtime::network::NetworkError;
use proto::spec::Protocol::Tcp;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// A change is undone within a millisecond; so long only where the machine is very busy.
const UNDONE: Duration = Duration::from_secs(10);

fn open_port() -> Rules {
    Rules {
        egress: true,
        ..publishing(vec![port(10_000, 80, Tcp)])
    }
}

#[tokio::test]
async fn table_is_out_of_reach_of_other_programs() {
    let world = World::new().await;
    let sandbox = world.connected(2, &open_port()).await;
    let before = world.traces();
    // Succeeds, and passes over what is not its own.
    world.node.sh("nft flush ruleset");
    for command in [
        "delete table inet sandboxd",
        "flush chain inet sandboxd forward",
        "add element inet sandboxd egress '{ \"sbx-3\" }'",
        "insert rule inet sandboxd input accept",
    ] {
        let refused = world.node.sh(&format!("nft {command} 2>&1 && echo done || true"));
        assert!(
            refused.contains("Operation not permitted"),
            "{command}: {refused}"
        );
    }
    assert_eq!(world.traces(), before);
    let _servers = [sandbox.host.listen(ANY, 80), world.node.listen(ANY, 443)];
    world.outside.reaches(NODE, 10_000);
    sandbox.host.never_reaches(NODE, 443);
}

#[tokio::test]
async fn second_agent_on_a_node_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let _sandbox = world.connected(2, &open_port()).await;
    let before = world.traces();
    let refused = world.intrude().await.expect_err("the table is held");
    assert!(
        matches!(refused, NetworkError::Firewall(FirewallError::Taken)),
        "{refused:?}"
    );
    assert_eq!(world.traces(), before);
}

#[tokio::test]
async fn what_was_removed_while_no_agent_was_there_is_put_back_from_what_shall_run() {
    let mut world = World::new().await;
    let sandbox = world.connected(2, &open_port()).await;
    let before = world.traces();
    world.close();
    world.node.sh("nft flush ruleset");
    world.reopen().await;
    let _servers = [
        sandbox.host.listen(ANY, 80),
        world.node.listen(ANY, 443),
        world.outside.listen(ANY, 80),
    ];
    // Closed until somebody says what is open.
    sandbox.host.never_reaches(OUTSIDE, 80);
    world.outside.never_reaches(NODE, 10_000);
    let readmitted = world
        .network()
        .readmit(sandbox.uid, sandbox.ip, &open_port())
        .await;
    readmitted.expect("admitted");
    assert_eq!(world.traces(), before);
    sandbox.host.reaches(OUTSIDE, 80);
    sandbox.host.never_reaches(NODE, 443);
    world.outside.reaches(NODE, 10_000);
}

#[tokio::test]
async fn table_of_an_older_kernel_or_agent_becomes_exclusive_without_a_loss() {
    let mut world = World::shared().await;
    let sandbox = world.connected(2, &open_port()).await;
    world.reopen_exclusive().await;
    world.node.sh("nft flush ruleset");
    let _servers = [sandbox.host.listen(ANY, 80), world.outside.listen(ANY, 80)];
    world.outside.reaches(NODE, 10_000);
    sandbox.host.reaches(OUTSIDE, 80);
    world.outside.never_reaches(sandbox.ip, 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_shared_table_is_undone_at_once() {
    let world = World::shared().await;
    let _sandbox = world.connected(2, &open_port()).await;
    let guarded = world.network().clone();
    let guard = tokio::spawn(async move { guarded.guard().await });
    let listed = || {
        world
            .node
            .sh("nft -s list table inet sandboxd 2>/dev/null || true")
    };
    let before = listed();
    for change in [
        "flush ruleset",
        "delete table inet sandboxd",
        "flush chain inet sandboxd forward",
        "insert rule inet sandboxd input accept",
        "flush set inet sandboxd addresses",
        "add element inet sandboxd egress '{ \"sbx-3\" }'",
        "add table inet sandboxd '{ flags dormant; }'",
    ] {
        world.node.sh(&format!("nft {change}"));
        let begin = Instant::now();
        while listed() != before {
            assert!(begin.elapsed() < UNDONE, "{change}: {}", listed());
        }
    }
    // Others' tables are nobody's business.
    world.node.sh("nft add table inet others");
    assert_eq!(listed(), before);
    guard.abort();
}

#[tokio::test]
async fn connection_made_while_the_table_was_gone_is_cut() {
    let world = World::shared().await;
    let sandbox = world.connected(2, &egress()).await;
    let server = world.node.listen(ANY, 443);
    world.node.sh("nft flush ruleset");
    let (mut inside, mut outside) = connect(&sandbox.host, &server);
    inside.write_all(b"a").expect("sent");
    let heard = outside.read(&mut [0; 4]);
    assert_eq!(heard.expect("a hole, as long as the table is gone"), 1);
    world.network().node.firewall().defend(false).expect("restored");
    inside.write_all(b"b").expect("buffered");
    assert!(
        outside.read(&mut [0; 4]).is_err(),
        "the connection outlives the hole"
    );
}

fn connect(from: &super::world::Host, server: &TcpListener) -> (TcpStream, TcpStream) {
    let inside = from.run(|| TcpStream::connect((NODE, 443))).expect("connected");
    let limit = Some(Duration::from_millis(300));
    let (outside, _) = server.accept().expect("accepted");
    outside.set_read_timeout(limit).expect("set");
    (inside, outside)
}
