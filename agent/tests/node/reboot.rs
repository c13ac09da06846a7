//! A machine that is started again: everything in the kernel is gone, everything on disk is there, and the boot has
//! another id. Played with a mount namespace for each boot, in which that id is another file.

use super::leader::desired;
use super::machine::{Machine, Running};
use super::{LONG_LEASE, on_machine, one, states};
use proto::wire::{ContainerState, Phase, Reason};
use std::time::Duration;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Runs its arguments with the first of them as the boot's id. What is mounted is seen by nobody else.
const IN_BOOT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

fn start_in_boot(machine: &Machine, id: &str) -> Running {
    let file = machine.folder().join(id);
    std::fs::write(&file, format!("{id}\n")).expect("written");
    let file = file.display().to_string();
    machine.start_behind(&[
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-c",
        IN_BOOT,
        &file,
    ])
}

#[test]
fn sandboxes_from_before_a_reboot_have_ended_and_nothing_of_them_is_left() {
    let real = std::fs::read_to_string(BOOT_ID).expect("read");
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = start_in_boot(&machine, "first");
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        let mut long = desired(1, "long", &one("sleep 600"));
        // Far beyond what the clock of the next boot will show.
        long.ttl_remaining_ms = 500_000_000;
        let short = desired(2, "short", &one("echo alas; exit 3"));
        session.desire(&[long.clone(), short.clone()]).await;
        session.reported(1, Phase::Running).await;
        session.reported(2, Phase::Failed).await;
        drop(session);
        agent.kill();
        machine.lose_power();

        let agent = start_in_boot(&machine, "second");
        let mut session = leader.session().await;
        let report = session.reported(1, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::NodeLost, "{report:?}");
        assert!(report.message.contains("restarted"), "{report:?}");
        let report = session.known(2);
        assert_eq!(report.reason(), Reason::ContainerExited, "{report:?}");
        assert_eq!(states(&report), [(ContainerState::Exited, Some(3))]);
        let lines = session.logs("short", false, 1).await;
        assert_eq!(lines, ["main: alas"], "logs outlive a reboot");
        // The leader has not heard yet, and wishes what it has wished: a sandbox is for one use.
        session
            .desire(&[long, short, desired(3, "new", &one("sleep 600"))])
            .await;
        session.reported(3, Phase::Running).await;
        assert_eq!(machine.processes_of(1), []);
        for uid in 1..=3 {
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&empty).await;
        drop(agent);
        assert_eq!(std::fs::read_to_string(BOOT_ID).expect("read"), real);
    });
}

/// How much later than it should a sandbox may end on a busy machine.
const LATE: Duration = Duration::from_secs(5);

#[test]
fn time_to_live_holds_over_a_restart_without_a_leader_and_is_not_cut_short() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        let mut sandbox = desired(1, "s1", &one("sleep 600"));
        sandbox.ttl_remaining_ms = 3_000;
        let begun = std::time::Instant::now();
        session.desire(&[sandbox]).await;
        session.reported(1, Phase::Running).await;
        leader.refuse(true);
        drop(session);
        agent.kill();
        let _agent = machine.start();
        machine.await_monitor_gone(1).await;
        let lived = begun.elapsed();
        assert!(lived >= Duration::from_secs(3), "{lived:?}");
        assert!(lived < Duration::from_secs(3) + LATE, "{lived:?}");
        leader.refuse(false);
        let mut session = leader.session().await;
        let report = session.reported(1, Phase::Failed).await;
        assert!(report.message.contains("time to live"), "{report:?}");
    });
}

#[test]
fn lease_holds_over_a_restart_without_a_leader_and_is_not_cut_short() {
    const LEASE: Duration = Duration::from_secs(4);
    on_machine(LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[desired(1, "s1", &one("sleep 600"))]).await;
        session.reported(1, Phase::Running).await;
        // It was heard until about now.
        let heard = std::time::Instant::now();
        leader.refuse(true);
        drop(session);
        agent.kill();
        let _agent = machine.start();
        machine.await_monitor_gone(1).await;
        let lived = heard.elapsed();
        let margin = agent::lease::margin(LEASE);
        // The last heartbeat may be one period old.
        assert!(lived >= LEASE - margin - Duration::from_millis(500), "{lived:?}");
        assert!(lived < LEASE + LATE, "{lived:?}");
        leader.refuse(false);
        let mut session = leader.session().await;
        let report = session.reported(1, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::NodeLost, "{report:?}");
    });
}
