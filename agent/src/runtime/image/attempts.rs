//! Who is asked next: every place in order, and those whose fault may pass again after a pause. Asks nobody itself.

use super::error::EndpointFailure;
use super::fault::Fault;
use super::reference::Endpoint;
use std::time::Duration;

/// How often every place is asked without any progress, in all: with the pauses between, some three seconds of a
/// registry that refuses connections and some 25 s of one that is not there.
const ROUNDS: u32 = 4;
/// Before the second round, at most; doubled before each further one. Half of it is chance, so that many nodes don't
/// come back to a registry at once.
const PAUSE: Duration = Duration::from_millis(500);

/// Which place to ask next: all in order, and those whose fault may pass again after a pause.
pub(super) struct Attempts<'a> {
    endpoints: &'a [Endpoint],
    /// The last one of each place.
    faults: Vec<Option<Fault>>,
    /// The place asked last is the one before this.
    next: usize,
    round: u32,
    pause: Duration,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(endpoints: &'a [Endpoint]) -> Self {
        Self {
            endpoints,
            faults: vec![None; endpoints.len()],
            next: 0,
            round: 1,
            pause: PAUSE,
        }
    }

    /// The next place; pauses before a further round. `None`: no place is left that could answer.
    pub(super) async fn next(&mut self) -> Option<&'a Endpoint> {
        loop {
            while self.next < self.endpoints.len() {
                self.next += 1;
                if self.faults[self.next - 1]
                    .as_ref()
                    .is_none_or(Fault::is_transient)
                {
                    return Some(&self.endpoints[self.next - 1]);
                }
            }
            if self.round == ROUNDS || !self.faults.iter().flatten().any(Fault::is_transient) {
                return None;
            }
            tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            self.pause *= 2;
            self.round += 1;
            self.next = 0;
        }
    }

    /// The place that [`Self::next`] gave last did not answer.
    pub(super) fn failed(&mut self, fault: Fault) {
        self.faults[self.next - 1] = Some(fault);
    }

    /// The place that [`Self::next`] gave last has given a part before it failed: a way that is slow and breaks
    /// often gets there as well. How long in all is bounded by who pulls.
    pub(super) fn progressed(&mut self) {
        self.round = 1;
        self.pause = PAUSE;
    }

    pub(super) fn failures(self) -> Vec<EndpointFailure> {
        let failure = |(endpoint, fault): (&Endpoint, Option<Fault>)| {
            fault.map(|fault| EndpointFailure {
                endpoint: endpoint.url.clone(),
                fault,
            })
        };
        self.endpoints
            .iter()
            .zip(self.faults)
            .filter_map(failure)
            .collect()
    }
}
