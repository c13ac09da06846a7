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
    let agent = cluster
        .members()
        .into_iter()
        .find(|m| m.name == "agent-1")
        .expect("agent-1");
    assert!(http(&agent.address, port).contains("served from a sandbox"));
    for address in [agent.address.as_str(), "127.0.0.1"] {
        let url = format!("http://{address}:{port}/");
        let said = cluster
            .inside("agent-1", &["busybox", "wget", "-q", "-T", "5", "-O", "-", &url])
            .ok();
        assert!(said.contains("served from a sandbox"), "{address}: {said}");
    }
}

#[test]
fn tcp_and_udp_share_one_port_number() {
    let cluster = Cluster::up(1, &[]);
    let script = "nc -u -l -p 53 -e cat & echo ready; nc -lk -p 53 -e cat";
    let ports = "ports: [{container_port: 53, protocol: tcp}, {container_port: 53, protocol: udp}]";
    cluster.apply(&manifest("dns", script, ports), &["--wait"]).ok();
    await_log(&cluster, "dns", "ready");
    let sandbox = cluster.get("sandbox", "dns");
    let ports = sandbox["status"]["assigned_ports"]
        .as_array()
        .expect("ports")
        .clone();
    let port = |protocol: &str| {
        let found = ports.iter().find(|p| p["protocol"] == protocol);
        found.and_then(|p| p["host_port"].as_u64()).expect("a host port")
    };
    let agent = cluster
        .members()
        .into_iter()
        .find(|m| m.name == "agent-1")
        .expect("agent-1");
    let udp = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    udp.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    udp.send_to(b"over udp", format!("{}:{}", agent.address, port("udp")))
        .expect("sent");
    let mut bytes = [0; 64];
    let read = udp.recv(&mut bytes).expect("the echo comes back");
    assert_eq!(&bytes[..read], b"over udp");
    let mut tcp = TcpStream::connect(format!("{}:{}", agent.address, port("tcp"))).expect("reachable");
    tcp.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    tcp.write_all(b"over tcp").expect("sent");
    let mut bytes = [0; 8];
    tcp.read_exact(&mut bytes).expect("the echo comes back");
    assert_eq!(&bytes, b"over tcp");
}

/// Tries what a hostile sandbox would. `nc -w` gives up after a second.
#[test]
fn sandbox_reaches_neither_node_nor_neighbour_nor_control_plane() {
    let cluster = Cluster::up(1, &[]);
    cluster
        .apply(include_str!("../../../examples/web.yaml"), &["--wait"])
        .ok();
    let web = cluster.get("sandbox", "web");
    let neighbour = web["status"]["ip"].as_str().expect("an address").to_owned();
    let published = web["status"]["assigned_ports"][0]["host_port"]
        .as_u64()
        .expect("a host port");
    let members = cluster.members();
    let address = |name: &str| {
        let found = members.iter().find(|m| m.name == name);
        found.map(|m| m.address.clone()).expect("a member")
    };
    let (agent, replica) = (address("agent-1"), address("replica-1"));
    let targets = [
        format!("{neighbour} 8080"),
        format!("{agent} {published}"),
        format!("{replica} 7070"),
        format!("{replica} 7071"),
        "169.254.169.254 80".to_owned(),
    ];
    let tries: Vec<String> = targets
        .iter()
        .map(|target| format!("nc -w 1 {target} </dev/null && echo 'reached {target}'"))
        .collect();
    let script = format!("{}; echo tried", tries.join("; "));
    let all = ["closed", "open"].map(|id| {
        manifest(
            id,
            &script,
            if id == "open" {
                "egress: true"
            } else {
                "egress: false"
            },
        )
    });
    cluster.apply(&all.join("\n---\n"), &[]).ok();
    for id in ["closed", "open"] {
        cluster
            .wait(&format!("sandbox/{id}"), "phase=Succeeded", LONG)
            .ok();
        let said = logs(&cluster, id);
        assert!(said.contains("tried"), "{said}");
        assert!(!said.contains("reached"), "{id}: {said}");
    }
}

#[test]
fn egress_reaches_the_outside_only_where_it_is_allowed() {
    let cluster = Cluster::up(1, &[]);
    // The machine itself is outside of the node: at the subnet's .1, where it serves the registry.
    let registry = e2e::registry::port();
    let agent = cluster
        .members()
        .into_iter()
        .find(|m| m.name == "agent-1")
        .expect("agent-1");
    let host = format!("{}.1", agent.address.rsplit_once('.').expect("an address").0);
    let url = format!("http://{host}:{registry}/v2/");
    let script = format!("wget -q -T 2 -O - {url} >/dev/null && echo reached; echo tried");
    let allow = format!("egress_allow: ['{host}/32:{registry}/tcp']");
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
