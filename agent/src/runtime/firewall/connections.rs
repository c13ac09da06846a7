//! Connection tracking: forgets what an ended sandbox had open. Otherwise the next one with its address would
//! receive what was meant for it, since packets of known connections pass.

use super::error::FirewallError;
use crate::runtime::netlink::attribute::{Writer, find, read};
use crate::runtime::netlink::{ACK, Conversation, Message, Request};
use nix::errno::Errno;
use proto::id::Uid;
use std::net::Ipv4Addr;

/// `NFNL_SUBSYS_CTNETLINK`
const CONNTRACK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const IPV4: u8 = 2;
/// `CTA_*` of linux/netfilter/nfnetlink_conntrack.h
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// The kernel's `CTA_FILTER_F_CTA_IP_SRC`: only the source address must be equal.
const BY_SOURCE: u32 = 1;

/// Forgets all connections from and to `ip`.
pub(super) fn forget(kernel: &mut Conversation, uid: Uid, ip: Ipv4Addr) -> Result<(), FirewallError> {
    let failed = |source| FirewallError::Connections { uid, source };
    for direction in [ORIGINAL, REPLY] {
        let known = kernel.list(from(direction, ip)).map_err(failed)?;
        let requests: Vec<Request> = known.iter().filter_map(|m| delete(m, ip)).collect();
        for request in requests {
            match kernel.change(&[request]) {
                Ok(()) => {}
                // Ended by itself meanwhile.
                Err((_, error)) if error.errno() == Some(Errno::ENOENT) => {}
                Err((_, source)) => return Err(failed(source)),
            }
        }
    }
    Ok(())
}

fn from(direction: u16, ip: Ipv4Addr) -> Request {
    request(GET, 0, |w| {
        w.nest(direction, |tuple| tuple.nest(1, |ips| ips.put(1, &ip.octets())));
        w.nest(FILTER, |filter| {
            // These numbers alone are in the machine's byte order.
            let flags = |of| if of == direction { BY_SOURCE } else { 0 };
            filter.put(1, &flags(ORIGINAL).to_ne_bytes());
            filter.put(2, &flags(REPLY).to_ne_bytes());
        });
    })
}

/// `None`: it is no connection of `ip`. A kernel that can't filter lists all.
fn delete(listed: &Message, ip: Ipv4Addr) -> Option<Request> {
    let attributes = listed.body.get(4..)?;
    let source = |direction| find(find(find(attributes, direction)?, 1)?, 1);
    let is_ours = [ORIGINAL, REPLY]
        .iter()
        .any(|d| source(*d) == Some(&ip.octets()[..]));
    is_ours.then(|| {
        request(DELETE, ACK, |w| {
            for (kind, value) in read(attributes).filter(|(kind, _)| [ORIGINAL, ID, ZONE].contains(kind)) {
                match kind {
                    ORIGINAL => w.put(kind | 0x8000, value),
                    _ => w.put(kind, value),
                }
            }
        })
    })
}

fn request(kind: u16, flags: u16, write: impl FnOnce(&mut Writer)) -> Request {
    let mut writer = Writer::behind(&[IPV4, 0, 0, 0]);
    write(&mut writer);
    Request {
        kind: CONNTRACK << 8 | kind,
        flags,
        body: writer.finish(),
    }
}
