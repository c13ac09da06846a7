//! Namespaces that are made ahead, while nothing else is to be done: a sandbox that takes some begins to run that much
//! sooner, and a burst of them waits less for the kernel's locks. They are held by descriptors alone: nothing on disk
//! tells of them, and with the agent they are gone. Owned by `host`; `execute` takes.

use crate::blocking::blocking;
use crate::runtime::namespace::Namespaces;
use crate::user_ids::UserIds;
use std::time::Duration;
use tokio::sync::watch;

/// Before it is tried again after a failure; who needs some meanwhile makes them, and tells why that fails.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Stock {
    size: usize,
    made: watch::Sender<Vec<Namespaces>>,
    /// Sandboxes that are being made: none is to wait for the next one's namespaces.
    under_way: watch::Sender<usize>,
}

/// A sandbox is being made as long as this is held.
#[derive(Debug)]
pub(crate) struct UnderWay(watch::Sender<usize>);

impl Stock {
    /// Empty, to be filled with that many.
    pub(crate) fn of(size: usize) -> Self {
        Self {
            size,
            made: watch::Sender::default(),
            under_way: watch::Sender::default(),
        }
    }

    /// `None`: they have run out.
    pub(crate) fn take(&self) -> Option<Namespaces> {
        let mut taken = None;
        self.made.send_if_modified(|made| {
            taken = made.pop();
            taken.is_some()
        });
        taken
    }

    /// Nothing is made ahead as long as what this gives is held.
    pub(crate) fn make_way(&self) -> UnderWay {
        self.under_way.send_modify(|n| *n += 1);
        UnderWay(self.under_way.clone())
    }

    /// One after the other, whenever no sandbox is being made. Never returns.
    pub(crate) async fn keep_filled(&self, user_ids: Option<&UserIds>) {
        let (mut made, mut under_way) = (self.made.subscribe(), self.under_way.subscribe());
        // The senders are our own, so that there always is an answer.
        while made.wait_for(|made| made.len() < self.size).await.is_ok()
            && under_way.wait_for(|n| *n == 0).await.is_ok()
        {
            if let Err(error) = self.add(user_ids).await {
                tracing::warn!(error, "cannot make namespaces ahead");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn add(&self, user_ids: Option<&UserIds>) -> Result<(), String> {
        let ids = user_ids.map(UserIds::take).transpose();
        let ids = ids.map_err(|exhausted| exhausted.to_string())?;
        match blocking(move || Namespaces::make(ids)).await {
            Ok(made) => {
                self.made.send_modify(|all| all.push(made));
                Ok(())
            }
            Err(error) => {
                if let (Some(all), Some(ids)) = (user_ids, ids) {
                    all.give_back(ids);
                }
                Err(error.to_string())
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IdBlock;
    use futures::FutureExt;

    /// Until the stock has so many, while it is kept filled.
    async fn filled(stock: &Stock, ids: &UserIds, count: usize) {
        let mut made = stock.made.subscribe();
        tokio::select! {
            () = stock.keep_filled(Some(ids)) => unreachable!("it never returns"),
            filled = made.wait_for(|made| made.len() == count) => drop(filled.expect("its sender is there")),
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("no namespaces; run this as root"),
        }
    }

    fn ids() -> UserIds {
        UserIds::new(IdBlock {
            first: 1 << 28,
            count: 1 << 24,
        })
    }

    #[tokio::test]
    async fn is_filled_while_no_sandbox_is_being_made_and_no_further() {
        let (stock, ids) = (Stock::of(2), ids());
        let way = stock.make_way();
        assert!(stock.keep_filled(Some(&ids)).now_or_never().is_none());
        assert_eq!(stock.made.borrow().len(), 0, "a sandbox is being made");
        drop(way);
        filled(&stock, &ids, 2).await;
        // There is nothing to be done but to wait.
        assert!(stock.keep_filled(Some(&ids)).now_or_never().is_none());
        assert_eq!(stock.made.borrow().len(), 2);

        let taken = [stock.take(), stock.take()].map(|taken| taken.expect("there").ids());
        assert_ne!(taken[0], taken[1], "each has ids of its own");
        assert!(stock.take().is_none());
        filled(&stock, &ids, 2).await;
        let next = stock.take().expect("there").ids();
        assert!(!taken.contains(&next));
    }

    #[tokio::test]
    async fn of_no_size_has_none() {
        let stock = Stock::of(0);
        assert!(stock.keep_filled(None).now_or_never().is_none());
        assert!(stock.take().is_none());
    }
}
