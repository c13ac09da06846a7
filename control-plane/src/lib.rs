//! `sbxorch`, a replica of sandboxd's control plane.

pub mod clock;
pub mod config;
pub mod raft;
pub mod schedule;
pub mod session;
pub mod state;
