//! What Linux does for a sandbox: its images, files, namespaces, network and processes.

pub mod bundle;
pub mod image;
mod rooted;
pub mod seccomp;
pub mod user;
