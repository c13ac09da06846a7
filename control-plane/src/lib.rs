//! `sbxorch`, a replica of sandboxd's control plane.

pub mod api;
pub mod clock;
pub mod config;
pub mod controller;
pub mod raft;
pub mod schedule;
pub mod serve;
pub mod session;
pub mod state;
