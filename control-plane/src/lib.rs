//! `sbxorch`, a replica of sandboxd's control plane.

pub mod access;
pub mod admission;
pub mod api;
pub mod clock;
pub mod config;
pub mod controller;
pub mod joining;
pub mod listen;
pub mod metrics;
pub mod raft;
pub mod schedule;
pub mod security;
pub mod serve;
pub mod session;
pub mod state;
pub mod trace;
