//! The OCI runtimes, which make a container from a bundle: all behind the one narrow interface that the
//! monitor needs. None of them watches a container or knows of a sandbox: that is the monitor's.
//!
//! | file | owns |
//! |---|---|
//! | `available` | which of them this node has |

mod available;

pub use available::runtimes;
