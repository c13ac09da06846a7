//! Lets any number of callers share one piece of work under way: the first starts it, the others join, all
//! get its result; when nobody waits any more, it is dropped.

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Work under way, by what it makes; `S` is what shows how far it is.
pub(super) struct Flights<T: Clone, S: Clone>(Mutex<HashMap<String, UnderWay<T, S>>>);

type Work<T> = BoxFuture<'static, T>;
type UnderWay<T, S> = (S, WeakShared<Work<T>>);

impl<T: Clone, S: Clone> Flights<T, S> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Joins the work on `key`, or starts it.
    pub(super) fn join(&self, key: &str, start: impl FnOnce() -> (S, Work<T>)) -> (S, Shared<Work<T>>) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((shown, weak)) = flights.get(key)
            && let Some(under_way) = weak.upgrade()
            && under_way.peek().is_none()
        {
            return (shown.clone(), under_way);
        }
        flights.retain(|_, (_, flight)| flight.upgrade().is_some());
        let (shown, work) = start();
        let started = work.shared();
        // A future that was never polled to its end always has a weak form.
        if let Some(weak) = started.downgrade() {
            flights.insert(key.to_owned(), (shown.clone(), weak));
        }
        (shown, started)
    }
}
