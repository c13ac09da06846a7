//! Which sandbox goes to which node. Pure: [`plan`] sees a [`View`] and a seed, and gives placements and the
//! reasons of what must wait. `apply` checks every placement again.
//!
//! | file | owns |
//! |---|---|
//! | `view` | nodes with what they have left, sandboxes that wait; kept up to date change by change |
//! | `score` | which of the nodes that fit is best |
//! | `ports` | host ports of one node |
//! | `plan` | one round of planning |
//!
//! Called by the leader's controller, which proposes what comes out.

mod plan;
mod ports;
mod score;
mod view;

pub use plan::{Plan, plan};
pub use view::View;

#[cfg(test)]
mod tests;
