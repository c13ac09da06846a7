//! Which format levels the members speak, and the cluster's level that follows from it: see [`crate::state::level`].
//!
//! Each replica says what it runs with its first answer on every replication stream, and so again whenever it or the
//! leader has started anew. What it has said counts in the leader's term alone. Owns what was said, and the refusal of
//! commands that not all members can apply. Heard by [`super::append`], asked by [`super::propose`],
//! [`super::members`], which raises the level, and [`super::describe`].

use super::leadership::Leadership;
use super::replica::Raft;
use super::replicated::Replicated;
use super::types::TypeConfig;
use crate::state::{Level, level};
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use proto::wire;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The software that this process is, for people.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the members run, as far as this replica knows. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    id: u64,
    own: Level,
    said: Arc<watch::Sender<BTreeMap<u64, Said>>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Said {
    /// In which it was said to this replica, as the leader.
    term: u64,
    software: wire::Software,
}

/// A member that holds a command up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub id: u64,
    /// `None`: it has said nothing to this leader yet.
    pub software: Option<(Level, String)>,
}

impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.id;
        match &self.software {
            Some((level, version)) if version.is_empty() => {
                write!(f, "replica {id} is at {level}, upgrade it")
            }
            Some((level, version)) => write!(f, "replica {id} is at {level} (version {version}), upgrade it"),
            None => write!(f, "replica {id} has not said yet what it is at"),
        }
    }
}

impl Levels {
    pub(super) fn new(id: u64, own: Level) -> Self {
        Self {
            id,
            own,
            said: Arc::new(watch::Sender::default()),
        }
    }

    /// What this replica speaks.
    pub(super) fn own(&self) -> Level {
        self.own
    }

    /// What this replica says of itself.
    pub(super) fn software(&self) -> wire::Software {
        wire::Software {
            level: self.own.0,
            version: VERSION.to_owned(),
        }
    }

    /// Replica `id` has said it to the leader of `term`. One from before there were levels says nothing.
    pub(super) fn hear(&self, id: u64, term: u64, software: Option<wire::Software>) {
        let said = Said {
            term,
            software: software.unwrap_or_default(),
        };
        self.said.send_if_modified(|all| {
            let is_news = all
                .get(&id)
                .is_none_or(|before| *before != said && before.term <= term);
            if is_news {
                all.insert(id, said);
            }
            is_news
        });
    }

    /// Changes with what is said.
    pub(super) fn heard(&self) -> watch::Receiver<impl Sized + use<>> {
        self.said.subscribe()
    }

    /// What a member runs; `None`: not known in this term.
    pub(super) fn of(&self, id: u64, term: u64) -> Option<wire::Software> {
        if id == self.id {
            return Some(self.software());
        }
        let said = self.said.borrow();
        let said = said.get(&id).filter(|said| said.term == term)?;
        Some(said.software.clone())
    }

    /// All members, voters and learners, with what they speak.
    fn members(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<Behind> {
        let nodes = metrics.membership_config.membership().nodes();
        let member = |id| Behind {
            id,
            software: self
                .of(id, metrics.current_term)
                .map(|software| (Level(software.level), software.version)),
        };
        nodes.map(|(&id, _)| member(id)).collect()
    }

    /// What the cluster's level is to be raised to, where this replica leads.
    pub(super) fn raised(&self, raft: &Raft, replicated: &Replicated) -> Option<Level> {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if !Leadership::of(&metrics).is_self {
            return None;
        }
        let members = self.members(&metrics);
        let levels = members
            .into_iter()
            .map(|member| member.software.map(|(level, _)| level));
        level::raised(replicated.read().level(), levels)
    }

    /// Who does not speak the level.
    pub(super) fn behind(&self, raft: &Raft, needed: Level) -> Vec<Behind> {
        let mut members = self.members(&raft.metrics().borrow_watched());
        members.retain(|member| member.software.as_ref().is_none_or(|(level, _)| *level < needed));
        members
    }
}
