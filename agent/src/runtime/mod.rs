//! What Linux does for a sandbox: its images, files, namespaces, network and processes.

pub mod bundle;
pub mod cgroup;
pub mod copy;
pub mod files;
pub mod firewall;
pub mod forward;
pub mod image;
pub mod logs;
pub mod monitor;
pub mod mount;
mod mountinfo;
pub mod namespace;
mod netlink;
pub mod network;
pub mod probe;
pub mod process;
mod rooted;
pub mod seccomp;
pub(crate) mod sys;
pub mod user;
pub mod user_namespace;
