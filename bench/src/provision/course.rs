//! The cases, and how each is measured: in rounds, each of which starts so many at once, waits for all, and takes all
//! away at once.

use super::contender::{Contender, Started};
use crate::error::BenchError;
use crate::quantile::Summary;
use futures::future::try_join_all;
use serde::Serialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) at_once: u32,
    pub(super) rounds: u32,
    /// Before each round; zero: warm.
    pub(super) idle: Duration,
    /// One round of very many.
    pub(super) is_burst: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_burst, self.idle.is_zero()) {
            (true, _) => write!(f, "burst of {}", self.at_once),
            (false, true) => write!(f, "{} at once", self.at_once),
            (false, false) => write!(f, "after {} idle", humantime::format_duration(self.idle)),
        }
    }
}

/// What was measured of one case. All times in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) contender: String,
    pub(super) case: String,
    pub(super) at_once: u32,
    pub(super) is_burst: bool,
    /// From the request to the first HTTP 200.
    pub(super) answered: Option<Summary>,
    /// From the request to be gone until it is.
    pub(super) gone: Option<Summary>,
    /// From the first request of a round to the last answer.
    pub(super) all_answered: Option<Summary>,
    pub(super) all_gone: Option<Summary>,
    pub(super) stages: BTreeMap<String, Summary>,
}

/// One contender on its way through the cases.
pub(super) struct Course<'a, C> {
    name: &'a str,
    contender: &'a C,
    next: Cell<u32>,
}

impl<'a, C: Contender> Course<'a, C> {
    pub(super) fn new(name: &'a str, contender: &'a C) -> Self {
        Self {
            name,
            contender,
            next: Cell::new(0),
        }
    }

    pub(super) fn name(&self) -> &str {
        self.name
    }

    /// Measures one case, after one round that does not count.
    pub(super) async fn measure(&self, case: &Case) -> Result<Measured, BenchError> {
        let warm_up = self.start(1).await?;
        self.end(&warm_up.numbers).await?;
        let mut answered = Vec::new();
        let mut gone = Vec::new();
        let (mut all_answered, mut all_gone) = (Vec::new(), Vec::new());
        let mut stages: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        for _ in 0..case.rounds {
            tokio::time::sleep(case.idle).await;
            let round = self.start(case.at_once).await?;
            all_answered.push(round.took);
            for started in round.started {
                answered.push(started.answered);
                for (stage, time) in started.stages {
                    stages.entry(stage).or_default().push(time);
                }
            }
            let (each, all) = self.end(&round.numbers).await?;
            gone.extend(each);
            all_gone.push(all);
        }
        Ok(Measured {
            contender: self.name.to_owned(),
            case: case.to_string(),
            at_once: case.at_once,
            is_burst: case.is_burst,
            answered: Summary::of(&answered),
            gone: Summary::of(&gone),
            all_answered: Summary::of(&all_answered),
            all_gone: Summary::of(&all_gone),
            stages: stages
                .into_iter()
                .filter_map(|(stage, times)| Some((stage, Summary::of(&times)?)))
                .collect(),
        })
    }

    /// Starts so many at once.
    pub(super) async fn start(&self, at_once: u32) -> Result<Round, BenchError> {
        let first = self.next.get();
        self.next.set(first + at_once);
        let numbers: Vec<u32> = (first..first + at_once).collect();
        let begun = Instant::now();
        let started = try_join_all(numbers.iter().map(|number| self.contender.start(*number))).await;
        let took = begun.elapsed();
        match started {
            Ok(started) => Ok(Round {
                numbers,
                started,
                took,
            }),
            Err(error) => {
                // What is there shall not stay; that it does is not the cause.
                futures::future::join_all(numbers.iter().map(|number| self.contender.end(*number))).await;
                Err(error)
            }
        }
    }

    /// Ends them at once; how long each and all took.
    pub(super) async fn end(&self, numbers: &[u32]) -> Result<(Vec<Duration>, Duration), BenchError> {
        let begun = Instant::now();
        let each = try_join_all(numbers.iter().map(|number| self.contender.end(*number))).await?;
        Ok((each, begun.elapsed()))
    }
}

pub(super) struct Round {
    pub(super) numbers: Vec<u32>,
    pub(super) started: Vec<Started>,
    pub(super) took: Duration,
}
