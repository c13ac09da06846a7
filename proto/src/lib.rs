//! What crosses a boundary in sandboxd: between processes, to disk, and from a user's manifest.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | the generated protobuf messages and gRPC services, nothing else |
//! | [`id`] | identifiers, valid by construction |
//! | [`units`] | sizes, cpu shares and times |
//! | [`spec`] | what a user wishes: sandboxes, nodes, externals; valid by construction |
//! | [`budget`] | what a sandbox may use at most, the same sum for scheduler and agent |
//! | [`status`] | what became of it |
//! | [`event`] | what has happened to an object, the last few things |
//! | [`manifest`] | YAML or JSON to `spec`, all faults with their paths |
//! | [`image`] | names of images, normalised |
//! | [`policy`] | what a cluster refuses although the manifest is well-formed |
//! | [`document`] | objects as JSON and YAML, for the REST interface and the command line |
//! | [`relay`] | the messages of a conversation between a user and something in a sandbox |
//! | [`backup`] | the form of a backup's file |
//! | [`convert`] | the only file that sees both `wire` and `spec` |
//!
//! Nothing here does I/O or reads a clock.

pub mod backup;
pub mod budget;
pub mod convert;
pub mod document;
pub mod event;
pub mod id;
pub mod image;
pub mod manifest;
pub mod object;
pub mod policy;
pub mod relay;
pub mod spec;
pub mod status;
pub mod units;

/// The generated messages and services of `v1/*.proto`.
#[allow(clippy::all, unreachable_pub, missing_docs)]
pub mod wire {
    tonic::include_proto!("sandboxd.v1");
}

/// The description of `v1/*.proto` itself, as a `FileDescriptorSet`: which services and methods there are.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
