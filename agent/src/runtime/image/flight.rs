//! Lets any number of callers share one piece of work under way: the first starts it, the others join, all
//! get its result; when nobody waits any more, it is dropped.

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Work under way, by what it makes.
pub(super) struct Flights<T: Clone>(Mutex<HashMap<String, WeakShared<BoxFuture<'static, T>>>>);

impl<T: Clone> Flights<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Joins the work on `key`, or starts it.
    pub(super) fn join(
        &self,
        key: &str,
        start: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = flights.get(key).and_then(WeakShared::upgrade)
            && under_way.peek().is_none()
        {
            return under_way;
        }
        flights.retain(|_, flight| flight.upgrade().is_some());
        let started = start().shared();
        // A future that was never polled to its end always has a weak form.
        if let Some(weak) = started.downgrade() {
            flights.insert(key.to_owned(), weak);
        }
        started
    }
}
