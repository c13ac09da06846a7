//! What this replica tells Prometheus: `GET /metrics`, in the OpenMetrics text format.
//!
//! | file | owns |
//! |---|---|
//! | `requests` | how many requests were answered, how, and how fast |
//! | `replica` | what is read when it is asked for: consensus, objects, sessions, disks |
//! | `process` | what the kernel knows of this process |
//!
//! What takes time is measured where it is done: `raft` and `controller` have instruments of their own, which are
//! registered here. Every name is in docs/operations.md, as a test makes sure. Called by `serve` and `api::rest`.

mod process;
mod replica;
mod requests;

pub use requests::{Requests, observe};

use crate::api::Api;
use crate::controller;
use crate::raft::Replica;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// As Prometheus asks for it, and takes it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is measured of one replica. Clones share.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Requests,
}

impl Metrics {
    #[must_use]
    pub fn new(data_dir: PathBuf, replica: &Replica, api: &Api, scheduler: &controller::Instruments) -> Self {
        let mut registry = Registry::default();
        // By the names that every program has for it.
        registry.register_collector(Box::new(process::Process));
        let own = registry.sub_registry_with_prefix("sandboxd");
        let requests = Requests::default();
        requests.register(own);
        replica.instruments().register(own);
        scheduler.register(own);
        api.admission().register(own);
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        own.register("build_info", "Always 1; the version is in the label", build);
        own.register_collector(Box::new(replica::Collected {
            data_dir,
            replica: replica.clone(),
            api: api.clone(),
        }));
        Self {
            registry: Arc::new(registry),
            requests,
        }
    }

    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// All of it as text. Reads files and the whole state: not for an async thread.
    ///
    /// # Errors
    /// Never, as a `String` takes everything.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
