//! Work that blocks, such as mounting and syncing, off the threads that serve everything else. Called by
//! whatever is async and calls something that is not.

/// Runs `work` to its end, also where nobody waits for it any more: half of a mount is worse than one too many.
/// A panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // It was never begun: the process is about to end.
            Err(_) => std::future::pending().await,
        },
    }
}
