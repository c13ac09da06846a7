//! The agent of a node.

pub mod clock;
pub mod lease;
pub mod ledger;
pub mod report;
pub mod runtime;
pub mod sealed;
