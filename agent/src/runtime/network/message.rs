//! The requests that make and remove a cable and route through it. Pure.

use crate::runtime::netlink::{CREATE, EXCL, Request};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// Of the node's end of every cable: a cable has two ends only, none can be mistaken. Locally administered.
pub(super) const NODE_MAC: Mac = [0x02, 0x5b, 0, 0, 0, 0x01];

/// Of the sandbox's end. No address of a sandbox makes it the node's.
pub(super) fn sandbox_mac(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x5b, a, b, c, d]
}

const HOST_PREFIX: u8 = 32;

/// Makes both ends at once, the sandbox's in its own namespace: at no time is it seen on the node.
pub(super) fn cable(node_end: &str, sandbox_end: &str, mac: Mac, netns: RawFd) -> Request {
    let mut inside = LinkMessage::default();
    inside.attributes = vec![
        LinkAttribute::IfName(sandbox_end.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::NetNsFd(netns),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(node_end.to_owned()),
        LinkAttribute::Address(NODE_MAC.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
        ]),
    ];
    Request::route(&RouteNetlinkMessage::NewLink(message), CREATE | EXCL)
}

/// The other end goes with it, and all routes and neighbours.
pub(super) fn remove_link(name: &str) -> Request {
    Request::route(&RouteNetlinkMessage::DelLink(named(name)), 0)
}

pub(super) fn get_link(name: &str) -> Request {
    Request::route(&RouteNetlinkMessage::GetLink(named(name)), 0)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}

pub(super) fn list_links() -> Request {
    Request::route(&RouteNetlinkMessage::GetLink(LinkMessage::default()), 0)
}

pub(super) fn raise(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request::route(&RouteNetlinkMessage::SetLink(message), 0)
}

/// The node's end, which knows its neighbour: what the other end asks or tells by ARP is not heard, and fills no table
/// of the node.
pub(super) fn raise_without_arp(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    Request::route(&RouteNetlinkMessage::SetLink(message), 0)
}

pub(super) fn address(index: u32, ip: Ipv4Addr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = HOST_PREFIX;
    message.header.index = index;
    let ip = IpAddr::V4(ip);
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    Request::route(&RouteNetlinkMessage::NewAddress(message), CREATE | EXCL)
}

/// `ip` is at the other end.
pub(super) fn route_to(index: u32, ip: Ipv4Addr) -> Request {
    route(
        HOST_PREFIX,
        RouteScope::Link,
        vec![
            RouteAttribute::Destination(RouteAddress::Inet(ip)),
            RouteAttribute::Oif(index),
        ],
    )
}

/// All else is reached by `gateway`, at the other end.
pub(super) fn default_route(index: u32, gateway: Ipv4Addr) -> Request {
    route(
        0,
        RouteScope::Universe,
        vec![
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::Oif(index),
        ],
    )
}

fn route(prefix: u8, scope: RouteScope, attributes: Vec<RouteAttribute>) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message.attributes = attributes;
    Request::route(&RouteNetlinkMessage::NewRoute(message), CREATE | EXCL)
}

/// Who has `ip`, for good: nobody is ever asked, and no first packet waits for an answer.
pub(super) fn neighbour(index: u32, ip: Ipv4Addr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    Request::route(&RouteNetlinkMessage::NewNeighbour(message), CREATE | EXCL)
}
