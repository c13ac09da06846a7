//! The node's firewall for sandboxes.

mod error;
mod rules;

pub use error::FirewallError;
pub use rules::Rules;
