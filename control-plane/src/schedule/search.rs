//! Finds the best node that fits. Nodes that can never take a sandbox for its selector or runtime are looked at once
//! in a round, not once for every sandbox of that kind. Called by `plan`.

use super::plan::misfit;
use super::score::Score;
use super::view::{Free, View};
use crate::state::placement;
use proto::budget::Demand;
use proto::id::NodeId;
use proto::object::Sandbox;
use proto::spec::{Labels, Runtime};
use std::collections::BTreeMap;

/// Classes whose nodes are kept apart in a round; each costs a look at every node and an update for every placement.
/// Past that many, a search goes through all nodes.
const MAX_CLASSES: usize = 32;

/// Nodes that are looked at for one with the image, among those that are as good as the best.
const LOOKS_FOR_IMAGE: usize = 32;

/// What decides over a node whatever else is placed there.
type Class = (Labels, Option<Runtime>);

/// The searches of one round, within which nothing but placements changes.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Of a class that was searched for before: its nodes, best last. `None`: once so far, in the order of all.
    classes: BTreeMap<Class, Option<BTreeMap<Score, Free>>>,
}

impl Search {
    /// The best node that fits, by `view` as it is now.
    pub(super) fn best(&mut self, view: &View, sandbox: &Sandbox, need: Demand) -> Option<NodeId> {
        let spec = &sandbox.spec;
        if spec.node_selector.is_empty() && spec.runtime.is_none() {
            return first_that_fits(&view.by_score, view, sandbox, need);
        }
        let class = (spec.node_selector.clone(), spec.runtime);
        match self.classes.get_mut(&class) {
            None => {
                if self.classes.len() < MAX_CLASSES {
                    self.classes.insert(class, None);
                }
                first_that_fits(&view.by_score, view, sandbox, need)
            }
            Some(nodes) => {
                let nodes = nodes.get_or_insert_with(|| nodes_of_its_class(view, sandbox));
                first_that_fits(nodes, view, sandbox, need)
            }
        }
    }

    /// A node has less left than before.
    pub(super) fn moved(&mut self, before: &Score, after: &Score, free: Free) {
        for nodes in self.classes.values_mut().flatten() {
            if nodes.remove(before).is_some() {
                nodes.insert(after.clone(), free);
            }
        }
    }
}

fn nodes_of_its_class(view: &View, sandbox: &Sandbox) -> BTreeMap<Score, Free> {
    let suits = |score: &Score| {
        let node = view.nodes.get(score.node()).and_then(|view| view.node.as_deref());
        node.is_some_and(|node| placement::suits(node, sandbox).is_ok())
    };
    let all = view.by_score.iter().filter(|(score, _)| suits(score));
    all.map(|(score, free)| (score.clone(), *free)).collect()
}

/// Another than those that have failed it, where there is one: it is the node's failure, not the sandbox's.
fn first_that_fits(
    nodes: &BTreeMap<Score, Free>,
    view: &View,
    sandbox: &Sandbox,
    need: Demand,
) -> Option<NodeId> {
    let earlier = &sandbox.status.earlier_placements;
    let failed_it = |id: &NodeId| earlier.iter().any(|earlier| earlier.node_name == *id);
    let another = best_of(
        fitting(nodes, view, sandbox, need).filter(|s| !failed_it(s.node())),
        view,
        sandbox,
    );
    match another {
        None if !earlier.is_empty() => best_of(fitting(nodes, view, sandbox, need), view, sandbox),
        another => another,
    }
}

/// Best first. Room is checked first: it is at hand, the node is not.
fn fitting<'a>(
    nodes: &'a BTreeMap<Score, Free>,
    view: &'a View,
    sandbox: &'a Sandbox,
    need: Demand,
) -> impl Iterator<Item = &'a Score> {
    let roomy = nodes
        .iter()
        .rev()
        .filter(move |(_, free)| placement::fits(need, **free).is_ok());
    roomy.map(|(score, _)| score).filter(move |score| {
        let node = view.nodes.get(score.node());
        node.is_some_and(|node| misfit(node, sandbox, need).is_none())
    })
}

/// The first, or one as good that has the images.
fn best_of<'a>(
    mut fitting: impl Iterator<Item = &'a Score>,
    view: &View,
    sandbox: &Sandbox,
) -> Option<NodeId> {
    let best = fitting.next()?;
    if view.images.has_all(best.node(), sandbox) {
        return Some(best.node().clone());
    }
    let mut equals = fitting
        .take_while(|score| score.is_near(best))
        .take(LOOKS_FOR_IMAGE);
    let with_images = equals.find(|score| view.images.has_all(score.node(), sandbox));
    Some(with_images.unwrap_or(best).node().clone())
}
