//! The agent is killed at each of its steps: right before every system call that changes something. The next one
//! makes what is wished, and nothing is left of what is not.

use super::leader::{Leader, Session, desired};
use super::machine::{Machine, Traces};
use super::watched::Watched;
use super::{LONG_LEASE, on_machine, one, states};
use proto::wire::{ContainerState, Phase, Reason, SandboxReport};
use std::collections::BTreeSet;

const SPEC: &str = "sleep 600";

/// A node whose agent dies and is started again.
struct Victim {
    leader: Leader,
    machine: Machine,
    agent: Watched,
    session: Session,
    empty: Traces,
}

impl Victim {
    async fn new(mut leader: Leader, machine: Machine) -> Self {
        let agent = machine.start_watched().await;
        let session = leader.session().await;
        let empty = machine.traces().await;
        Self {
            leader,
            machine,
            agent,
            session,
            empty,
        }
    }

    async fn wish_for(&self, uid: u64) {
        self.session
            .desire(&[desired(uid, &format!("s{uid}"), &one(SPEC))])
            .await;
    }

    /// Whether the agent has died before it has said `phase`.
    async fn died_before(&mut self, uid: u64, phase: Phase) -> bool {
        self.session.reported_unless_it_leaves(uid, phase).await.is_none()
    }

    /// Also where it has not died yet.
    async fn start_again(&mut self) {
        self.agent.kill();
        self.agent = self.machine.start_watched().await;
        self.session = self.leader.session().await;
    }

    async fn remove(&mut self, uid: u64) {
        self.session.remove(uid).await;
        self.session.reported(uid, Phase::Deleting).await;
        self.machine.await_traces(&self.empty).await;
    }
}

/// The agent dies at each of the calls of each kind, one after the other, with a sandbox each; `at` has that done,
/// and tells whether it has died. There is no more of a kind once it has not.
async fn at_each_step(
    leader: Leader,
    machine: Machine,
    kinds: &[&'static str],
    at: impl AsyncFn(&mut Victim, u64, &'static str, u64) -> bool,
) {
    let mut victim = Victim::new(leader, machine).await;
    let mut uid = 0;
    for kind in kinds {
        for number in 1.. {
            uid += 1;
            if !at(&mut victim, uid, kind, number).await {
                assert!(number > 1, "there is no {kind} that it dies at");
                eprintln!("{kind}: the agent was killed at {} steps", number - 1);
                break;
            }
        }
    }
}

#[test]
fn agent_killed_at_any_step_of_making_a_sandbox_makes_it_once() {
    const KINDS: [&str; 10] = [
        "mkdir",
        "mount",
        "move_mount",
        "open",
        "rename",
        "write",
        "bind",
        "setns",
        "send",
        "clone",
    ];
    on_machine(LONG_LEASE, |leader, machine| {
        at_each_step(leader, machine, &KINDS, async |victim, uid, kind, number| {
            victim.agent.die_at(kind, number);
            victim.wish_for(uid).await;
            let died = victim.died_before(uid, Phase::Running).await;
            let ran = victim.machine.settled(uid).await;
            victim.start_again().await;
            victim.wish_for(uid).await;
            victim.session.reported(uid, Phase::Running).await;
            let runs = victim.machine.processes(uid);
            assert_eq!(runs.len(), 1, "killed before {kind} {number}: {runs:?}");
            if let Some(ran) = ran {
                assert_eq!(
                    runs,
                    BTreeSet::from([ran]),
                    "killed before {kind} {number}: it runs anew"
                );
            }
            victim.remove(uid).await;
            died
        })
    });
}

#[test]
fn agent_killed_at_any_step_of_removing_a_sandbox_removes_all_of_it() {
    const KINDS: [&str; 6] = ["rename", "umount", "unlink", "rmdir", "send", "write"];
    on_machine(LONG_LEASE, |leader, machine| {
        at_each_step(leader, machine, &KINDS, async |victim, uid, kind, number| {
            victim.wish_for(uid).await;
            victim.session.reported(uid, Phase::Running).await;
            victim.agent.die_at(kind, number);
            victim.session.remove(uid).await;
            let died = victim.died_before(uid, Phase::Deleting).await;
            victim.start_again().await;
            victim.session.desire(&[]).await;
            victim.machine.await_traces(&victim.empty).await;
            died
        })
    });
}

#[test]
fn agent_killed_at_any_step_of_ending_a_sandbox_knows_how_it_has_ended() {
    const KINDS: [&str; 6] = ["rename", "umount", "unlink", "rmdir", "send", "open"];
    let ends = one("while ! test -e /tmp/end; do sleep 0.02; done; echo alas; exit 3");
    on_machine(LONG_LEASE, |leader, machine| {
        at_each_step(leader, machine, &KINDS, async |victim, uid, kind, number| {
            let wish = [desired(uid, &format!("s{uid}"), &ends)];
            victim.session.desire(&wish).await;
            victim.session.reported(uid, Phase::Running).await;
            victim.agent.die_at(kind, number);
            victim.machine.in_container(uid, "main", "touch /tmp/end");
            let died = victim.died_before(uid, Phase::Failed).await;
            victim.start_again().await;
            victim.session.desire(&wish).await;
            let report = victim.session.reported(uid, Phase::Failed).await;
            assert_eq!(
                report.reason(),
                Reason::ContainerExited,
                "{kind} {number}: {report:?}"
            );
            assert_eq!(states(&report), [(ContainerState::Exited, Some(3))]);
            assert!(report.message.contains("alas"), "{kind} {number}: {report:?}");
            victim.remove(uid).await;
            died
        })
    });
}

#[test]
fn killed_monitor_ends_its_sandbox_and_all_that_it_watched() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        for uid in [1, 2] {
            session.add(desired(uid, &format!("s{uid}"), &one(SPEC))).await;
            session.reported(uid, Phase::Running).await;
        }
        machine.kill_monitor(1);
        check_lost(&machine, &session.reported(1, Phase::Failed).await);
        // With nobody there to see it.
        drop(session);
        agent.kill();
        machine.kill_monitor(2);
        let _agent = machine.start();
        let mut session = leader.session().await;
        check_lost(&machine, &session.reported(2, Phase::Failed).await);
        for uid in [1, 2] {
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&empty).await;
    });
}

#[track_caller]
fn check_lost(machine: &Machine, report: &SandboxReport) {
    assert_eq!(report.reason(), Reason::AgentError, "{report:?}");
    assert!(report.message.contains("monitor"), "{report:?}");
    assert_eq!(states(report), [(ContainerState::Exited, Some(137))]);
    assert_eq!(machine.processes_of(report.uid), []);
}

#[test]
fn sandbox_whose_record_is_damaged_has_failed_and_is_not_run_again() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        session.desire(&[desired(1, "s1", &one(SPEC))]).await;
        session.reported(1, Phase::Running).await;
        drop(session);
        agent.kill();
        std::fs::write(machine.state().join("sandboxes/1/record"), b"torn").expect("written");
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[desired(1, "s1", &one(SPEC))]).await;
        let report = session.reported(1, Phase::Failed).await;
        assert_eq!(report.reason(), Reason::AgentError, "{report:?}");
        assert!(report.message.contains("is damaged"), "{report:?}");
        assert_eq!(machine.processes_of(1), []);
        session.remove(1).await;
        session.reported(1, Phase::Deleting).await;
        machine.await_traces(&empty).await;
    });
}

#[test]
fn agent_with_a_damaged_ledger_waits_for_a_leader_and_ends_nothing() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        session
            .desire(&[desired(1, "s1", &one(SPEC)), desired(2, "s2", &one(SPEC))])
            .await;
        for uid in [1, 2] {
            session.reported(uid, Phase::Running).await;
        }
        let runs = machine.processes(1);
        leader.refuse(true);
        drop(session);
        agent.kill();
        let ledger = machine.state().join("ledger");
        let whole = std::fs::read(&ledger).expect("read");
        std::fs::write(&ledger, &whole[..whole.len() / 2]).expect("written");
        let _agent = machine.start();
        machine
            .says("waiting for a leader to say what shall run here")
            .await;
        leader.refuse(false);
        let mut session = leader.session().await;
        for uid in [1, 2] {
            assert_eq!(
                session.known(uid).phase(),
                Phase::Running,
                "without a word of a leader"
            );
        }
        session.desire(&[desired(1, "s1", &one(SPEC))]).await;
        session.reported(2, Phase::Deleting).await;
        assert_eq!(machine.processes(1), runs);
    });
}
