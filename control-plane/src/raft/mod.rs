//! The replicas' consensus: openraft between the state (which is pure) and disks and network.
//!
//! | module | owns |
//! |---|---|
//! | [`types`] | openraft's parameters under our names |
//! | [`codec`] | those types as protobuf, and stored values with their checksum |

pub mod codec;
pub mod types;
