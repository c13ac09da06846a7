//! What must not pass.

use super::world::{
    CONTROL, METADATA, NODE, OTHER, OUTSIDE, World, allow, allowing, arrives, cidr, egress, port, publishing,
};
use crate::runtime::firewall::Rules;
use proto::spec::Protocol::{Tcp, Udp};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[tokio::test]
async fn sandbox_without_rules_reaches_nothing() {
    let world = World::new().await;
    let sandbox = world.connected(2, &Rules::default()).await;
    let _servers = [world.outside.listen(ANY, 80), world.node.listen(ANY, 80)];
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    for ip in [OUTSIDE, OTHER, CONTROL, METADATA, NODE, gateway] {
        sandbox.host.never_reaches(ip, 80);
    }
    let server = world.outside.udp(ANY, 53);
    sandbox
        .host
        .udp(ANY, 0)
        .send_to(b"ping", (OUTSIDE, 53))
        .expect("sent");
    assert!(!arrives(&server));
}

#[tokio::test]
async fn sandbox_is_reached_from_the_node_alone() {
    let world = World::new().await;
    let sandbox = world.connected(2, &egress()).await;
    let _server = sandbox.host.listen(ANY, 80);
    world.node.reaches(sandbox.ip, 80);
    world.outside.sh(&format!("ip route add 10.89.0.0/16 via {NODE}"));
    world.outside.never_reaches(sandbox.ip, 80);
}

#[tokio::test]
async fn egress_does_not_open_sandboxes_node_link_local_or_control_plane() {
    let world = World::new().await;
    let a = world.connected(2, &egress()).await;
    let b = world.connected(3, &publishing(vec![port(10_000, 80, Tcp)])).await;
    let everything = allowing(vec![
        allow("0.0.0.0/0", None),
        allow("0.0.0.0/0", Some((80, Tcp))),
    ]);
    let c = world.connected(4, &everything).await;
    let _servers = [
        b.host.listen(ANY, 80),
        world.node.listen(ANY, 80),
        world.outside.listen(ANY, 80),
    ];
    for sandbox in [&a, &c] {
        sandbox.host.reaches(OUTSIDE, 80);
        for (ip, port) in [
            (b.ip, 80),
            (NODE, 80),
            // Another's published port.
            (NODE, 10_000),
            (METADATA, 80),
            (CONTROL, 80),
        ] {
            sandbox.host.never_reaches(ip, port);
        }
    }
    // The node reaches all of them.
    world.node.reaches(METADATA, 80);
    world.node.reaches(CONTROL, 80);
}

#[tokio::test]
async fn protected_addresses_are_replaced_for_those_that_run() {
    let world = World::new().await;
    let sandbox = world.connected(2, &egress()).await;
    let _server = world.outside.listen(ANY, 80);
    world
        .network()
        .protect(&[cidr("198.51.100.2/32")])
        .await
        .expect("protected");
    sandbox.host.never_reaches(OUTSIDE, 80);
    sandbox.host.never_reaches(METADATA, 80);
    sandbox.host.reaches(CONTROL, 80);
}

#[tokio::test]
async fn forged_source_is_dropped() {
    let world = World::new().await;
    let sandbox = world.connected(2, &egress()).await;
    let other = world.connected(3, &Rules::default()).await;
    let server = world.outside.udp(ANY, 53);
    sandbox
        .host
        .sh("ip addr add 10.89.0.99/32 dev eth0; ip addr add 10.89.0.3/32 dev eth0");
    for (source, passes) in [
        (sandbox.ip, true),
        (Ipv4Addr::new(10, 89, 0, 99), false),
        (other.ip, false),
    ] {
        sandbox
            .host
            .udp(source, 0)
            .send_to(b"ping", (OUTSIDE, 53))
            .expect("sent");
        assert_eq!(arrives(&server), passes, "from {source}");
    }
}

#[tokio::test]
async fn ipv6_is_closed_though_the_sandbox_turns_it_on() {
    let world = World::shared().await;
    let sandbox = world.connected(2, &egress()).await;
    let setting = sandbox.host.sh("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
    assert_eq!(setting.trim(), "1");
    let to: SocketAddr = "[fd00::1]:80".parse().expect("an address");
    let connect = || {
        sandbox
            .host
            .run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
            .is_ok()
    };
    // As hostile as it gets: IPv6 is on at both ends, and neighbours are known.
    let inside = "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0
         ip addr add fd00::2/64 dev eth0 nodad; ip neigh add fd00::1 dev eth0 lladdr 02:5b:00:00:00:01";
    let node = "sysctl -qw net.ipv6.conf.sbx-2.disable_ipv6=0 net.ipv6.conf.sbx-2.accept_dad=0
         ip addr add fd00::1/64 dev sbx-2 nodad; ip neigh add fd00::2 dev sbx-2 lladdr 02:5b:0a:59:00:02";
    sandbox.host.sh(inside);
    world.node.sh(node);
    let _server = world.node.run(|| std::net::TcpListener::bind(to)).expect("bound");
    assert!(!connect(), "with the firewall");
    // The same without it: the test would see a leak.
    world.node.sh("nft delete table inet sandboxd");
    assert!(connect(), "without the firewall");
}

#[tokio::test]
async fn sandbox_that_is_not_attached_has_no_link() {
    let world = World::new().await;
    let sandbox = world.sandbox(2);
    assert_eq!(sandbox.host.sh("ip -o link | wc -l").trim(), "1");
    let _server = sandbox.host.listen(ANY, 80);
    sandbox.host.reaches(Ipv4Addr::LOCALHOST, 80);
}

#[tokio::test]
async fn link_without_elements_is_closed() {
    let world = World::shared().await;
    let sandbox = world.connected(2, &egress()).await;
    let _servers = [world.outside.listen(ANY, 80), sandbox.host.listen(ANY, 80)];
    sandbox.host.reaches(OUTSIDE, 80);
    world.node.sh("nft flush set inet sandboxd addresses");
    sandbox.host.never_reaches(OUTSIDE, 80);
    world.node.never_reaches(sandbox.ip, 80);
}

#[tokio::test]
async fn connections_of_an_ended_sandbox_do_not_reach_the_next_with_its_address() {
    let world = World::new().await;
    let published = publishing(vec![port(10_000, 53, Udp)]);
    let first = world.connected(2, &published).await;
    let client = world.outside.udp(ANY, 0);
    let server = first.host.udp(ANY, 53);
    client.send_to(b"ping", (NODE, 10_000)).expect("sent");
    assert!(arrives(&server));
    World::detached(world.network().detach(first.uid).await);
    let second = world.sandbox(3);
    let attached = world
        .network()
        .attach(second.uid, first.ip, &second.pins.net, &Rules::default())
        .await;
    attached.expect("attached");
    let server: UdpSocket = second.host.udp(ANY, 53);
    client.send_to(b"ping", (NODE, 10_000)).expect("sent");
    assert!(!arrives(&server));
}

#[tokio::test]
async fn no_address_of_the_node_is_reached_and_no_broadcast() {
    let world = World::new().await;
    world.node.sh("ip addr add 192.0.2.1/24 dev lo; ip link add other0 type veth peer name other1; ip addr add 192.0.2.129/25 dev other0
         ip link set other0 up; ip link set other1 up");
    let everything = Rules {
        egress: true,
        ..allowing(vec![allow("0.0.0.0/0", None)])
    };
    let sandbox = world.connected(2, &everything).await;
    let _servers = [world.node.listen(ANY, 80), world.outside.listen(ANY, 80)];
    let loopback = Ipv4Addr::new(127, 0, 0, 2);
    // What is for 127.0.0.0/8 would stay in the sandbox: send it out, to where published ports on it come from.
    sandbox.host.sh(
        "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local
         sysctl -qw net.ipv4.conf.eth0.route_localnet=1; ip route add 127.0.0.2/32 via 169.254.1.1 dev eth0 onlink",
    );
    for ip in [
        NODE,
        Ipv4Addr::new(192, 0, 2, 1),
        Ipv4Addr::new(192, 0, 2, 129),
        loopback,
    ] {
        sandbox.host.never_reaches(ip, 80);
    }
    let servers = [world.node.udp(ANY, 53), world.outside.udp(ANY, 53)];
    for ip in [
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(198, 51, 100, 255),
        Ipv4Addr::new(192, 0, 2, 255),
        Ipv4Addr::new(224, 0, 0, 1),
        Ipv4Addr::new(239, 1, 2, 3),
    ] {
        let client = sandbox.host.udp(sandbox.ip, 0);
        client.set_broadcast(true).expect("set");
        // Refused at once is as good.
        client.send_to(b"ping", (ip, 53)).ok();
        for server in &servers {
            assert!(!arrives(server), "{ip} is reached");
        }
    }
}

#[tokio::test]
async fn arp_is_not_answered_and_fills_no_table_of_the_node() {
    let world = World::new().await;
    let sandbox = world.connected(2, &egress()).await;
    let neighbours = || world.node.sh("ip neigh show dev sbx-2");
    let before = neighbours();
    let asked = sandbox.host.sh(&format!(
        "ip neigh del 169.254.1.1 dev eth0; ip addr add 10.89.0.77/32 dev eth0
         for ip in {NODE} 169.254.1.1 10.89.0.3; do
           busybox arping -c 1 -w 1 -I eth0 $ip || true; busybox arping -c 1 -w 1 -s 10.89.0.77 -I eth0 $ip || true
         done"
    ));
    assert!(!asked.contains("reply from"), "{asked}");
    assert_eq!(neighbours(), before);
}

/// Uids whose links are spelled alike but for a digit more, or its case.
#[tokio::test]
async fn sandboxes_of_similar_names_share_nothing() {
    let world = World::new().await;
    // sbx-1, sbx-10, sbx-A and sbx-a
    let numbers = [1, 62, 10, 36];
    let mut sandboxes = Vec::new();
    for (i, number) in (0_u16..).zip(numbers) {
        let rules = Rules {
            egress: number != 1,
            ..publishing(vec![port(10_000 + i, 80, Tcp)])
        };
        sandboxes.push(world.connected(number, &rules).await);
    }
    let _inside: Vec<_> = sandboxes.iter().map(|s| s.host.listen(ANY, 80)).collect();
    let _outside = world.outside.listen(ANY, 80);
    let check = |gone: usize| {
        for (i, sandbox) in (0_u16..).zip(&sandboxes).skip(gone) {
            world.outside.reaches(NODE, 10_000 + i);
            match numbers[usize::from(i)] {
                1 => sandbox.host.never_reaches(OUTSIDE, 80),
                _ => sandbox.host.reaches(OUTSIDE, 80),
            }
        }
    };
    check(0);
    for (gone, sandbox) in sandboxes.iter().enumerate() {
        World::detached(world.network().detach(sandbox.uid).await);
        world
            .outside
            .never_reaches(NODE, 10_000 + u16::try_from(gone).expect("small"));
        check(gone + 1);
    }
}
