//! The small commands of `sbxlet` beside the agent itself, one file each.

pub(crate) mod image;
