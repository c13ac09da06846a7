//! Makes the node be as the ledger wants it: one task per sandbox, told what is wished. Owns which tasks there
//! are and the wishes; does nothing to a sandbox itself. Called by `main`.

use crate::execute::Failure;
use crate::host::Host;
use crate::lease::Tenure;
use crate::ledger::{Accepted, Ledger, Wanted};
use crate::observe::{self, ObserveError};
use crate::plan::{Ending, Stage, Wish};
use crate::sandbox::{Order, Sandbox};
use futures::StreamExt;
use proto::id::Uid;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Sandboxes that are looked at at the same time after a start: each is a few files and a connection.
const OBSERVED_AT_ONCE: usize = 16;

/// The tasks of a node.
struct Reconciler {
    host: Arc<Host>,
    orders: BTreeMap<Uid, watch::Sender<Order>>,
    tasks: JoinSet<Uid>,
    uids: BTreeMap<Id, Uid>,
    /// No leader was heard for the lease.
    lease_over: Option<Ending>,
}

/// Finds what is on the node, tells `ready` when all of it is in the reports, and then follows the ledger until
/// `stop`. Sandboxes go on when it ends.
///
/// # Errors
/// [`ObserveError`] where it can't be told what is on the node.
pub async fn run(
    host: Arc<Host>,
    ledger: Arc<Ledger>,
    ready: oneshot::Sender<()>,
    stop: CancellationToken,
) -> Result<(), ObserveError> {
    let mut follow = ledger.follow();
    let mut reconciler = Reconciler {
        lease_over: lease_over(&host),
        host,
        orders: BTreeMap::new(),
        tasks: JoinSet::new(),
        uids: BTreeMap::new(),
    };
    reconciler.begin(follow.borrow_and_update().as_deref()).await?;
    // Who waited may have given up.
    ready.send(()).ok();
    let host = reconciler.host.clone();
    let following = async {
        tokio::select! {
            () = reconciler.follow(&ledger, &mut follow) => {}
            // Not before it is known which ids are taken.
            () = host.keep_stocked() => {}
        }
    };
    stop.run_until_cancelled(following).await;
    Ok(())
}

/// What an agent that starts must hold against what it finds, before it has heard any leader.
fn lease_over(host: &Host) -> Option<Ending> {
    match host.lease.tenure() {
        Tenure::Never => Some(Ending::Restarted),
        Tenure::Until(until) => until.has_passed().then_some(Ending::LeaseOver),
    }
}

impl Reconciler {
    async fn begin(&mut self, accepted: Option<&Accepted>) -> Result<(), ObserveError> {
        let present = observe::present(&self.host).await?;
        let host = self.host.clone();
        let found = futures::stream::iter(present).map(|uid| {
            let host = host.clone();
            async move { observe::sandbox(&host, uid).await }
        });
        let mut found = found.buffer_unordered(OBSERVED_AT_ONCE);
        while let Some(sandbox) = found.next().await {
            let order = match accepted {
                // Nobody has said yet what is wanted.
                None => Order {
                    wish: Wish::Keep,
                    wanted: None,
                },
                Some(accepted) => self.order(accepted.sandboxes.get(&sandbox.uid)),
            };
            self.spawn(sandbox, order);
        }
        drop(found);
        if let Some(accepted) = accepted {
            self.apply(accepted);
        }
        Ok(())
    }

    async fn follow(&mut self, ledger: &Ledger, follow: &mut watch::Receiver<Option<Arc<Accepted>>>) {
        let lease = self.host.lease.clone();
        loop {
            tokio::select! {
                changed = follow.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let accepted = follow.borrow_and_update().clone();
                    if let Some(accepted) = accepted {
                        // Whoever brought it has given a lease before.
                        self.lease_over = lease_over(&self.host);
                        self.apply(&accepted);
                    }
                    for (uid, id) in ledger.take_removed() {
                        if !self.orders.contains_key(&uid) {
                            self.host.reports.gone(uid, &id);
                        }
                    }
                }
                () = lease.over(), if self.lease_over.is_none() => self.end_all(),
                () = lease.held(), if self.lease_over.is_some() => self.lease_over = None,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
            }
        }
    }

    /// Every task learns what is wished of its sandbox; new ones are begun.
    fn apply(&mut self, accepted: &Accepted) {
        for (uid, orders) in &self.orders {
            tell(orders, self.order(accepted.sandboxes.get(uid)));
        }
        for (uid, wanted) in &accepted.sandboxes {
            if !self.orders.contains_key(uid) {
                let id = wanted.desired.sandbox_id.clone();
                let sandbox = Sandbox::absent(self.host.clone(), *uid, id);
                self.spawn(sandbox, self.order(Some(wanted)));
            }
        }
    }

    fn order(&self, wanted: Option<&Arc<Wanted>>) -> Order {
        let wish = match (wanted, self.lease_over) {
            (None, _) => Wish::Remove,
            (Some(wanted), _) if wanted.desired.ended => Wish::End(Ending::GivenUp),
            (Some(_), Some(ending)) => Wish::End(ending),
            (Some(_), None) => Wish::Run,
        };
        Order {
            wish,
            wanted: wanted.cloned(),
        }
    }

    /// The lease is over: whatever runs here may be run elsewhere from now on.
    fn end_all(&mut self) {
        tracing::error!("no leader was heard for the lease, ending all sandboxes");
        self.lease_over = Some(Ending::LeaseOver);
        for orders in self.orders.values() {
            let before = orders.borrow().clone();
            if matches!(before.wish, Wish::Run | Wish::Keep) {
                let wish = Wish::End(Ending::LeaseOver);
                tell(orders, Order { wish, ..before });
            }
        }
    }

    fn spawn(&mut self, sandbox: Sandbox, order: Order) {
        let uid = sandbox.uid;
        // Here, so that an inventory that is taken next has it.
        sandbox.tell();
        let span = span(&sandbox, &order);
        span.in_scope(|| tracing::info!(wish = ?order.wish, "attending to it"));
        let (orders, receiver) = watch::channel(order);
        self.orders.insert(uid, orders);
        let attending = async move {
            sandbox.run(receiver).await;
            uid
        };
        let task = self.tasks.spawn(attending.instrument(span));
        self.uids.insert(task.id(), uid);
    }

    /// A task ends when nothing of its sandbox is left. One that has died is replaced by one that ends the sandbox.
    async fn ended(&mut self, ended: Result<(Id, Uid), JoinError>) {
        let (task, died) = match &ended {
            Ok((task, _)) => (*task, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(uid) = self.uids.remove(&task) else {
            return;
        };
        let Some(orders) = self.orders.remove(&uid) else {
            return;
        };
        if let Some(error) = died {
            tracing::error!(%uid, %error, "the task of a sandbox has died");
            let mut sandbox = observe::sandbox(&self.host, uid).await;
            if sandbox.observed.stage != Stage::Ended {
                sandbox.observed.outcome = Some(Failure::Died.outcome());
            }
            let order = orders.borrow().clone();
            self.spawn(sandbox, order);
        }
    }
}

/// What all lines about a sandbox say: which one it is, and the trace of the request that has made it, by which the control
/// plane's lines are found.
fn span(sandbox: &Sandbox, order: &Order) -> tracing::Span {
    let trace_id = order
        .wanted
        .as_ref()
        .map_or("", |wanted| &wanted.desired.trace_id);
    tracing::info_span!("sandbox", id = sandbox.report.sandbox_id, uid = %sandbox.uid, trace_id)
}

/// Wakes the task only where the order is another one. What was to end is never to run again: a sandbox is for one
/// use, and its end may be half done.
fn tell(orders: &watch::Sender<Order>, order: Order) {
    orders.send_if_modified(|before| {
        let order = match (before.wish, order.wish) {
            (Wish::End(_), Wish::Run | Wish::Keep) | (Wish::Remove, _) => Order {
                wish: before.wish,
                ..order
            },
            (Wish::Run | Wish::Keep | Wish::End(_), _) => order,
        };
        let changed = *before != order;
        *before = order;
        changed
    });
}
