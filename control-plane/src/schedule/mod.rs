//! Which sandbox goes to which node. Pure: [`plan`] sees a [`View`] and a seed, and gives placements and the
//! reasons of what must wait. `apply` checks every placement again.
//!
//! | file | owns |
//! |---|---|
//! | `view` | nodes with what they have left, kept up to date change by change |
//! | `queue` | sandboxes that wait, in their turns |
//! | `score` | which of the nodes that fit is best |
//! | `ports` | host ports of one node |
//! | `images` | which nodes need not pull an image |
//! | `search` | the best node that fits |
//! | `plan` | one round of planning |
//! | `explain` | why a sandbox fits nowhere |
//!
//! Called by the leader's controller, which proposes what comes out.

mod explain;
mod images;
mod plan;
mod ports;
mod queue;
mod score;
mod search;
mod view;

pub use plan::{Plan, plan};
pub use view::View;

/// Where sandboxes go among the nodes that can take them.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// To the one with most left: load is even, and a node that fails takes few along.
    #[default]
    Spread,
    /// To the one with least left: whole nodes stay free, for large sandboxes or to be switched off.
    Binpack,
}

#[cfg(test)]
mod tests;
