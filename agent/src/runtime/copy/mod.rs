//! Copies files into a container and out of it, as tar streams, by a small process of its own, `sbxlet copy`, which
//! sees the container's files as the container does: volumes and tmpfs mounts, limits and read-only mounts included.
//!
//! | file | side | owns |
//! |---|---|---|
//! | `launch` | agent | starting one, and how it has ended |
//! | `inside` | process | becoming the root of a container, and no more |
//! | `work` | process | the copy itself |
//!
//! It is a process, and not a thread of the agent, for three reasons: what it writes to a tmpfs counts in the
//! sandbox's limits, root within a container's user namespace is nobody outside, and it can be killed at any time.
//! It needs nothing of the image, not even `tar`. Called by `session`, and by `main` in the process.

mod inside;
mod launch;
mod work;

pub use launch::{Copy, CopyFault, launch};
pub use work::main;

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Task {
    /// The folder of the sandbox's monitor
    #[arg(long)]
    pub monitor: PathBuf,
    #[arg(long)]
    pub container: String,
    #[arg(long, value_enum)]
    pub direction: Direction,
    /// As the container sees it, absolute
    #[arg(long)]
    pub path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// From standard input into the container
    In,
    /// Out of the container to standard output
    Out,
}
