//! User namespaces on a node: who has which ids, and what an agent says where there are none.

use super::leader::{Session, desired};
use super::machine::Machine;
use super::{LONG_LEASE, on_machine, one};
use proto::wire::{DesiredSandbox, Phase};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// How many each has.
const IDS: u64 = 65_536;
/// What `/proc/<pid>/uid_map` says outside of any user namespace.
const HOST: [u64; 3] = [0, 0, 4_294_967_295];

fn sandbox(uid: u64) -> DesiredSandbox {
    let spec = format!("runtime: runc\n{}", one("sleep 600"));
    desired(uid, &format!("s{uid}"), &spec)
}

/// Of the sandbox's only container.
fn map(machine: &Machine, uid: u64) -> [u64; 3] {
    let process = machine.processes(uid).into_iter().next().expect("it runs");
    let text = fs::read_to_string(format!("/proc/{}/uid_map", process.pid())).expect("it runs");
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    numbers.try_into().expect("one line")
}

async fn running(session: &mut Session, uids: std::ops::RangeInclusive<u64>) {
    let all: Vec<_> = uids.clone().map(sandbox).collect();
    session.desire(&all).await;
    for uid in uids {
        session.reported(uid, Phase::Running).await;
    }
}

fn says_it_has_them(session: &Session) -> Option<bool> {
    session.hello.node.as_ref().expect("a report").user_namespaces
}

#[test]
fn sandboxes_have_ids_of_their_own_which_a_restarted_agent_knows() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start();
        let mut session = leader.session().await;
        assert_eq!(says_it_has_them(&session), Some(true));
        let before = machine.traces().await;
        running(&mut session, 1..=2).await;
        let first = [map(&machine, 1), map(&machine, 2)];
        agent.kill();
        drop(session);
        // One that begins with the first range again, and would give it out twice.
        let _agent = machine.start();
        let mut session = leader.session().await;
        running(&mut session, 1..=3).await;
        assert_eq!([map(&machine, 1), map(&machine, 2)], first);
        let mut all = [first[0], first[1], map(&machine, 3)];
        all.sort_unstable();
        for [inside, outside, count] in all {
            assert_eq!((inside, count), (0, IDS));
            assert!(outside >= 1 << 28, "{outside}");
        }
        assert!(
            all.windows(2).all(|pair| pair[1][1] - pair[0][1] >= IDS),
            "{all:?}"
        );
        session.desire(&[]).await;
        machine.await_traces(&before).await;
    });
}

#[test]
fn sandbox_of_before_there_were_user_namespaces_goes_on_without() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let agent = machine.start_with(|agent| {
            agent.args(["--user-namespaces", "off"]);
        });
        let mut session = leader.session().await;
        assert_eq!(says_it_has_them(&session), Some(false));
        machine.says("user_namespaces is `off`").await;
        running(&mut session, 1..=1).await;
        assert_eq!(map(&machine, 1), HOST);
        let before = machine.processes(1);
        agent.kill();
        drop(session);
        let _agent = machine.start();
        let mut session = leader.session().await;
        running(&mut session, 1..=2).await;
        assert_eq!(machine.processes(1), before);
        assert_eq!(map(&machine, 1), HOST);
        assert_ne!(map(&machine, 2), HOST);
        session.desire(&[]).await;
        for uid in 1..=2 {
            session.reported(uid, Phase::Deleting).await;
        }
    });
}

#[test]
fn agent_where_there_can_be_none_says_why_and_starts_unless_they_are_required() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(machine.folder(), private).expect("set");
        let refused = machine.start_with(|agent| {
            agent.args(["--user-namespaces", "required"]);
        });
        machine.says("user_namespaces is `required`").await;
        machine.says("must be passable for everyone (chmod o+x)").await;
        drop(refused);
        let _agent = machine.start();
        let mut session = leader.session().await;
        assert_eq!(says_it_has_them(&session), Some(false));
        machine.says("root in a container is root of this node").await;
        running(&mut session, 1..=1).await;
        assert_eq!(map(&machine, 1), HOST);
        session.remove(1).await;
        session.reported(1, Phase::Deleting).await;
    });
}

#[test]
fn node_with_too_few_ids_says_so() {
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let _agent = machine.start_with(|agent| {
            agent.args(["--user-ids", "700000000:65536"]);
        });
        let mut session = leader.session().await;
        running(&mut session, 1..=1).await;
        assert_eq!(map(&machine, 1), [0, 700_000_000, IDS]);
        session.add(sandbox(2)).await;
        let report = session.reported(2, Phase::Failed).await;
        assert!(report.message.contains("all 1 ranges of user ids"), "{report:?}");
        session.remove(1).await;
        session.reported(1, Phase::Deleting).await;
        session.add(sandbox(3)).await;
        session.reported(3, Phase::Running).await;
        session.remove(3).await;
        session.reported(3, Phase::Deleting).await;
    });
}
