//! Whole replicas: real stores in folders of their own, real gRPC on loopback.

mod cluster;
mod compaction;
mod failover;
mod formation;
mod lag;
mod levels;
mod load;
mod members;
mod transfer;

use cluster::{Cluster, external, external_id, has};
