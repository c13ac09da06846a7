//! The agent of a node.

pub mod runtime;
