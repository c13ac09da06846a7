//! What Linux does for a sandbox: its images, files, namespaces, network and processes.

pub mod image;
