//! The replicas' consensus: openraft between the state (which is pure) and disks and network.
//!
//! | module | owns |
//! |---|---|
//! | [`types`] | openraft's parameters under our names |
//! | [`checks`] | whether all replicas hold the same |
//! | [`codec`] | those types as protobuf, and stored values with their checksum |
//! | [`restore`] | a backup's file becomes the data folder of a new cluster |
//! | [`snapshot`] | a snapshot's folder: manifest, files, reading them in pieces |
//! | [`incoming`] | a snapshot that arrives from another replica |
//! | [`durable`] | files and folders that survive a power cut |
//! | [`replica`] | this replica as a whole: start, stop, and all that others call |
//! | [`formation`] | a cluster's first members |
//! | `identity` | whose data folder it is |
//! | `tuning` | openraft's settings |
//! | `network` | what this replica asks of others: log, votes, snapshots |
//! | `peer` | what it answers to them |
//! | `append` | one replication session |
//! | `transfer` | a snapshot on its way out or in |
//! | `levels` | which format levels the members speak |
//! | `link` | kept connections |
//! | `message` | what replicas say to each other, as protobuf |
//! | `succession` | what follows when the leader's connection breaks off |
//! | [`members`] | replicas taken in, promoted and removed while the cluster runs |
//! | `dismissal` | how a replica learns that it was removed |
//! | `describe` | the cluster as one replica sees it |
//! | `hearing` | when a leader spoke last |
//! | [`leadership`] | who leads, as this replica knows it |
//! | `space` | room on the disk, and what is refused without |
//! | `relief` | another leader where this one's disk has none |
//! | `compaction` | the log kept short in bytes |
//! | [`propose`] | commands into the log, their answers out of it |
//! | [`read`] | how far a replica must have applied the log to show what was acknowledged |
//! | [`log_store`] | the log, the vote and the marks on disk |
//! | `group_commit` | one sync of the disk for all who wait |
//! | [`state_store`] | applying entries, building and installing snapshots |
//! | `stored` | the database and snapshot in use, building one, installing another |
//! | `database` | the applied state on disk |
//! | `state_dir` | which databases and snapshots count |
//! | `instruments` | how long it all takes, for Prometheus |
//! | [`replicated`] | what this replica has applied, for all its readers |
//! | [`history`] | the last changes of it, for who is slow or comes back |
//! | [`error`] | what can go wrong in a store |
//! | `rocks` | RocksDB's settings |

mod append;
pub mod checks;
pub mod codec;
mod compaction;
mod database;
mod describe;
mod dismissal;
pub mod durable;
pub mod error;
pub mod formation;
mod group_commit;
mod hearing;
pub mod history;
mod identity;
pub mod incoming;
mod instruments;
pub mod leadership;
mod levels;
mod link;
pub mod log_store;
pub mod members;
mod message;
mod network;
mod peer;
pub mod propose;
pub mod read;
mod relief;
pub mod replica;
pub mod replicated;
pub mod restore;
mod rocks;
pub mod snapshot;
mod space;
mod state_dir;
pub mod state_store;
mod stored;
mod succession;
mod transfer;
mod tuning;
pub mod types;

#[cfg(test)]
mod tests;

pub use checks::Summed;
pub use error::StoreError;
pub use formation::InitError;
pub use history::{Subscription, TooOld};
pub use identity::IdentityError;
pub(crate) use identity::owner as data_owner;
pub use instruments::Instruments;
pub use leadership::{Leader, Leadership};
pub use levels::Behind;
pub use members::{CatchingUp, MemberError};
pub use propose::ProposeError;
pub use read::ReadError;
pub use replica::{CaptureError, Replica, StartError};
pub use replicated::{ChangeSet, Replicated};
pub use restore::{RestoreError, Restored, restore};
pub use snapshot::{SnapshotError, SnapshotFiles};
pub use space::NearlyFull;
