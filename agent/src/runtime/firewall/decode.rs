//! Elements as the kernel lists them: how a restarted agent knows what it had opened. Pure.

use super::block::Block;
use super::element::{Element, Set};
use super::encode::{NAME_LENGTH, number};
use crate::runtime::netlink::attribute::{find, read};
use crate::runtime::network::LinkName;
use proto::spec::Protocol;
use std::net::Ipv4Addr;

/// The elements in a message of a listing of `set`. What is not of ours is left out: the table is ours, and what
/// nobody knows must not stay open. The protected addresses come from the configuration, not from here.
pub(super) fn elements(set: Set, body: &[u8]) -> Vec<Element> {
    // Behind `struct nfgenmsg`.
    let listed = body.get(4..).and_then(|attributes| find(attributes, 3));
    let members = read(listed.unwrap_or_default()).map(|(_, member)| member);
    members.filter_map(|member| element(set, member)).collect()
}

fn element(set: Set, member: &[u8]) -> Option<Element> {
    let data = |kind| find(find(member, kind)?, 1);
    let key = data(1)?;
    let end = || {
        Some(Block {
            first: address(key)?,
            last: address(data(10)?)?,
        })
    };
    Some(match set {
        Set::Addresses => Element::Address {
            link: link(key)?,
            ip: address(key)?,
        },
        Set::Egress => Element::Egress { link: link(key)? },
        Set::Allow => Element::Allow {
            link: link(key)?,
            block: end()?,
        },
        Set::AllowPort => Element::AllowPort {
            link: link(key)?,
            block: end()?,
            protocol: protocol(key.get(20..24)?)?,
            port: port(key.get(24..)?)?,
        },
        Set::Protected => return None,
        Set::Ports => {
            let value = data(2)?;
            // A comment: type 0, length, text.
            let text = find_text(find(member, 6)?)?;
            Element::Port {
                link: LinkName::parse(text)?,
                protocol: protocol(key.get(..4)?)?,
                host_port: port(key.get(4..)?)?,
                ip: Ipv4Addr::from(*value.first_chunk::<4>()?),
                container_port: port(value.get(4..)?)?,
            }
        }
    })
}

fn link(key: &[u8]) -> Option<LinkName> {
    text(key.get(..NAME_LENGTH)?).and_then(LinkName::parse)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|b| *b == 0).next()?).ok()
}

fn find_text(comment: &[u8]) -> Option<&str> {
    match comment {
        [0, _, rest @ ..] => text(rest),
        _ => None,
    }
}

/// Behind the link's name.
fn address(key: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*key.get(NAME_LENGTH..)?.first_chunk::<4>()?))
}

fn protocol(bytes: &[u8]) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|p| number(*p) == bytes)
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk::<2>()?))
}
