use super::*;

const BOOT: &str = "boot-1";

fn sandbox(uid: u64, ttl_remaining_ms: u64) -> wire::DesiredSandbox {
    wire::DesiredSandbox {
        sandbox_id: format!("s{uid}"),
        uid,
        ttl_remaining_ms,
        ..Default::default()
    }
}

fn desired(term: u64, index: u64, full: bool, uids: &[u64], removed: &[u64]) -> wire::Desired {
    wire::Desired {
        version: Some(wire::Version { term, index }),
        full,
        sandboxes: uids.iter().map(|uid| sandbox(*uid, 0)).collect(),
        removed_uids: removed.to_vec(),
    }
}

fn open(dir: &Path) -> Ledger {
    Ledger::open(dir, BOOT).expect("opened")
}

fn uids(ledger: &Ledger) -> Option<Vec<u64>> {
    let accepted = ledger.follow().borrow().clone();
    accepted.map(|accepted| accepted.sandboxes.keys().map(|uid| uid.0).collect())
}

/// `second` is offered after `first`: what then shall run, or why it is refused. The same holds once the
/// ledger was opened again.
#[track_caller]
fn check(first: wire::Desired, second: wire::Desired, expected: Result<&[u64], &str>) {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    ledger
        .accept(vec![(first.clone(), BootTime(0))])
        .expect("the first is accepted");
    let outcome = ledger.accept(vec![(second.clone(), BootTime(0))]);
    let after = match (outcome, expected) {
        (Ok(()), Ok(uids)) => uids.to_vec(),
        (Err(error), Err(part)) => {
            assert!(error.to_string().contains(part), "{error}");
            first.sandboxes.iter().map(|s| s.uid).collect()
        }
        (outcome, expected) => panic!("{outcome:?}, expected {expected:?}"),
    };
    assert_eq!(uids(&ledger), Some(after.clone()));
    let again = open(folder.path());
    assert_eq!(uids(&again), Some(after));
    assert_eq!(again.version(), ledger.version());
}

#[test]
fn newer_states_replace_or_change_what_was_accepted() {
    let first = || desired(2, 10, true, &[1, 2], &[]);
    check(first(), desired(2, 11, true, &[2, 3], &[]), Ok(&[2, 3]));
    check(first(), desired(2, 11, false, &[3], &[1]), Ok(&[2, 3]));
    check(first(), desired(3, 11, true, &[], &[]), Ok(&[]));
    // The same moment, told again after a reconnection.
    check(first(), desired(2, 10, true, &[1, 2], &[]), Ok(&[1, 2]));
    // A new term whose first state was read at an index that an old one had reached.
    check(first(), desired(3, 9, true, &[4], &[]), Ok(&[4]));
}

#[test]
fn older_states_are_refused_and_change_nothing() {
    let first = || desired(2, 10, true, &[1], &[]);
    check(
        first(),
        desired(2, 9, true, &[2], &[]),
        Err("older than that of term 2, index 10"),
    );
    check(first(), desired(1, 99, true, &[2], &[]), Err("term 1, index 99"));
    check(first(), desired(1, 99, false, &[2], &[1]), Err("leads no more"));
    let unversioned = wire::Desired {
        version: None,
        ..desired(0, 0, true, &[], &[])
    };
    check(first(), unversioned, Err("no version"));
}

#[test]
fn change_without_a_whole_state_before_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    assert_eq!(uids(&ledger), None);
    let error = ledger
        .accept(vec![(desired(1, 1, false, &[1], &[]), BootTime(0))])
        .expect_err("refused");
    assert!(error.to_string().contains("must be whole"), "{error}");
}

#[test]
fn damaged_file_is_put_aside_and_nothing_is_wanted_or_unwanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    open(folder.path())
        .accept(vec![(desired(1, 1, true, &[1], &[]), BootTime(0))])
        .expect("accepted");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&path, bytes).expect("written");
    assert_eq!(uids(&open(folder.path())), None);
    assert!(folder.path().join("ledger.damaged").exists());
}

#[test]
fn death_while_writing_leaves_what_was_accepted_before() {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path())
        .accept(vec![(desired(1, 1, true, &[1], &[]), BootTime(0))])
        .expect("accepted");
    // Half of a file that was never put in place.
    std::fs::write(folder.path().join("ledger.new"), b"SBXLhalf").expect("written");
    let ledger = open(folder.path());
    assert_eq!(uids(&ledger), Some(vec![1]));
    ledger
        .accept(vec![(desired(1, 2, true, &[2], &[]), BootTime(0))])
        .expect("accepted");
    assert_eq!(uids(&open(folder.path())), Some(vec![2]));
}

#[test]
fn lifetimes_are_counted_from_arrival_and_end_with_the_boot() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    let mut state = desired(1, 1, true, &[], &[]);
    state.sandboxes = vec![sandbox(1, 500), sandbox(2, 0)];
    ledger.accept(vec![(state, BootTime(1_000))]).expect("accepted");
    let expires = |ledger: &Ledger| {
        let accepted = ledger.follow().borrow().clone().expect("accepted");
        [1, 2].map(|uid| accepted.sandboxes[&Uid(uid)].expires)
    };
    assert_eq!(expires(&ledger), [Some(BootTime(1_500)), None]);
    assert_eq!(expires(&open(folder.path())), [Some(BootTime(1_500)), None]);
    let rebooted = Ledger::open(folder.path(), "boot-2").expect("opened");
    assert_eq!(expires(&rebooted), [None, None]);
}

#[test]
fn removals_of_what_was_wanted_are_handed_on_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    ledger
        .accept(vec![(desired(1, 1, true, &[1], &[]), BootTime(0))])
        .expect("accepted");
    ledger
        .accept(vec![(desired(1, 2, false, &[], &[1, 7]), BootTime(0))])
        .expect("accepted");
    // What this node was never asked for has no name here, and nobody waits for it.
    assert_eq!(ledger.take_removed(), BTreeMap::from([(Uid(1), "s1".to_owned())]));
    assert_eq!(ledger.take_removed(), BTreeMap::new());
}

#[test]
fn ledger_cut_off_or_altered_at_any_byte_is_the_whole_one_or_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    open(folder.path())
        .accept(vec![(desired(3, 7, true, &[1, 2], &[]), BootTime(0))])
        .expect("accepted");
    let whole = std::fs::read(&path).expect("read");
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    let altered = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    for bytes in cut.chain(altered) {
        std::fs::write(&path, &bytes).expect("written");
        let ledger = open(folder.path());
        assert_eq!(uids(&ledger), None, "{bytes:?}");
        // A leader's word makes it whole again.
        ledger
            .accept(vec![(desired(3, 8, true, &[2], &[]), BootTime(0))])
            .expect("accepted");
        assert_eq!(uids(&open(folder.path())), Some(vec![2]));
    }
    std::fs::write(&path, &whole).expect("written");
    assert_eq!(uids(&open(folder.path())), Some(vec![1, 2]));
}

#[test]
fn next_ledger_cut_off_at_any_byte_leaves_the_one_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    ledger
        .accept(vec![(desired(1, 2, true, &[1, 2, 3], &[]), BootTime(0))])
        .expect("accepted");
    let next = std::fs::read(folder.path().join(FILE)).expect("read");
    drop(ledger);
    let ledger = open(folder.path());
    ledger
        .accept(vec![(desired(1, 3, true, &[1], &[]), BootTime(0))])
        .expect("accepted");
    for length in 0..=next.len() {
        std::fs::write(folder.path().join("ledger.new"), &next[..length]).expect("written");
        assert_eq!(uids(&open(folder.path())), Some(vec![1]));
    }
}

#[test]
fn states_that_arrived_together_are_taken_in_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    let states = [
        desired(1, 1, true, &[1, 2], &[]),
        desired(1, 2, false, &[3], &[1]),
        desired(1, 3, false, &[], &[3]),
    ];
    let states = states.into_iter().map(|state| (state, BootTime(0))).collect();
    ledger.accept(states).expect("accepted");
    assert_eq!(uids(&open(folder.path())), Some(vec![2]));
    let removed = BTreeMap::from([(Uid(1), "s1".to_owned()), (Uid(3), "s3".to_owned())]);
    assert_eq!(
        ledger.take_removed(),
        removed,
        "also what came and went meanwhile"
    );
    // One that is refused keeps those behind it out, and not those before it.
    let states = [(1, 4), (1, 2), (1, 5)].map(|(term, index)| desired(term, index, false, &[index], &[]));
    let states = states.into_iter().map(|state| (state, BootTime(0))).collect();
    ledger.accept(states).expect_err("the second is older");
    assert_eq!(uids(&ledger), Some(vec![2, 4]));
    assert_eq!(uids(&open(folder.path())), Some(vec![2, 4]));
}
