//! What all that is measured has in common: it starts a web server and takes it away again.

use crate::error::BenchError;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one start took.
#[derive(Debug, Clone, Default)]
pub(super) struct Started {
    /// From the request to the first HTTP 200.
    pub(super) answered: Duration,
    /// Parts of it, and other times that are known of it, by name.
    pub(super) stages: BTreeMap<String, Duration>,
}

pub(super) trait Contender {
    /// Starts the server of this number, and returns when it answers.
    async fn start(&self, number: u32) -> Result<Started, BenchError>;

    /// Takes it away; how long it took until nothing is left.
    async fn end(&self, number: u32) -> Result<Duration, BenchError>;
}
