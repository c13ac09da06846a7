//! What things cost, printed; bounded only so far as a growing cost would show.

use super::world::{World, port, publishing};
use crate::runtime::firewall::Rules;
use proto::id::Uid;
use proto::spec::Protocol::Tcp;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn ten_thousand_published_ports_do_not_slow_down_the_next() {
    const PORTS: u16 = 10_000;
    const SAMPLE: usize = 500;
    let world = World::new().await;
    let attached_first = attach_and_reach(&world, 20_001).await;
    let (first, last, withdrawn) = {
        let mut firewall = world.network().node.firewall();
        let mut times = Vec::new();
        for number in 0..PORTS {
            let rules = publishing(vec![port(10_000 + number, 80, Tcp)]);
            let [high, low] = number.to_be_bytes();
            let begin = Instant::now();
            let admitted = firewall.admit(uid(number), Ipv4Addr::new(10, 89, high, low), &rules);
            times.push(begin.elapsed());
            admitted.expect("admitted");
        }
        let begin = Instant::now();
        firewall.withdraw(uid(0)).expect("withdrawn");
        let withdrawn = begin.elapsed();
        let last = median(times.split_off(times.len() - SAMPLE));
        times.truncate(SAMPLE);
        (median(times), last, withdrawn)
    };
    let attached_last = attach_and_reach(&world, 20_002).await;
    eprintln!("attached and reached: beside none {attached_first:?}, beside 10,000 {attached_last:?}");
    eprintln!("transaction, median: the first {first:?}, the 10,000th {last:?}; withdrawing {withdrawn:?}");
    assert!(
        last < 10 * first.max(Duration::from_micros(20)),
        "{first:?} became {last:?}"
    );
    assert!(
        attached_last < 3 * attached_first.max(Duration::from_millis(2)),
        "{attached_first:?} became {attached_last:?}"
    );
}

/// Those of the sandboxes that are no more than elements.
fn uid(number: u16) -> Uid {
    Uid(1_000 + u64::from(number))
}

/// From nothing to a connection from outside, with a link of its own: the shortest of some, which a busy machine
/// changes least.
async fn attach_and_reach(world: &World, host_port: u16) -> Duration {
    let mut times = Vec::new();
    for _ in 0..15 {
        let sandbox = world.sandbox(2);
        let _server = sandbox.host.listen(Ipv4Addr::UNSPECIFIED, 80);
        let begin = Instant::now();
        let rules = publishing(vec![port(host_port, 80, Tcp)]);
        world.attach(&sandbox, &rules).await.expect("attached");
        world.outside.reaches(super::world::NODE, host_port);
        times.push(begin.elapsed());
        World::detached(world.network().detach(sandbox.uid).await);
    }
    times.into_iter().min().unwrap_or_default()
}

#[tokio::test]
async fn attach_and_detach_take_milliseconds() {
    let world = World::new().await;
    let (mut made, mut attached, mut detached, mut removed) = (vec![], vec![], vec![], vec![]);
    for _ in 0..100 {
        let begin = Instant::now();
        let sandbox = world.sandbox(2);
        made.push(begin.elapsed());
        let rules = Rules {
            egress: true,
            ..publishing(vec![port(10_000, 80, Tcp)])
        };
        let begin = Instant::now();
        world.attach(&sandbox, &rules).await.expect("attached");
        attached.push(begin.elapsed());
        let begin = Instant::now();
        World::detached(world.network().detach(sandbox.uid).await);
        detached.push(begin.elapsed());
        let begin = Instant::now();
        drop(sandbox);
        removed.push(begin.elapsed());
    }
    eprintln!(
        "median of 100: namespaces made {:?}, attached {:?}, detached {:?}, namespaces removed {:?}",
        median(made),
        median(attached),
        median(detached),
        median(removed)
    );
}

#[tokio::test]
async fn fifty_sandboxes_at_once_are_connected_and_disconnected() {
    let world = World::new().await;
    let sandboxes: Vec<_> = (2..52).map(|number| world.sandbox(number)).collect();
    let rules = Rules::default();
    let begin = Instant::now();
    let attaching = sandboxes.iter().map(|sandbox| world.attach(sandbox, &rules));
    for attached in futures::future::join_all(attaching).await {
        attached.expect("attached");
    }
    let attached = begin.elapsed();
    let begin = Instant::now();
    let detaching = sandboxes
        .iter()
        .map(|sandbox| world.network().detach(sandbox.uid));
    futures::future::join_all(detaching)
        .await
        .into_iter()
        .for_each(World::detached);
    eprintln!(
        "fifty at once: attached in {attached:?}, detached in {:?}",
        begin.elapsed()
    );
    assert!(world.network().attached().await.expect("listed").is_empty());
}
