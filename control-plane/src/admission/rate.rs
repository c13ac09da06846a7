//! New sandboxes: so many per second, whoever asks for them, in turns.

use super::bucket::Bucket;
use super::lines::Lines;
use super::{Client, Limits, Refused};
use crate::clock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Nobody waits longer: a refusal tells more than a wait, and whoever is refused comes back.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// In all lines, each some hundred bytes beside the request that waits: what many clients' floods together may hold.
const MAX_WAITING: usize = 4_096;
const WHY: &str = "more new sandboxes are asked for than this cluster takes per second";

#[derive(Debug)]
pub(super) struct Rate {
    /// `None`: everything passes.
    inner: Option<Arc<Mutex<Inner>>>,
}

#[derive(Debug)]
struct Inner {
    bucket: Bucket,
    lines: Lines<oneshot::Sender<()>>,
    /// A task lets those pass who wait.
    served: bool,
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rate {
    pub(super) fn new(limits: Limits) -> Self {
        let inner = || {
            Arc::new(Mutex::new(Inner {
                bucket: Bucket::new(limits.create_rate, limits.create_burst, clock::instant()),
                lines: Lines::default(),
                served: false,
            }))
        };
        Self {
            inner: (limits.create_rate > 0).then(inner),
        }
    }

    /// Returns when it is the client's turn.
    ///
    /// # Errors
    /// [`Refused`], at once where waiting would take too long.
    pub(super) async fn pass(&self, client: &Client) -> Result<(), Refused> {
        let Some(shared) = &self.inner else {
            return Ok(());
        };
        let turn = {
            let mut inner = lock(shared);
            if inner.lines.is_empty() && inner.bucket.take(clock::instant()).is_ok() {
                return Ok(());
            }
            let wait = inner.bucket.time_for(inner.lines.ahead(client) + 1);
            if wait > LONGEST_WAIT || inner.lines.waiting() >= MAX_WAITING {
                return Err(refused(wait));
            }
            let (turn, waiting) = oneshot::channel();
            inner.lines.push(client, turn);
            if !inner.served {
                inner.served = true;
                tokio::spawn(serve(shared.clone()));
            }
            waiting
        };
        // Others may come between: what was estimated is no promise.
        match timeout(LONGEST_WAIT, turn).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(refused(LONGEST_WAIT)),
        }
    }
}

fn refused(retry_after: Duration) -> Refused {
    Refused {
        why: WHY,
        // To the millisecond, and never at once.
        retry_after: Duration::from_millis(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).max(1)),
    }
}

/// Lets pass whose turn it is, as fast as the rate allows, until nobody waits.
async fn serve(shared: Arc<Mutex<Inner>>) {
    loop {
        let next = serve_due(&mut lock(&shared));
        let Some(next) = next else { return };
        tokio::time::sleep_until(next.into()).await;
    }
}

/// When to come again; `None` where nobody waits.
fn serve_due(inner: &mut Inner) -> Option<Instant> {
    while !inner.lines.is_empty() {
        if let Err(next) = inner.bucket.take(clock::instant()) {
            return Some(next);
        }
        // Who has gone meanwhile takes nobody's turn.
        while let Some(turn) = inner.lines.pop() {
            if turn.send(()).is_ok() {
                break;
            }
        }
    }
    inner.served = false;
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;

    fn client(name: &str) -> Client {
        Client(name.to_owned())
    }

    fn limits(create_rate: u32, create_burst: u32) -> Limits {
        Limits {
            create_rate,
            create_burst,
        }
    }

    #[tokio::test]
    async fn flood_takes_its_share_and_the_polite_one_waits_for_one_turn() {
        let rate = Rate::new(limits(100, 10));
        let (flood, polite) = (client("flood"), client("polite"));
        let flooding = async {
            let asked = join_all((0..500).map(|_| rate.pass(&flood))).await;
            let passed = asked.iter().filter(|asked| asked.is_ok()).count();
            // The burst, and what waits for less than a second; fewer where the machine lets them wait for longer.
            assert!((20..=111).contains(&passed), "{passed}");
            let refused = asked.into_iter().find_map(Result::err).expect("most are refused");
            assert!(refused.retry_after >= Duration::from_secs(1), "{refused}");
        };
        let asking = async {
            tokio::task::yield_now().await;
            let asked = clock::instant();
            for _ in 0..20 {
                rate.pass(&polite).await.expect("its turn comes");
            }
            // 20 ms each, while whoever floods waits for nearly a second.
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        };
        tokio::join!(flooding, asking);
        // The task that served them ends, and the next one is served as well.
        rate.pass(&polite).await.expect("its turn comes");
    }

    #[tokio::test]
    async fn who_gives_up_takes_nobodys_turn() {
        let rate = Rate::new(limits(10, 1));
        let (one, other) = (client("one"), client("other"));
        rate.pass(&one).await.expect("the bucket is full");
        for _ in 0..5 {
            let given_up = timeout(Duration::from_millis(1), rate.pass(&one)).await;
            assert!(given_up.is_err());
        }
        let asked = clock::instant();
        rate.pass(&other).await.expect("its turn comes");
        // With the turns of those five it would have been 600 ms, or a refusal.
        assert!(
            asked.elapsed() < Duration::from_millis(400),
            "{:?}",
            asked.elapsed()
        );
    }

    #[tokio::test]
    async fn without_a_rate_everything_passes() {
        let rate = Rate::new(limits(0, 1));
        for _ in 0..100_000 {
            rate.pass(&client("c")).await.expect("there is no limit");
        }
    }
}
