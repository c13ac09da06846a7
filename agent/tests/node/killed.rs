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

    /// The call that the agent has died at, unless it says `phase` first.
    async fn died_before(&mut self, uid: u64, phase: Phase) -> Option<String> {
        match self.session.reported_unless_it_leaves(uid, phase).await {
            Some(_) => None,
            None => Some(self.agent.died().await),
        }
    }

    async fn start_again(&mut self) {
        self.agent = self.machine.start_watched().await;
        self.session = self.leader.session().await;
    }

    async fn remove(&mut self, uid: u64) {
        self.session.remove(uid).await;
        self.session.reported(uid, Phase::Deleting).await;
        self.machine.await_traces(&self.empty).await;
    }
}

#[test]
fn agent_killed_at_any_step_of_making_a_sandbox_makes_it_once() {
    on_machine(LONG_LEASE, |leader, machine| async move {
        let mut victim = Victim::new(leader, machine).await;
        let mut steps = Vec::new();
        for uid in 1.. {
            victim.agent.die_at(uid);
            victim.wish_for(uid).await;
            let Some(step) = victim.died_before(uid, Phase::Running).await else {
                break;
            };
            let ran = victim.machine.settled(uid).await;
            victim.start_again().await;
            victim.wish_for(uid).await;
            victim.session.reported(uid, Phase::Running).await;
            let runs = victim.machine.processes(uid);
            assert_eq!(runs.len(), 1, "killed before {step}: {runs:?}");
            if let Some(ran) = ran {
                assert_eq!(runs, BTreeSet::from([ran]), "killed before {step}: it runs anew");
            }
            victim.remove(uid).await;
            steps.push(step);
        }
        check_steps(
            &steps,
            &["move_mount", "mount", "mkdir", "rename", "sendto", "unshare"],
        );
    });
}

#[test]
fn agent_killed_at_any_step_of_removing_a_sandbox_removes_all_of_it() {
    on_machine(LONG_LEASE, |leader, machine| async move {
        let mut victim = Victim::new(leader, machine).await;
        let mut steps = Vec::new();
        for uid in 1.. {
            victim.wish_for(uid).await;
            victim.session.reported(uid, Phase::Running).await;
            victim.agent.die_at(uid);
            victim.session.remove(uid).await;
            let Some(step) = victim.died_before(uid, Phase::Deleting).await else {
                break;
            };
            victim.start_again().await;
            victim.session.desire(&[]).await;
            victim.machine.await_traces(&victim.empty).await;
            steps.push(step);
        }
        check_steps(&steps, &["umount2", "unlink", "rmdir", "rename", "sendto"]);
    });
}

/// Each of the kinds of calls that make the work was among those that the agent died at.
#[track_caller]
fn check_steps(steps: &[String], kinds: &[&str]) {
    eprintln!("the agent was killed at {} steps: {steps:#?}", steps.len());
    for kind in kinds {
        assert!(
            steps.iter().any(|step| step.starts_with(kind)),
            "{kind}: {steps:#?}"
        );
    }
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
