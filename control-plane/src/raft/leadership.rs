//! Who leads, as this replica knows it. Owns the notion; never decides it (that is the vote's). Told through
//! a watch by `replica`, heeded by `api` (redirects), `session` and the leader's `controller`.

/// Another replica, or this one, that takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub id: u64,
    /// For users and agents.
    pub endpoint: String,
}

/// Who leads at present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// `None` while an election is going on, or no quorum can be reached.
    pub leader: Option<Leader>,
    /// This replica leads, and its state shows everything that was acknowledged under earlier leaders: it has
    /// applied the first entry of its own term.
    pub is_self: bool,
}
