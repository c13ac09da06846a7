//! A real agent on a real node: the program itself, in a network namespace of its own, led by a replica that the
//! test plays, running real containers. Needs root, runc's kernel features, busybox-static, iproute2 and nftables.
//!
//! | file | owns |
//! |---|---|
//! | `cycles` | a thousand sandboxes, and what they leave |
//! | `disk` | a disk that is full |
//! | `hanging` | a runtime that does not return |
//! | `killed` | an agent that is killed at each of its steps, and a monitor that is killed |
//! | `leader` | the control plane's side of the session |
//! | `machine` | the agent's process, its folders, and what of it can be seen in the kernel |
//! | `pulls` | sandboxes that wait for images from a real registry |
//! | `racing` | sandboxes that are removed while they are made |
//! | `reboot` | what outlives a restart of the agent, and of the machine |
//! | `user_ids` | who has which user ids, and what is said where there are none |
//! | `watched` | an agent's process whose system calls are counted |

mod cycles;
mod disk;
mod hanging;
mod killed;
mod leader;
mod machine;
mod pulls;
mod racing;
mod reboot;
mod user_ids;
mod watched;

use leader::{Leader, desired, ended};
use machine::Machine;
use proto::wire::{ContainerState, Phase, Reason, SandboxReport};
use std::time::Duration;

/// A lease that no test outlives.
const LONG_LEASE: Duration = Duration::from_secs(600);

/// Runs a test on a machine of its own.
fn on_machine<F: Future<Output = ()>>(lease: Duration, test: impl FnOnce(Leader, Machine) -> F + Send) {
    machine::isolated(|| async {
        let leader = Leader::start(lease).await;
        let machine = Machine::new(&leader.url).await;
        test(leader, machine).await;
    });
}

const SHARED: &str = "
volumes: [{name: data, ephemeral_storage: 8Mi}]
containers:
  - name: writer
    image: alpine:3.20
    args: [sh, -c, 'echo begun >> /data/file; echo writing; sleep 600']
    volume_mounts: [{name: data, mount_path: /data}]
    resource: {cpu: 100m, memory: 32Mi, ephemeral_storage: 16Mi}
  - name: reader
    image: alpine:3.20
    args: [sh, -c, 'while ! test -s /data/file; do sleep 0.05; done; cat /data/file; touch /data/x; sleep 600']
    volume_mounts: [{name: data, mount_path: /data, read_only: true}]
    resource: {cpu: 100m, memory: 32Mi, ephemeral_storage: 16Mi}
";

/// One container that runs `script`.
fn one(script: &str) -> String {
    format!(
        "containers: [{{name: main, image: alpine, args: [sh, -c, {script:?}], \
         resource: {{cpu: 100m, memory: 32Mi, ephemeral_storage: 16Mi}}}}]"
    )
}

fn states(report: &SandboxReport) -> Vec<(ContainerState, Option<i32>)> {
    report
        .containers
        .iter()
        .map(|c| (c.state(), c.exit_code))
        .collect()
}

#[test]
fn two_containers_share_a_volume_and_deletion_leaves_nothing() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let _agent = machine.start();
        let mut session = leader.session().await;
        assert_eq!(session.hello.inventory, []);
        let before = machine.traces().await;
        session.desire(&[desired(7, "shared", SHARED)]).await;
        let report = session.reported(7, Phase::Running).await;
        for stage in ["pull", "network", "files", "bundle", "start"] {
            assert!(report.timings_ms.contains_key(stage), "{report:?}");
        }
        assert_eq!(states(&report), [(ContainerState::Running, None); 2]);
        assert!(
            report
                .containers
                .iter()
                .all(|c| c.image_digest.starts_with("sha256:"))
        );
        let lines = session.logs("shared", true, 3).await;
        for line in ["writer: writing", "reader: begun"] {
            assert!(lines.iter().any(|l| l == line), "{lines:?}");
        }
        assert!(
            lines.iter().any(|l| l.contains("Read-only file system")),
            "{lines:?}"
        );
        assert_ne!(machine.traces().await, before);
        session.remove(7).await;
        session.reported(7, Phase::Deleting).await;
        assert_eq!(machine.traces().await, before);
    });
}

#[test]
fn killed_agent_finds_its_sandboxes_again() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        let ends = one("while ! test -e /tmp/end; do sleep 0.05; done; exit 3");
        session
            .desire(&[desired(1, "runs", SHARED), desired(2, "ends", &ends)])
            .await;
        let report = session.reported(1, Phase::Running).await;
        session.reported(2, Phase::Running).await;
        agent.kill();
        drop(session);
        // It goes on, and ends, with nobody there.
        machine.in_container(2, "main", "touch /tmp/end");
        machine.await_monitor_gone(2).await;
        let _agent = machine.start();
        let mut session = leader.session().await;
        let again = session.known(1);
        assert_eq!(again, report, "nothing of it has changed");
        session
            .desire(&[desired(1, "runs", SHARED), desired(2, "ends", &ends)])
            .await;
        let report = session.reported(2, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::ContainerExited);
        assert_eq!(states(&report), [(ContainerState::Exited, Some(3))]);
        let lines = session.logs("runs", false, 3).await;
        let begun = lines.iter().filter(|l| *l == "writer: writing").count();
        assert_eq!(begun, 1, "it was never started a second time: {lines:?}");
    });
}

#[test]
fn agent_killed_in_the_midst_of_making_sandboxes_makes_them_all_and_removes_what_is_not_wanted() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let mut agent = machine.start();
        let mut session = leader.session().await;
        let before = machine.traces().await;
        let all: Vec<_> = (1..=6)
            .map(|uid| desired(uid, &format!("s{uid}"), &one("sleep 600")))
            .collect();
        // Some milliseconds later each time: another step is cut off.
        for delay in [5, 10, 20, 40, 80] {
            session.desire(&all).await;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            agent.kill();
            drop(session);
            agent = machine.start();
            session = leader.session().await;
        }
        session.desire(&all[..3]).await;
        for uid in 1..=3 {
            session.reported(uid, Phase::Running).await;
        }
        session.desire(&[]).await;
        for uid in 1..=3 {
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&before).await;
    });
}

#[test]
fn sandbox_that_cannot_start_or_fails_says_why_and_leaves_only_its_record() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let _agent = machine.start();
        let mut session = leader.session().await;
        let empty = machine.traces().await;
        for (uid, spec, reason, part) in [
            (
                1,
                one("true").replace("alpine", "127.0.0.1:1/none"),
                Reason::ImagePullFailed,
                "127.0.0.1:1",
            ),
            (
                2,
                one("true").replace("sh, -c", "/missing, -c"),
                Reason::StartFailed,
                "missing",
            ),
            (3, one("echo alas; exit 4"), Reason::ContainerExited, "alas"),
            (4, probed("sleep 600"), Reason::ProbeFailed, "port 80"),
        ] {
            session.desire(&[desired(uid, &format!("s{uid}"), &spec)]).await;
            let report = session.reported(uid, Phase::Failed).await;
            assert_eq!(report.reason(), reason, "{report:?}");
            assert!(report.message.contains(part), "{report:?}");
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
            assert_eq!(machine.traces().await, empty, "of {uid}");
        }
    });
}

fn probed(script: &str) -> String {
    format!(
        "ports: [{{container_port: 80}}]\nreadiness_probe: {{protocol: tcp, port: 80, initial_delay_seconds: 0, \
         period_seconds: 1, timeout_seconds: 1, success_threshold: 1, failure_threshold: 1}}\n{}",
        one(script)
    )
}

#[test]
fn sandbox_ends_with_success_its_time_to_live_or_the_clusters_word() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[desired(1, "good", &one("true"))]).await;
        let report = session.reported(1, Phase::Succeeded).await;
        assert_eq!(states(&report), [(ContainerState::Exited, Some(0))]);

        let mut short = desired(2, "short", &one("sleep 600"));
        short.ttl_remaining_ms = 1_000;
        session.desire(&[short]).await;
        session.reported(2, Phase::Running).await;
        let report = session.reported(2, Phase::Failed).await;
        assert!(report.message.contains("time to live"), "{report:?}");

        session.desire(&[desired(3, "over", &one("sleep 600"))]).await;
        session.reported(3, Phase::Running).await;
        session
            .desire(&[ended(desired(3, "over", &one("sleep 600")))])
            .await;
        session.reported(3, Phase::Failed).await;
        session
            .desire(&[ended(desired(4, "never", &one("sleep 600")))])
            .await;
        let report = session.reported(4, Phase::Failed).await;
        assert_eq!(report.containers, [], "it was never begun");
    });
}

#[test]
fn sandboxes_are_ended_when_no_leader_is_heard_for_the_lease_also_without_an_agent() {
    on_machine(Duration::from_secs(4), |mut leader, machine| async move {
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[desired(1, "s1", &one("sleep 600"))]).await;
        session.reported(1, Phase::Running).await;
        leader.refuse(true);
        drop(session);
        machine.await_monitor_gone(1).await;
        leader.refuse(false);
        let mut session = leader.session().await;
        let report = session.reported(1, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::NodeLost, "{report:?}");

        session.desire(&[desired(2, "s2", &one("sleep 600"))]).await;
        session.reported(2, Phase::Running).await;
        drop(_agent);
        drop(session);
        machine.await_monitor_gone(2).await;
    });
}

/// The other one has the host port: the kernel refuses the whole transaction.
#[test]
fn rule_that_cannot_be_set_keeps_a_sandbox_from_starting() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let _agent = machine.start();
        let mut session = leader.session().await;
        let spec = format!(
            "ports: [{{container_port: 80}}]\n{}",
            one("echo begun; sleep 600")
        );
        let published = |uid, id| {
            let mut sandbox = desired(uid, id, &spec);
            sandbox.ports = vec![proto::wire::AssignedPort {
                host_port: 12_000,
                container_port: 80,
                protocol: proto::wire::Protocol::Tcp.into(),
            }];
            sandbox
        };
        session.desire(&[published(1, "first")]).await;
        session.reported(1, Phase::Running).await;
        let before = machine.traces().await;
        session
            .desire(&[published(1, "first"), published(2, "second")])
            .await;
        let failed = session.reported(2, Phase::Failed).await;
        assert_eq!(failed.reason(), Reason::AgentError, "{failed:?}");
        assert!(
            failed.message.contains("the firewall cannot add tcp . 12000"),
            "{failed:?}"
        );
        assert_eq!(failed.containers[0].started_at_ms, 0, "{failed:?}");
        let after = machine.traces().await;
        assert!(
            after.is_but_for_files(&before),
            "{after:#?} instead of {before:#?}"
        );
        assert_eq!(session.known(1).phase(), Phase::Running);
    });
}

#[test]
fn firewall_that_was_flushed_while_no_agent_was_there_is_whole_again() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        let spec = format!(
            "egress: true\nports: [{{container_port: 80}}]\n{}",
            one("sleep 600")
        );
        let mut sandbox = desired(1, "runs", &spec);
        sandbox.ports = vec![proto::wire::AssignedPort {
            host_port: 12_000,
            container_port: 80,
            protocol: proto::wire::Protocol::Tcp.into(),
        }];
        session.desire(&[sandbox]).await;
        session.reported(1, Phase::Running).await;
        let before = machine.traces().await;
        // Held by the agent, as long as it lives.
        machine.flush_firewall();
        assert_eq!(machine.traces().await, before);
        agent.kill();
        drop(session);
        machine.flush_firewall();
        assert_ne!(machine.traces().await, before);
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.reported(1, Phase::Running).await;
        machine.await_traces(&before).await;
    });
}
