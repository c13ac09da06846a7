//! What a sandbox may do, as elements of the table's sets. Pure.

use super::block::{Block, merge};
use super::element::Element;
use super::rules::Rules;
use crate::runtime::network::LinkName;
use proto::id::Uid;
use proto::spec::{Cidr, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Closed on every node beside its own addresses, which the table knows by themselves: "this network", loopback,
/// link-local (the metadata services of clouds), multicast and what lies behind it, broadcast among it.
const NEVER: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// All elements of one sandbox, in order, none twice. Its own address is always among them.
#[must_use]
pub fn sandbox(uid: Uid, ip: Ipv4Addr, rules: &Rules) -> Vec<Element> {
    let link = LinkName::of(uid);
    let mut elements = vec![Element::Address { link, ip }];
    if rules.egress {
        elements.push(Element::Egress { link });
    }
    let mut whole = Vec::new();
    let mut by_port: BTreeMap<(Protocol, u16), Vec<Block>> = BTreeMap::new();
    for rule in &rules.allow {
        match (Block::of(rule.cidr), rule.port) {
            (None, _) => {}
            (Some(block), None) => whole.push(block),
            (Some(block), Some((port, protocol))) => by_port.entry((protocol, port)).or_default().push(block),
        }
    }
    elements.extend(
        merge(whole)
            .into_iter()
            .map(|block| Element::Allow { link, block }),
    );
    for ((protocol, port), blocks) in by_port {
        elements.extend(merge(blocks).into_iter().map(|block| Element::AllowPort {
            link,
            block,
            protocol,
            port,
        }));
    }
    let ports: BTreeSet<_> = rules.ports.iter().copied().collect();
    elements.extend(ports.into_iter().map(|port| Element::Port {
        link,
        protocol: port.protocol,
        host_port: port.host_port,
        ip,
        container_port: port.container_port,
    }));
    elements
}

/// What is closed to all sandboxes: their own subnet, so that they never reach each other, what is closed on every
/// node, and the control plane.
#[must_use]
pub fn protected(subnet: Cidr, others: &[Cidr]) -> Vec<Element> {
    let never = NEVER.map(|(address, prefix)| Cidr {
        address: IpAddr::V4(address),
        prefix,
    });
    let all = never.iter().chain([&subnet]).chain(others);
    let blocks = merge(all.filter_map(|cidr| Block::of(*cidr)));
    blocks
        .into_iter()
        .map(|block| Element::Protected { block })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::EgressRule;
    use proto::status::AssignedPort;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 2);

    fn cidr(text: &str) -> Cidr {
        let (address, prefix) = text.split_once('/').expect("a CIDR");
        Cidr {
            address: address.parse().expect("an address"),
            prefix: prefix.parse().expect("a prefix"),
        }
    }

    fn allow(text: &str, port: Option<(u16, Protocol)>) -> EgressRule {
        EgressRule {
            cidr: cidr(text),
            port,
        }
    }

    fn port(host_port: u16, container_port: u16, protocol: Protocol) -> AssignedPort {
        AssignedPort {
            host_port,
            container_port,
            protocol,
        }
    }

    #[track_caller]
    fn check(rules: &Rules, want: &[(&str, &str)]) {
        let elements = sandbox(Uid(7), IP, rules);
        let texts: Vec<_> = elements.iter().map(|e| (e.set().name(), e.to_string())).collect();
        let texts: Vec<_> = texts.iter().map(|(set, e)| (*set, e.as_str())).collect();
        assert_eq!(texts, want);
        assert!(elements.iter().all(|e| e.uid() == Some(Uid(7))));
    }

    #[test]
    fn default_rules_open_nothing() {
        check(&Rules::default(), &[("addresses", "\"sbx-7\" . 10.89.0.2")]);
    }

    #[test]
    fn egress_is_one_element() {
        let rules = Rules {
            egress: true,
            ..Rules::default()
        };
        check(
            &rules,
            &[("addresses", "\"sbx-7\" . 10.89.0.2"), ("egress", "\"sbx-7\"")],
        );
    }

    #[test]
    fn allowed_blocks_are_merged_each_among_its_own_port() {
        let https = Some((443, Protocol::Tcp));
        let rules = Rules {
            allow: vec![
                allow("10.1.0.0/16", None),
                allow("10.0.0.0/8", None),
                allow("10.1.0.0/16", https),
                allow("10.1.2.0/24", https),
                allow("1.1.1.1/32", Some((53, Protocol::Udp))),
                allow("1.1.1.1/32", Some((53, Protocol::Tcp))),
                allow("fd00::/8", None),
            ],
            ..Rules::default()
        };
        check(
            &rules,
            &[
                ("addresses", "\"sbx-7\" . 10.89.0.2"),
                ("allow", "\"sbx-7\" . 10.0.0.0/8"),
                ("allow_port", "\"sbx-7\" . 1.1.1.1 . tcp . 53"),
                ("allow_port", "\"sbx-7\" . 10.1.0.0/16 . tcp . 443"),
                ("allow_port", "\"sbx-7\" . 1.1.1.1 . udp . 53"),
            ],
        );
    }

    #[test]
    fn tcp_and_udp_share_a_number() {
        let rules = Rules {
            ports: vec![
                port(10_000, 53, Protocol::Udp),
                port(10_000, 53, Protocol::Tcp),
                port(10_000, 53, Protocol::Tcp),
            ],
            ..Rules::default()
        };
        check(
            &rules,
            &[
                ("addresses", "\"sbx-7\" . 10.89.0.2"),
                ("ports", "tcp . 10000 comment \"sbx-7\" : 10.89.0.2 . 53"),
                ("ports", "udp . 10000 comment \"sbx-7\" : 10.89.0.2 . 53"),
            ],
        );
    }

    #[test]
    fn subnet_link_local_and_control_plane_are_protected() {
        let elements = protected(
            cidr("10.89.0.0/16"),
            &[cidr("192.0.2.7/32"), cidr("10.89.3.0/24")],
        );
        let texts: Vec<_> = elements.iter().map(ToString::to_string).collect();
        let want = [
            "0.0.0.0/8",
            "10.89.0.0/16",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "192.0.2.7",
            "224.0.0.0/3",
        ];
        assert_eq!(texts, want);
    }
}
