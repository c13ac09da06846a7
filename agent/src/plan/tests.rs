use super::*;
use Ending::{Expired, GivenUp, LeaseOver, Restarted};
use Stage::{Absent, Addressed, Ended, Partial, Prepared, Provided, Ready, Started};
use Wish::{End, Keep, Remove, Run};

const STAGES: [Stage; 8] = [
    Absent, Partial, Addressed, Provided, Prepared, Started, Ready, Ended,
];

fn name(step: &Step) -> &'static str {
    match step {
        Step::Address => "address",
        Step::Provide => "provide",
        Step::Prepare => "prepare",
        Step::Start => "start",
        Step::AwaitReady => "ready",
        Step::Stop => "stop",
        Step::Kill => "kill",
        Step::Release => "release",
        Step::Conclude(_) => "conclude",
        Step::Remove => "remove",
    }
}

#[track_caller]
fn check(wish: Wish, stage: Stage, outcome: Option<&Outcome>, expected: &str) -> Vec<Step> {
    let observed = Observed {
        stage,
        outcome: outcome.cloned(),
    };
    let steps = plan(wish, &observed);
    let names: Vec<_> = steps.iter().map(name).collect();
    assert_eq!(
        names.join(" "),
        expected,
        "{wish:?} at {stage:?} with {outcome:?}"
    );
    steps
}

#[test]
fn wished_sandbox_is_made_from_wherever_it_is() {
    check(Run, Absent, None, "address provide prepare start ready");
    check(
        Run,
        Partial,
        None,
        "kill release address provide prepare start ready",
    );
    check(Run, Addressed, None, "provide prepare start ready");
    check(Run, Provided, None, "prepare start ready");
    check(Run, Prepared, None, "start ready");
    check(Run, Started, None, "ready");
    check(Run, Ready, None, "");
    check(Run, Ended, None, "");
}

#[test]
fn sandbox_that_ended_or_failed_is_released_and_concluded_whatever_is_wished() {
    let outcome = Outcome::failed(Reason::StartFailed, "x");
    for wish in [Run, Keep, End(Expired), End(LeaseOver)] {
        for (stage, expected) in [
            (Absent, "conclude"),
            (Partial, "kill release conclude"),
            (Addressed, "release conclude"),
            (Provided, "release conclude"),
            (Prepared, "kill release conclude"),
            (Started, "stop kill release conclude"),
            (Ready, "stop kill release conclude"),
            (Ended, ""),
        ] {
            let steps = check(wish, stage, Some(&outcome), expected);
            if stage != Ended {
                assert_eq!(steps.last(), Some(&Step::Conclude(outcome.clone())));
            }
        }
    }
}

#[test]
fn sandbox_that_shall_end_is_stopped_where_it_runs_and_never_begun() {
    for ending in [Expired, LeaseOver, Restarted, GivenUp] {
        for (stage, expected) in [
            (Absent, "conclude"),
            (Partial, "kill release conclude"),
            (Addressed, "release conclude"),
            (Provided, "release conclude"),
            (Prepared, "kill release conclude"),
            (Started, "stop kill release conclude"),
            (Ready, "stop kill release conclude"),
            (Ended, ""),
        ] {
            check(End(ending), stage, None, expected);
        }
    }
}

#[test]
fn sandbox_of_which_nobody_has_said_what_shall_become_goes_on() {
    for stage in STAGES {
        check(Keep, stage, None, "");
    }
}

#[test]
fn removed_sandbox_is_killed_not_asked_and_nothing_is_recorded() {
    let outcome = Outcome {
        failure: None,
        message: String::new(),
    };
    for stage in STAGES {
        let expected = match stage {
            Absent | Ended => "remove",
            Partial | Addressed | Provided | Prepared | Started | Ready => "kill release remove",
        };
        for outcome in [None, Some(&outcome)] {
            check(Remove, stage, outcome, expected);
        }
    }
}

/// What a step leads to, where it succeeds.
fn after(step: &Step, stage: Stage) -> Stage {
    match step {
        Step::Address => Addressed,
        Step::Provide => Provided,
        Step::Prepare => Prepared,
        Step::Start => Started,
        Step::AwaitReady => Ready,
        Step::Stop | Step::Kill => stage,
        Step::Release | Step::Remove => Absent,
        Step::Conclude(_) => Ended,
    }
}

#[test]
fn steps_cut_off_anywhere_lead_to_the_same_end() {
    let (begun, shall_end) = (Run, End(LeaseOver));
    for (wish, goal) in [(begun, Ready), (shall_end, Ended), (Remove, Absent)] {
        for first in STAGES.into_iter().filter(|stage| *stage != Ended) {
            let observed = |stage| Observed { stage, outcome: None };
            let whole = plan(wish, &observed(first));
            for cut in 0..=whole.len() {
                let reached = whole[..cut].iter().fold(first, |stage, step| after(step, stage));
                let rest = if cut == whole.len() {
                    Vec::new()
                } else {
                    plan(wish, &observed(reached))
                };
                let end = rest.iter().fold(reached, |stage, step| after(step, stage));
                assert_eq!(end, goal, "{wish:?} from {first:?}, cut after {cut} of {whole:?}");
            }
        }
    }
}
