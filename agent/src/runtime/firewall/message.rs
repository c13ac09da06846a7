//! What is said to the kernel's firewall: one message a change, many messages a transaction. Pure.

use super::element::{Element, Set};
use super::expression::Expression;
use super::layout::{Chain, TABLE};
use std::fmt;

/// Who may change the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Every program with the right to change firewalls.
    Shared,
    /// Nobody but the socket that made it, as long as that is open: `nft flush ruleset` leaves it as it is. The table
    /// outlives the socket, and the next one takes it over. Linux 6.9 and later.
    Exclusive,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Makes what is not there; leaves what is.
    Table(Hold),
    /// With all that is in it.
    RemoveTable,
    Set(Set),
    Chain(Chain),
    /// Empties.
    FlushSet(Set),
    FlushChain(Chain),
    Rule(Chain, Vec<Expression>),
    /// Refused where its key is there already.
    Add(Element),
    /// Refused where it is not there.
    Remove(Element),
}

/// Follows on "the firewall cannot".
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(_) => write!(f, "make table inet {TABLE}"),
            Self::RemoveTable => write!(f, "remove table inet {TABLE}"),
            Self::Set(set) => write!(f, "make set {}", set.name()),
            Self::Chain(chain) => write!(f, "make chain {}", chain.name()),
            Self::FlushSet(set) => write!(f, "empty set {}", set.name()),
            Self::FlushChain(chain) => write!(f, "empty chain {}", chain.name()),
            Self::Rule(chain, _) => write!(f, "add a rule to chain {}", chain.name()),
            Self::Add(element) => write!(f, "add {element} to {}", element.set().name()),
            Self::Remove(element) => write!(f, "remove {element} from {}", element.set().name()),
        }
    }
}

/// The whole table as it should be, with these elements and no others.
#[must_use]
pub fn table<'a>(hold: Hold, elements: impl IntoIterator<Item = &'a Element>) -> Vec<Message> {
    let mut messages = vec![Message::Table(hold)];
    messages.extend(Set::ALL.map(Message::Set));
    messages.extend(Chain::ALL.map(Message::Chain));
    messages.extend(Chain::ALL.map(Message::FlushChain));
    messages.extend(Set::ALL.map(Message::FlushSet));
    for chain in Chain::ALL {
        messages.extend(chain.rules().into_iter().map(|rule| Message::Rule(chain, rule)));
    }
    messages.extend(elements.into_iter().copied().map(Message::Add));
    messages
}
