//! Which sandbox goes to which node. Pure: [`plan`] sees a [`View`] and a seed, and gives placements and the
//! reasons of what must wait. `apply` checks every placement again.
//!
//! | file | owns |
//! |---|---|
//! | `view` | nodes with what they have left, kept up to date change by change |
//! | `queue` | sandboxes that wait, in their turns |
//! | `score` | which of the nodes that fit is best |
//! | `ports` | host ports of one node |
//! | `search` | the best node that fits |
//! | `plan` | one round of planning |
//! | `explain` | why a sandbox fits nowhere |
//!
//! Called by the leader's controller, which proposes what comes out.

mod explain;
mod plan;
mod ports;
mod queue;
mod score;
mod search;
mod view;

pub use plan::{Plan, plan};
pub use view::View;

#[cfg(test)]
mod tests;
