//! What keeps thousands of sessions from crowding out everything else: agents that come all at once after a leader was
//! lost, and reports that come faster than they can be written. Owns these bounds; knows no session. Called by `Sessions`
//! and `stream`.

use super::Sessions;
use crate::raft::Leadership;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// What one agent that comes costs a leader, as time of one processor: a handshake with certificates on both sides, its
/// inventory, its desired state.
const COST_OF_COMING: Duration = Duration::from_micros(500);
/// Agents come back well before they count as silent: within this part of the grace.
const PART_OF_GRACE: u32 = 4;
/// How long an agent is kept waiting for an election to end; one takes about as long.
const ELECTION: Duration = Duration::from_millis(500);
/// Messages with reports that one agent may have sent and not seen acknowledged: the next one gathers while one is
/// written.
pub(super) const REPORT_WINDOW: u32 = 2;
/// Sandboxes that are reported on their way into the log, of all agents together. However many agents report however much,
/// a user's write waits for so many of theirs, which is a few milliseconds; and so many at a time are far more than a
/// cluster starts in that time.
pub(super) const REPORTS_UNDER_WAY: u32 = 512;

/// The right to have reports under way. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Reporting(Arc<Semaphore>);

impl Default for Reporting {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REPORTS_UNDER_WAY as usize)))
    }
}

impl Reporting {
    /// Waits for its turn with so many reports: whoever asked first goes first. Held until the command is answered.
    pub(super) async fn turn(&self, reports: usize) -> Option<OwnedSemaphorePermit> {
        let reports = u32::try_from(reports)
            .unwrap_or(u32::MAX)
            .clamp(1, REPORTS_UNDER_WAY);
        // Closed by nobody.
        self.0.clone().acquire_many_owned(reports).await.ok()
    }
}

/// Returns once it is known who leads, and replica `own` is ready to where it is that one; or when the time of an election
/// is over.
pub(super) async fn until_somebody_leads(own: u64, mut leadership: watch::Receiver<Leadership>) {
    let known = leadership.wait_for(|now| {
        let another = now.leader.as_ref().is_some_and(|leader| leader.id != own);
        now.is_self || another
    });
    // Whether it is known is looked at next.
    timeout(ELECTION, known).await.ok();
}

impl Sessions {
    /// Over how long the agents of this leader shall come to the next one: as fast as that can admit them.
    pub(super) fn spread(&self) -> Duration {
        spread(self.table.len(), self.timings.node_grace)
    }
}

fn spread(agents: usize, grace: Duration) -> Duration {
    let agents = u32::try_from(agents).unwrap_or(u32::MAX);
    COST_OF_COMING.saturating_mul(agents).min(grace / PART_OF_GRACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_spread_by_their_number_and_come_before_they_count_as_silent() {
        let check = |agents: usize, expected_ms: u64| {
            let spread = spread(agents, Duration::from_secs(10));
            assert_eq!(spread, Duration::from_millis(expected_ms), "{agents} agents");
        };
        check(0, 0);
        check(2, 1);
        check(1_000, 500);
        check(100_000, 2_500);
    }

    #[tokio::test]
    async fn reports_under_way_are_bounded_and_more_than_that_go_alone() {
        let reporting = Reporting::default();
        let all = REPORTS_UNDER_WAY as usize;
        let half = reporting.turn(all / 2).await.expect("its turn");
        let mut waiting = std::pin::pin!(reporting.turn(4 * all));
        assert!(futures::poll!(&mut waiting).is_pending());
        let mut behind = std::pin::pin!(reporting.turn(all));
        assert!(futures::poll!(&mut behind).is_pending());
        drop(half);
        let alone = waiting.await.expect("its turn");
        assert!(futures::poll!(&mut behind).is_pending());
        drop(alone);
        assert!(behind.await.is_some());
    }
}
