//! The names of what is told of a span, the same from all processes.

/// Of the sandbox, as its manifest has it.
pub const SANDBOX_ID: &str = "sandboxd.sandbox.id";
/// As logs have it.
pub const SANDBOX_UID: &str = "sandboxd.sandbox.uid";
pub const NODE_ID: &str = "sandboxd.node.id";
/// From a sandbox's creation to its placement, in milliseconds.
pub const PENDING_MS: &str = "sandboxd.pending_ms";
/// Why a sandbox has failed, as its status has it.
pub const REASON: &str = "sandboxd.reason";
