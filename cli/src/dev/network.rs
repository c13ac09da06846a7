//! The cluster's network: a bridge on the machine, and from it one cable to each member.

use super::DevError;
use super::netns;
use super::plan::{BRIDGE_PREFIX, Member, Plan, Subnet};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The kernel raises a new port of a bridge some milliseconds after both of its ends, at worst a second.
const PORT_TIMEOUT: Duration = Duration::from_secs(5);
const PORT_PAUSE: Duration = Duration::from_millis(5);
/// `BR_STATE_FORWARDING` of linux/if_bridge.h
const FORWARDING: &str = "3";
/// A member's end of its cable.
const MEMBER_LINK: &str = "eth0";

/// Claims the plan's subnet by making its bridge: a name is taken at most once, so that two `dev up` at the
/// same time never get the same. Whether it was free.
pub(super) async fn claim(plan: &Plan) -> Result<bool, DevError> {
    let handle = connect()?;
    if addresses(&handle).await?.iter().any(|a| plan.subnet.contains(*a)) {
        return Ok(false);
    }
    let name = plan.bridge();
    let [a, b, c] = plan.subnet.0;
    // An address of its own, locally administered: a bridge without one takes that of its newest port.
    let bridge = LinkBridge::new(&name)
        .address(vec![0x02, 0x5b, a, b, c, 0x01])
        .build();
    match handle.link().add(bridge).execute().await {
        Ok(()) => {}
        Err(error) if errno(&error) == Some(libc::EEXIST) => return Ok(false),
        Err(source) => {
            let act = format!("make the bridge {name}");
            return Err(DevError::Link { act, source });
        }
    }
    let index = index_of(&handle, "number the bridge", &name).await?;
    handle
        .address()
        .add(index, IpAddr::V4(plan.subnet.host()), Subnet::PREFIX)
        .execute()
        .await
        .map_err(|source| DevError::Link {
            act: format!("give {name} the address {}", plan.subnet.host()),
            source,
        })?;
    Ok(true)
}

/// Makes the cable of a member whose namespace is pinned, with addresses and a default route.
pub(super) async fn connect_member(plan: &Plan, member: &Member) -> Result<(), DevError> {
    let handle = connect()?;
    let failed = |act: &str| {
        let act = format!("{act} for {}", member.name);
        move |source| DevError::Link { act, source }
    };
    let bridge = index_of(&handle, "plug in a member", &plan.bridge()).await?;
    let peer = format!("{}p", member.link);
    handle
        .link()
        .add(LinkVeth::new(&member.link, &peer).controller(bridge).up().build())
        .execute()
        .await
        .map_err(failed("make a veth pair"))?;
    let inside = File::open(member.netns()).map_err(DevError::io("open", member.netns()))?;
    let peer_index = index_of(&handle, "plug in a member", &peer).await?;
    let moved = LinkUnspec::new_with_index(peer_index)
        .name(MEMBER_LINK)
        .setns_by_fd(inside.as_raw_fd())
        .build();
    handle
        .link()
        .set(moved)
        .execute()
        .await
        .map_err(failed("move a veth"))?;
    let (address, gateway, name) = (member.address, plan.subnet.host(), member.name.clone());
    netns::within(&member.netns(), move || {
        // A netlink socket belongs to the namespace it is opened in, and needs a runtime on this thread.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(DevError::io("start a thread for", name.clone()))?;
        runtime.block_on(configure(address, gateway, &name))
    })?;
    await_port(&member.link).await
}

/// Until the bridge forwards what the member sends: before, its packets are lost.
async fn await_port(link: &str) -> Result<(), DevError> {
    let state = format!("/sys/class/net/{link}/brport/state");
    let deadline = tokio::time::Instant::now() + PORT_TIMEOUT;
    loop {
        let text = std::fs::read_to_string(&state).map_err(DevError::io("read", &state))?;
        if text.trim() == FORWARDING {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(DevError::io("await forwarding by", state)(
                std::io::ErrorKind::TimedOut.into(),
            ));
        }
        tokio::time::sleep(PORT_PAUSE).await;
    }
}

/// Inside the member's namespace.
async fn configure(address: Ipv4Addr, gateway: Ipv4Addr, name: &str) -> Result<(), DevError> {
    let handle = connect()?;
    let failed = |act: &str| {
        let act = format!("{act} in {name}");
        move |source| DevError::Link { act, source }
    };
    for link in ["lo", MEMBER_LINK] {
        let index = index_of(&handle, "configure a member", link).await?;
        if link == MEMBER_LINK {
            handle
                .address()
                .add(index, IpAddr::V4(address), Subnet::PREFIX)
                .execute()
                .await
                .map_err(failed("set the address"))?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        handle
            .link()
            .set(up)
            .execute()
            .await
            .map_err(failed("raise a link"))?;
    }
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .map_err(failed("set the default route"))
}

/// Removes the cables and the bridge; every failure.
pub(super) async fn remove(plan: &Plan) -> Vec<DevError> {
    let handle = match connect() {
        Ok(handle) => handle,
        Err(error) => return vec![error],
    };
    let mut failures = Vec::new();
    let links = plan.members().into_iter().map(|m| m.link);
    for name in links.chain([plan.bridge()]) {
        if let Err(error) = remove_link(&handle, &name).await {
            failures.push(error);
        }
    }
    failures
}

async fn remove_link(handle: &Handle, name: &str) -> Result<(), DevError> {
    let Some(index) = find(handle, name).await? else {
        return Ok(());
    };
    match handle.link().del(index).execute().await {
        Ok(()) => Ok(()),
        // Its other end was in a namespace that went meanwhile.
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
        Err(source) => Err(DevError::Link {
            act: format!("remove the link {name}"),
            source,
        }),
    }
}

/// Whether another local cluster has a bridge here.
pub(super) async fn others_are_up(own: &Plan) -> Result<bool, DevError> {
    let handle = connect()?;
    let links = list(&handle).await?;
    let own = own.bridge();
    Ok(links.iter().any(|link| {
        let name = name_of(link);
        is_bridge(link) && name.starts_with(BRIDGE_PREFIX) && name != own
    }))
}

fn connect() -> Result<Handle, DevError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(DevError::io("open", "netlink"))?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn list(handle: &Handle) -> Result<Vec<LinkMessage>, DevError> {
    handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| DevError::Link {
            act: "list links".to_owned(),
            source,
        })
}

fn name_of(link: &LinkMessage) -> &str {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
        .unwrap_or_default()
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}

async fn find(handle: &Handle, name: &str) -> Result<Option<u32>, DevError> {
    let found = handle
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await;
    match found {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
        Err(source) => Err(DevError::Link {
            act: format!("look for the link {name}"),
            source,
        }),
    }
}

async fn index_of(handle: &Handle, act: &'static str, name: &str) -> Result<u32, DevError> {
    find(handle, name).await?.ok_or_else(|| DevError::NoLink {
        act,
        name: name.to_owned(),
    })
}

async fn addresses(handle: &Handle) -> Result<Vec<Ipv4Addr>, DevError> {
    let messages: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|source| DevError::Link {
            act: "list addresses".to_owned(),
            source,
        })?;
    let of = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
        _ => None,
    };
    Ok(messages
        .iter()
        .flat_map(|m| &m.attributes)
        .filter_map(of)
        .collect())
}

/// The kernel's error number, positive.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        rtnetlink::Error::UnexpectedMessage(_)
        | rtnetlink::Error::RequestFailed
        | rtnetlink::Error::NamespaceError(_)
        | rtnetlink::Error::InvalidHardwareAddress(_)
        | rtnetlink::Error::InvalidIp(_)
        | rtnetlink::Error::InvalidAddress(_, _)
        | rtnetlink::Error::InvalidNla(_) => None,
    }
}
