//! What a node has is the same after a thousand sandboxes as before.

use super::leader::{Session, desired};
use super::{LONG_LEASE, on_machine};
use proto::wire::{self, Phase};
use std::collections::BTreeMap;

const CYCLES: u64 = 1_000;
/// Another number of cycles, for who has less time or more.
const CYCLES_VARIABLE: &str = "SBX_TEST_CYCLES";
/// Until the agent has all its threads and buffers.
const FIRST: u64 = 50;
const AT_ONCE: usize = 16;
/// What an agent's memory may differ by: the reports of sandboxes that are gone, of which some are kept, and what
/// allocators hold back.
const MEMORY_SLACK_KIB: u64 = 8 << 10;

#[test]
fn thousand_sandboxes_made_and_removed_leave_nothing() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        cycle(&mut session, 1..=FIRST).await;
        machine.await_traces(&empty).await;
        let before = agent.footprint().await;
        let asked = std::env::var(CYCLES_VARIABLE).ok();
        let cycles = asked.map_or(CYCLES, |asked| asked.parse().expect("a number"));
        let begun = std::time::Instant::now();
        cycle(&mut session, FIRST + 1..=FIRST + cycles).await;
        eprintln!("{cycles} cycles took {:?}", begun.elapsed());
        machine.await_traces(&empty).await;
        let after = agent.footprint().await;
        eprintln!("{before:?}, then {after:?}");
        assert_eq!(after.descriptors, before.descriptors, "{after:#?}");
        assert!(
            after.memory_kib <= before.memory_kib + MEMORY_SLACK_KIB,
            "{before:?}, then {after:?}"
        );
    });
}

/// Makes each of the sandboxes and removes it as soon as it runs.
async fn cycle(session: &mut Session, uids: impl IntoIterator<Item = u64>) {
    let mut uids = uids.into_iter();
    let mut present = BTreeMap::new();
    for uid in uids.by_ref().take(AT_ONCE) {
        session.add(sandbox(uid)).await;
        present.insert(uid, Phase::Scheduled);
    }
    while !present.is_empty() {
        let report = session.next_report().await;
        let Some(phase) = present.get_mut(&report.uid) else {
            continue;
        };
        match report.phase() {
            Phase::Running if *phase == Phase::Scheduled => {
                *phase = Phase::Deleting;
                session.remove(report.uid).await;
            }
            Phase::Deleting => {
                present.remove(&report.uid);
                if let Some(uid) = uids.next() {
                    session.add(sandbox(uid)).await;
                    present.insert(uid, Phase::Scheduled);
                }
            }
            Phase::Succeeded | Phase::Failed => panic!("{report:?}"),
            Phase::Unspecified | Phase::Pending | Phase::Scheduled | Phase::Running => {}
        }
    }
}

/// With a volume, a published port on tcp and udp, and a way out: something of each kind that a sandbox has.
fn sandbox(uid: u64) -> wire::DesiredSandbox {
    let spec = "
volumes: [{name: data, ephemeral_storage: 1Mi}]
ports: [{container_port: 80}, {container_port: 80, protocol: udp}]
egress_allow: [192.0.2.0/24:443/tcp]
containers:
  - name: main
    image: alpine
    args: [sleep, '600']
    volume_mounts: [{name: data, mount_path: /data}]
    resource: {cpu: 10m, memory: 16Mi, ephemeral_storage: 8Mi}
";
    let mut sandbox = desired(uid, &format!("s{uid}"), spec);
    let host_port = 10_000 + u32::try_from(uid).expect("small");
    for protocol in [wire::Protocol::Tcp, wire::Protocol::Udp] {
        sandbox.ports.push(wire::AssignedPort {
            host_port,
            container_port: 80,
            protocol: protocol.into(),
        });
    }
    sandbox
}
