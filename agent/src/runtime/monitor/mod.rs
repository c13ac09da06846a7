//! The monitor of a sandbox: a small process of its own, `sbxlet monitor`, that creates the containers, keeps
//! their output and exit codes, and ends the sandbox by its rules. It outlives the agent, which finds it again.
//!
//! | file | side | owns |
//! |---|---|---|
//! | `launch` | agent | starting one |
//! | `attach` | agent | finding one again, or what it has left |
//! | `watch` | agent | its states and the commands to it |
//! | `guest` | agent | a process beside a container's program, and seeing what a container writes |
//! | `state` | agent | what is said of one that does not speak |
//! | `files` | both | what is in its folder |
//! | `socket` | both | packets |
//! | `identity` | both | which process it is |
//! | `supervise` | monitor | all that the process does |
//!
//! The agent's side is async, the monitor's is one thread without tokio. Called by `execute` and `reconcile`;
//! the messages are those of `proto/v1/monitor.proto`.

mod attach;
mod error;
mod files;
mod guest;
mod identity;
mod launch;
mod socket;
mod state;
mod supervise;
mod watch;

pub use attach::attach;
pub use error::MonitorError;
pub use guest::{Guest, GuestEnd, attach_to, exec};
pub use launch::{Launch, launch};
pub use supervise::main;
pub use watch::Monitor;

pub(crate) use files::read_spec;
pub(crate) use socket::receive;
