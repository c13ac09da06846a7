//! The monitor of a sandbox: a small process of its own, shown as `sbxlet monitor`, that creates the containers, keeps
//! their output and exit codes, and ends the sandbox by its rules. It outlives the agent, which finds it again.
//!
//! | file | side | owns |
//! |---|---|---|
//! | `launch` | agent | starting one |
//! | `nursery` | agent | the process that monitors come from |
//! | `request` | both | what is said to the nursery |
//! | `title` | monitor | what `ps` shows of it |
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
mod nursery;
mod request;
mod socket;
mod state;
mod supervise;
mod title;
mod watch;

pub use attach::attach;
pub use error::MonitorError;
pub use guest::{Guest, GuestEnd, attach_to, exec};
pub use launch::{Launch, launch};
pub use nursery::Nursery;
pub use supervise::nursery as nursery_main;
pub use watch::Monitor;

pub(crate) use files::read_spec;
pub(crate) use socket::receive;
