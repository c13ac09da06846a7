//! Which nodes have lately run which images, and so need not pull them again. A hint: an agent may have collected an
//! image since, or may have been given one ahead. Kept by `view` from placements, asked by `search` among nodes that
//! are as good as equal.

use proto::id::NodeId;
use proto::object::Sandbox;
use std::collections::{BTreeMap, VecDeque};

/// Images remembered of a node, the newest last: a node's working set, at a few KiB.
const REMEMBERED: usize = 64;

#[derive(Debug, Clone, Default)]
pub(super) struct Images {
    by_node: BTreeMap<NodeId, VecDeque<String>>,
}

impl Images {
    /// The sandbox was placed there: its images will be.
    pub(super) fn add(&mut self, node: &NodeId, sandbox: &Sandbox) {
        let known = self.by_node.entry(node.clone()).or_default();
        for container in &sandbox.spec.containers {
            let image = container.image.as_str();
            match known.iter().rposition(|known| known == image) {
                Some(at) if at + 1 == known.len() => continue,
                Some(at) => {
                    known.remove(at);
                }
                None => {}
            }
            if known.len() >= REMEMBERED {
                known.pop_front();
            }
            known.push_back(image.to_owned());
        }
    }

    /// Whether the node need pull nothing for it.
    pub(super) fn has_all(&self, node: &NodeId, sandbox: &Sandbox) -> bool {
        self.by_node.get(node).is_some_and(|known| {
            let mut images = sandbox.spec.containers.iter().map(|c| c.image.as_str());
            images.all(|image| known.iter().rev().any(|known| known == image))
        })
    }

    pub(super) fn forget_node(&mut self, node: &NodeId) {
        self.by_node.remove(node);
    }
}
