//! An image that somebody waits for: a future of it, with a view of how far it is. Made by [`super::ImageStore::fetch`].

use super::progress::Progress;
use super::{Image, ImageError};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;

/// When a registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Where no image of this name is on the node.
    IfMissing,
    /// Also where one is: it may have a newer one.
    Always,
}

/// A wish for an image, under way while it is polled: a future of the image.
pub struct Pull {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) image: PullWork,
}

pub(super) enum PullWork {
    Present(Option<Arc<Image>>),
    Shared(Shared<BoxFuture<'static, Result<Arc<Image>, ImageError>>>),
}

impl Pull {
    /// Whether there is anything to wait for.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self.image, PullWork::Shared(_))
    }

    /// How far it is, now and with every change; changes come some four times a second at most.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl Future for Pull {
    type Output = Result<Arc<Image>, ImageError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.image {
            PullWork::Present(image) => match image.take() {
                Some(image) => Poll::Ready(Ok(image)),
                None => Poll::Pending,
            },
            PullWork::Shared(work) => work.poll_unpin(context),
        }
    }
}
