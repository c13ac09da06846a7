//! Writes on their way: so many at a time, the next ones in turns. The queue into the log is first come, first served;
//! as it never holds more than these, a flood waits here and not before everybody else there.

use super::lines::Lines;
use super::{Client, Refused};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Two of the largest batches: one that is being written, and one that gathers meanwhile.
const PLACES: usize = 1_024;
/// Of one client.
const MAX_WAITING_OF_ONE: usize = 1_024;
/// Of all, beside the requests that wait.
const MAX_WAITING: usize = 8_192;
/// Where nothing is committed for this long, a client should rather hear of it.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Some batches later.
const RETRY_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Places {
    inner: Arc<Mutex<Inner>>,
    longest_wait: Duration,
}

#[derive(Debug)]
struct Inner {
    free: usize,
    lines: Lines<oneshot::Sender<Place>>,
}

/// A write may be under way for as long as it is held.
#[derive(Debug)]
pub struct Place(Option<Arc<Mutex<Inner>>>);

impl Default for Places {
    fn default() -> Self {
        Self::new(PLACES, LONGEST_WAIT)
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    fn new(free: usize, longest_wait: Duration) -> Self {
        let lines = Lines::default();
        Self {
            inner: Arc::new(Mutex::new(Inner { free, lines })),
            longest_wait,
        }
    }

    /// Returns when it is the client's turn.
    ///
    /// # Errors
    /// [`Refused`]
    pub(super) async fn take(&self, client: &Client) -> Result<Place, Refused> {
        let turn = {
            let mut inner = lock(&self.inner);
            if inner.free > 0 {
                inner.free -= 1;
                return Ok(Place(Some(self.inner.clone())));
            }
            let waiting = inner.lines.waiting();
            if waiting >= MAX_WAITING || inner.lines.waiting_of(client) >= MAX_WAITING_OF_ONE {
                return Err(REFUSED);
            }
            let (turn, place) = oneshot::channel();
            inner.lines.push(client, turn);
            place
        };
        match timeout(self.longest_wait, turn).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(REFUSED),
        }
    }
}

const REFUSED: Refused = Refused {
    why: "more writes wait already than this cluster takes on",
    retry_after: RETRY_AFTER,
};

impl Drop for Place {
    /// Gives it to whose turn it is.
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        loop {
            let next = {
                let mut inner = lock(&shared);
                let next = inner.lines.pop();
                if next.is_none() {
                    inner.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Place(Some(shared.clone()))) {
                Ok(()) => return,
                // He has gone. It is not given back twice.
                Err(mut place) => drop(place.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);

    fn client(name: &str) -> Client {
        Client(name.to_owned())
    }

    #[tokio::test]
    async fn places_go_round_among_the_clients() {
        let places = Places::new(1, WAIT);
        let (flood, polite) = (client("flood"), client("polite"));
        let held = places.take(&flood).await.expect("it is free");
        let order = Mutex::new(Vec::new());
        let taking = async |client: &Client, name: &'static str| {
            let place = places.take(client).await.expect("its turn comes");
            order.lock().expect("whole").push(name);
            drop(place);
        };
        let give_back = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        tokio::join!(
            taking(&flood, "flood"),
            taking(&flood, "flood"),
            taking(&flood, "flood"),
            taking(&polite, "polite"),
            give_back
        );
        assert_eq!(
            *order.lock().expect("whole"),
            ["flood", "polite", "flood", "flood"]
        );
        assert_eq!(lock(&places.inner).free, 1);
    }

    #[tokio::test]
    async fn who_has_gone_keeps_no_place() {
        let places = Places::new(1, WAIT);
        let held = places.take(&client("a")).await.expect("it is free");
        let refused = places.take(&client("b")).await.expect_err("it waits too long");
        assert_eq!(refused, REFUSED);
        let gone = timeout(Duration::from_millis(1), places.take(&client("c"))).await;
        assert!(gone.is_err());
        drop(held);
        assert_eq!(lock(&places.inner).free, 1);
        drop(places.take(&client("d")).await.expect("it is free"));
    }

    #[tokio::test]
    async fn line_of_one_client_is_bounded_and_another_ones_is_not_full_for_that() {
        let places = Places::new(0, WAIT);
        for _ in 0..MAX_WAITING_OF_ONE {
            lock(&places.inner).lines.push(&client("a"), oneshot::channel().0);
        }
        assert_eq!(places.take(&client("a")).await.expect_err("it is full"), REFUSED);
        let waiting = timeout(Duration::from_millis(1), places.take(&client("b"))).await;
        assert!(waiting.is_err(), "it waits");
    }
}
