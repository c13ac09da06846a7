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
//! | [`log_store`] | the log, the vote and the marks on disk |
//! | `group_commit` | one sync of the disk for all who wait |
//! | [`state_store`] | applying entries, building and installing snapshots |
//! | `database` | the applied state on disk |
//! | `state_dir` | which databases and snapshots count |
//! | [`replicated`] | what this replica has applied, for all its readers |
//! | [`error`] | what can go wrong in a store |
//! | `rocks` | RocksDB's settings |

pub mod codec;
mod database;
pub mod durable;
pub mod error;
mod group_commit;
pub mod incoming;
pub mod leadership;
pub mod log_store;
pub mod propose;
pub mod read;
pub mod replicated;
mod rocks;
pub mod snapshot;
mod state_dir;
pub mod state_store;
pub mod types;
