//! The agent of a node.

pub mod address;
mod blocking;
pub mod clock;
pub mod config;
mod execute;
pub mod host;
pub mod lease;
pub mod ledger;
pub mod membership;
pub mod node;
mod observe;
pub mod plan;
pub mod reconcile;
pub mod record;
pub mod relay;
pub mod report;
mod reserve;
pub mod run;
pub mod runtime;
mod sandbox;
pub mod sealed;
pub mod session;
mod stock;
mod trace;
pub mod user_ids;
