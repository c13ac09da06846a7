//! For how long those who have begun a stream may go on: for as long as their token is good. One task for each token that
//! has any waits for its end; nobody asks again and again. Begun by [`Holds::of`] for `api`.

use super::{Caller, Denied, Who};
use crate::clock;
use crate::raft::Replica;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The tokens that have streams. Clones share.
#[derive(Clone)]
pub struct Holds {
    replica: Replica,
    watched: Arc<Mutex<HashMap<String, Weak<Watched>>>>,
}

/// One caller's. Clones share.
#[derive(Clone)]
pub struct Hold(Option<Arc<Watched>>);

/// One token, for as long as somebody has a hold of it.
struct Watched {
    over: watch::Receiver<Option<Denied>>,
    _waiting: AbortOnDropHandle<()>,
}

impl Holds {
    pub(crate) fn new(replica: Replica) -> Self {
        Self {
            replica,
            watched: Arc::default(),
        }
    }

    /// Of whoever asks; who has shown no token can lose none.
    pub(crate) fn of(&self, caller: &Caller) -> Hold {
        match &caller.who {
            Who::Token { id, .. } => Hold(Some(self.watched(id))),
            Who::Anybody | Who::Nobody | Who::Node(_) | Who::Replica(_) => Hold(None),
        }
    }

    fn watched(&self, id: &str) -> Arc<Watched> {
        let mut all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = all.get(id).and_then(Weak::upgrade) {
            return watched;
        }
        all.retain(|_, watched| watched.strong_count() > 0);
        let (told, over) = watch::channel(None);
        let end = end(self.replica.clone(), id.to_owned());
        let waiting = tokio::spawn(async move {
            told.send_replace(Some(end.await));
        });
        let watched = Arc::new(Watched {
            over,
            _waiting: AbortOnDropHandle::new(waiting),
        });
        all.insert(id.to_owned(), Arc::downgrade(&watched));
        watched
    }
}

impl Hold {
    /// Returns once the token is good no more, with what is said of it then.
    pub async fn over(&self) -> Denied {
        if let Some(watched) = &self.0 {
            let mut over = watched.over.clone();
            if let Ok(denied) = over.wait_for(Option::is_some).await
                && let Some(denied) = &*denied
            {
                return denied.clone();
            }
        }
        std::future::pending().await
    }

    /// What comes of `act`, which must be cancel safe.
    ///
    /// # Errors
    /// As of [`Self::over`], where that comes first.
    pub async fn during<T>(&self, act: impl Future<Output = T>) -> Result<T, Denied> {
        tokio::select! {
            biased;
            denied = self.over() => Err(denied),
            done = act => Ok(done),
        }
    }
}

/// Returns once this replica knows that the token is good no more.
async fn end(replica: Replica, id: String) -> Denied {
    let mut applied = replica.replicated().applied();
    loop {
        let left = match left(&replica, &id) {
            Ok(left) => left,
            Err(denied) => return denied,
        };
        tokio::select! {
            changed = applied.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(left.unwrap_or(Duration::MAX)) => {}
        }
    }
}

/// How long it is good yet; `None`: for ever.
fn left(replica: &Replica, id: &str) -> Result<Option<Duration>, Denied> {
    let state = replica.replicated().read();
    let token = state.token(id).ok_or(Denied::Unknown)?;
    let now = clock::now().max(state.now());
    if !token.holds(now) {
        return Err(Denied::Expired(id.to_owned()));
    }
    let left = |end: proto::units::Timestamp| Duration::from_millis(end.0.saturating_sub(now.0));
    Ok(token.expires_at.map(left))
}
