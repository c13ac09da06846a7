//! The replicas' consensus: openraft between the state (which is pure) and disks and network.
//!
//! | module | owns |
//! |---|---|
//! | [`types`] | openraft's parameters under our names |
//! | [`codec`] | those types as protobuf, and stored values with their checksum |
//! | [`snapshot`] | a snapshot's folder: manifest, files, reading them in pieces |
//! | [`incoming`] | a snapshot that arrives from another replica |
//! | [`durable`] | files and folders that survive a power cut |
//! | [`leadership`] | who leads, as this replica knows it |
//! | [`propose`] | commands into the log, their answers out of it |
//! | [`read`] | how far a replica must have applied the log to show what was acknowledged |

pub mod codec;
pub mod durable;
pub mod incoming;
pub mod leadership;
pub mod propose;
pub mod read;
pub mod snapshot;
pub mod types;
