//! What reaches a sandbox and what it reaches, on a real node.

use super::{LONG, await_log, logs, manifest};
use e2e::cluster::Cluster;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

fn http(address: &str, port: u64) -> String {
    let mut stream = TcpStream::connect(format!("{address}:{port}")).expect("the port is reachable");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("set");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    text
}

#[test]
fn published_ports_reach_the_sandbox_from_outside_and_from_the_node() {
    let cluster = Cluster::up(1, &[]);
    cluster
        .apply(include_str!("../../../examples/web.yaml"), &["--wait"])
        .ok();
    let sandbox = cluster.get("sandbox", "web");
    assert_eq!(
        sandbox["status"]["assigned_ports"][0]["container_port"], 8080,
        "{sandbox:#}"
    );
    let port = sandbox["status"]["assigned_ports"][0]["host_port"]
        .as_u64()
        .expect("a host port");
    assert!((10_000..=32_767).contains(&port), "{port}");
    let agent = cluster.member("agent-1");
    assert!(http(&agent.address, port).contains("served from a sandbox"));
    for address in [agent.address.as_str(), "127.0.0.1"] {
        let url = format!("http://{address}:{port}/");
        let said = cluster.inside("agent-1", &["curl", "-sS", "-m", "5", &url]).ok();
        assert!(said.contains("served from a sandbox"), "{address}: {said}");
    }
}

/// busybox has no server for datagrams: that one has reached the sandbox is seen by its kernel's counter of those that
/// nobody listens for.
#[test]
fn tcp_and_udp_share_one_port_number() {
    let cluster = Cluster::up(1, &[]);
    let script = "nc -ll -p 53 -e cat & \
                  arrived() { awk '$1 == \"Udp:\" && $2 ~ /[0-9]/ {print $3}' /proc/net/snmp; }; \
                  until [ $(arrived) -gt 0 ]; do sleep 0.1; done; echo datagram; wait";
    let ports = "ports: [{container_port: 53, protocol: tcp}, {container_port: 53, protocol: udp}]";
    cluster.apply(&manifest("dns", script, ports), &["--wait"]).ok();
    let sandbox = cluster.get("sandbox", "dns");
    let ports = sandbox["status"]["assigned_ports"]
        .as_array()
        .expect("ports")
        .clone();
    let address = |protocol: &str| {
        let found = ports.iter().find(|p| p["protocol"] == protocol);
        let port = found.and_then(|p| p["host_port"].as_u64()).expect("a host port");
        format!("{}:{port}", cluster.member("agent-1").address)
    };
    let udp = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    udp.send_to(b"over udp", address("udp")).expect("sent");
    await_log(&cluster, "dns", "datagram");
    let mut tcp = TcpStream::connect(address("tcp")).expect("reachable");
    tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    tcp.write_all(b"over tcp").expect("sent");
    let mut bytes = [0; 8];
    tcp.read_exact(&mut bytes).expect("the echo comes back");
    assert_eq!(&bytes, b"over tcp");
}

/// Of the machine that the local cluster is on, which is outside of its nodes: the subnet's .1 and the registry's port.
fn outside(cluster: &Cluster) -> String {
    let agent = cluster.member("agent-1").address;
    let (subnet, _) = agent.rsplit_once('.').expect("an address");
    format!("{subnet}.1 {}", e2e::registry::port())
}

/// Shell that says `reached ADDRESS PORT` where a connection is accepted within a second.
fn tries(targets: &[String]) -> String {
    let tries: Vec<String> = targets
        .iter()
        .map(|target| format!("nc -w 1 {target} </dev/null >/dev/null 2>&1 && echo 'reached {target}'"))
        .collect();
    format!("{}; echo tried", tries.join("; "))
}

/// Tries what a hostile sandbox would.
#[test]
fn sandbox_reaches_neither_node_nor_neighbour_nor_control_plane() {
    let cluster = Cluster::up(1, &[]);
    cluster
        .apply(include_str!("../../../examples/web.yaml"), &["--wait"])
        .ok();
    let web = cluster.get("sandbox", "web");
    let neighbour = web["status"]["ip"].as_str().expect("an address");
    let published = web["status"]["assigned_ports"][0]["host_port"]
        .as_u64()
        .expect("a host port");
    let (agent, replica) = (
        cluster.member("agent-1").address,
        cluster.member("replica-1").address,
    );
    let outside = outside(&cluster);
    let script = tries(&[
        format!("{neighbour} 8080"),
        format!("{agent} {published}"),
        format!("{replica} 7070"),
        format!("{replica} 7071"),
        "169.254.169.254 80".to_owned(),
        outside.clone(),
    ]);
    let all = ["false", "true"].map(|egress| {
        let id = format!("egress-{egress}");
        manifest(&id, &script, &format!("egress: {egress}"))
    });
    cluster.apply(&all.join("\n---\n"), &[]).ok();
    for (id, reached) in [
        ("egress-false", String::new()),
        ("egress-true", format!("reached {outside}\n")),
    ] {
        cluster
            .wait(&format!("sandbox/{id}"), "phase=Succeeded", LONG)
            .ok();
        assert_eq!(logs(&cluster, id), format!("{reached}tried\n"), "{id}");
    }
}

#[test]
fn egress_reaches_the_outside_only_where_it_is_allowed() {
    let cluster = Cluster::up(1, &[]);
    let outside = outside(&cluster);
    let script = tries(std::slice::from_ref(&outside));
    let (host, port) = outside.split_once(' ').expect("address and port");
    let allow = format!("egress_allow: ['{host}/32:{port}/tcp']");
    let other = format!("egress_allow: ['{host}/32:1/tcp']");
    let table = [
        ("shut", "egress: false", false),
        ("open", "egress: true", true),
        ("allowed", allow.as_str(), true),
        ("other-port", other.as_str(), false),
    ];
    let all: Vec<String> = table
        .iter()
        .map(|(id, more, _)| manifest(id, &script, more))
        .collect();
    cluster.apply(&all.join("\n---\n"), &[]).ok();
    for (id, _, reaches) in table {
        cluster
            .wait(&format!("sandbox/{id}"), "phase=Succeeded", LONG)
            .ok();
        let said = logs(&cluster, id);
        assert!(said.contains("tried"), "{said}");
        assert_eq!(said.contains("reached"), reaches, "{id}: {said}");
    }
}

#[test]
fn flushing_the_nodes_firewall_opens_and_closes_nothing() {
    let cluster = Cluster::up(1, &[]);
    cluster
        .apply(include_str!("../../../examples/web.yaml"), &["--wait"])
        .ok();
    let web = cluster.get("sandbox", "web");
    let port = web["status"]["assigned_ports"][0]["host_port"]
        .as_u64()
        .expect("a host port");
    let agent = cluster.member("agent-1").address;
    let flush = || cluster.inside("agent-1", &["nft", "flush", "ruleset"]).ok();
    flush();
    assert!(http(&agent, port).contains("served from a sandbox"));
    let outside = outside(&cluster);
    let script = tries(&[outside.clone(), format!("{agent} {port}")]);
    cluster.apply(&manifest("shut", &script, ""), &[]).ok();
    cluster.wait("sandbox/shut", "phase=Succeeded", LONG).ok();
    assert_eq!(logs(&cluster, "shut"), "tried\n");
    // Nobody holds it while the agent is dead: the next one puts it back.
    cluster.run("dev kill agent-1").ok();
    flush();
    cluster.run("dev restart agent-1").ok();
    cluster.wait("node/agent-1", "state=Ready", LONG).ok();
    cluster.apply(&manifest("after", &script, ""), &[]).ok();
    cluster.wait("sandbox/after", "phase=Succeeded", LONG).ok();
    assert!(http(&agent, port).contains("served from a sandbox"));
    assert_eq!(logs(&cluster, "after"), "tried\n");
}

#[test]
fn name_servers_are_those_that_the_node_was_given() {
    let cluster = Cluster::up(
        1,
        &["--agent-arg=--dns=192.0.2.53", "--agent-arg=--dns=192.0.2.54"],
    );
    let script = "cat /etc/resolv.conf; echo x > /etc/resolv.conf || echo fixed";
    cluster
        .apply(&manifest("names", script, "egress: true"), &[])
        .ok();
    cluster.wait("sandbox/names", "phase=Succeeded", LONG).ok();
    let said = logs(&cluster, "names");
    assert!(
        said.contains("nameserver 192.0.2.53\nnameserver 192.0.2.54\n") && said.contains("fixed"),
        "{said}"
    );
}
