//! What Linux does for a sandbox: its images, files, namespaces, network and processes.

pub mod bundle;
pub mod cgroup;
pub mod files;
pub mod image;
pub mod logs;
pub mod mount;
mod mountinfo;
mod rooted;
pub mod seccomp;
pub(crate) mod sys;
pub mod user;
