//! What the tests that cross processes stand on.
//!
//! | module | owns |
//! |---|---|
//! | [`image`] | small images that stand in for well-known ones |
//! | [`registry`] | a real registry that has them, one for all tests of a process |
//! | [`cluster`] | a local cluster of real processes, gone when dropped |
//! | [`collector`] | a real receiver of OpenTelemetry spans |
//! | [`traces`] | what sandboxes leave on a machine, so that two moments can be compared |

pub mod cluster;
pub mod collector;
pub mod image;
pub mod registry;
pub mod traces;
