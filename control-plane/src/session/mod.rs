//! The agents' side of the leader: one stream per agent, desired states out, heartbeats and reports in.

mod liveness;

pub use liveness::Liveness;
