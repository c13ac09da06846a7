//! Connection tracking: forgets what an ended sandbox had open. Otherwise the next one with its address would
//! receive what was meant for it, since packets of known connections pass.

use super::error::FirewallError;
use crate::runtime::netlink::attribute::{Writer, find, read};
use crate::runtime::netlink::{ACK, Conversation, Message, NetlinkError, Request};
use nix::errno::Errno;
use proto::id::Uid;
use std::net::Ipv4Addr;

/// `NFNL_SUBSYS_CTNETLINK`
const CONNTRACK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const IPV4: u8 = 2;
/// With 0 the kernel takes no notice of the family when it deletes many.
const VERSION: u8 = 1;
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
    for direction in [ORIGINAL, REPLY] {
        let flushed = match kernel.change(&[by_source(DELETE, ACK, direction, ip)]) {
            // Kernels before 6.11 delete single connections only, and don't take this for one.
            Err((_, error)) if error.errno() == Some(Errno::EINVAL) => one_by_one(kernel, direction, ip),
            flushed => flushed.map_err(|(_, error)| error),
        };
        match flushed {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(source) => return Err(FirewallError::Connections { uid, source }),
        }
    }
    Ok(())
}

/// Lists first. The kernel locks every bucket of its table for that, some 10 ms in all.
fn one_by_one(kernel: &mut Conversation, direction: u16, ip: Ipv4Addr) -> Result<(), NetlinkError> {
    let known = kernel.list(by_source(GET, 0, direction, ip))?;
    for request in known.iter().filter_map(|connection| delete(connection, ip)) {
        match kernel.change(&[request]) {
            Ok(()) => {}
            // Ended by itself meanwhile.
            Err((_, error)) if error.errno() == Some(Errno::ENOENT) => {}
            Err((_, error)) => return Err(error),
        }
    }
    Ok(())
}

/// Connections whose first packet, or whose answers, come from `ip`.
fn by_source(kind: u16, flags: u16, direction: u16, ip: Ipv4Addr) -> Request {
    request(kind, flags, |w| {
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
    let mut writer = Writer::behind(&[IPV4, VERSION, 0, 0]);
    write(&mut writer);
    Request {
        kind: CONNTRACK << 8 | kind,
        flags,
        body: writer.finish(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::firewall::message::Hold;
    use netlink_sys::protocols::NETLINK_NETFILTER;
    use nix::sched::{CloneFlags, unshare};
    use std::net::UdpSocket;

    /// In a network namespace of its own, with connections of 127.0.0.2 and 127.0.0.3 to 127.0.0.1.
    #[track_caller]
    fn check(forget: fn(&mut Conversation, Ipv4Addr) -> Result<(), NetlinkError>) {
        let (known, left) = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
            crate::runtime::network::raise_loopback().expect("lo is up");
            // Connections are tracked where a rule asks for it.
            let mut firewall = crate::runtime::firewall::table::Table::open().expect("opened");
            firewall
                .commit(&crate::runtime::firewall::message::table(Hold::Shared, []))
                .expect("set up");
            for source in ["127.0.0.2:5000", "127.0.0.3:5000"] {
                let socket = UdpSocket::bind(source).expect("bound");
                socket.send_to(b"x", "127.0.0.1:9").expect("sent");
            }
            let mut kernel = Conversation::open(NETLINK_NETFILTER, 0).expect("opened");
            let count = |kernel: &mut Conversation, last| {
                let ip = Ipv4Addr::new(127, 0, 0, last);
                kernel
                    .list(by_source(GET, 0, ORIGINAL, ip))
                    .expect("listed")
                    .len()
            };
            let known = [count(&mut kernel, 2), count(&mut kernel, 3)];
            forget(&mut kernel, Ipv4Addr::new(127, 0, 0, 2)).expect("forgotten");
            (known, [count(&mut kernel, 2), count(&mut kernel, 3)])
        })
        .join()
        .expect("checked");
        assert_eq!((known, left), ([1, 1], [0, 1]));
    }

    #[test]
    fn connections_of_one_address_are_forgotten_at_once() {
        check(|kernel, ip| {
            kernel
                .change(&[by_source(DELETE, ACK, ORIGINAL, ip)])
                .map_err(|(_, error)| error)
        });
    }

    #[test]
    fn connections_of_one_address_are_forgotten_one_by_one() {
        check(|kernel, ip| one_by_one(kernel, ORIGINAL, ip));
    }
}
