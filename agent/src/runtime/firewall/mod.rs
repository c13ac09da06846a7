//! The node's firewall for sandboxes: one nftables table whose rules never change; what a sandbox may do is elements
//! of its sets, put there and removed in one transaction.
//!
//! | part | is |
//! |---|---|
//! | [`render`] | what a sandbox may do -> elements (pure) |
//! | [`layout`] | chains and rules of the table (pure) |
//! | [`message`] | elements and layout -> the messages of a transaction (pure) |
//! | `encode`, `decode` | messages -> bytes, listings -> elements (pure) |
//! | `table` | the kernel |
//!
//! Never starts a process, never touches another table. Called by [`super::network`] alone.

pub mod block;
mod connections;
mod decode;
pub mod element;
mod encode;
mod error;
pub mod expression;
pub mod layout;
pub mod message;
pub mod render;
mod rules;
mod table;

pub use error::FirewallError;
pub use rules::Rules;

use element::Element;
use message::Message;
use proto::id::Uid;
use proto::spec::Cidr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use table::Table;

/// The table, and what we know to be in it.
#[derive(Debug)]
pub struct Firewall {
    table: Table,
    subnet: Cidr,
    protected: Vec<Element>,
    held: BTreeMap<Uid, Vec<Element>>,
}

impl Firewall {
    /// Sets up the table of the calling thread's network namespace in one transaction. Elements of the sandboxes
    /// `alive` are kept without a gap, those of others dropped.
    ///
    /// # Errors
    /// [`FirewallError`]; all is as it was then.
    pub fn open(subnet: Cidr, protected: &[Cidr], alive: &BTreeSet<Uid>) -> Result<Self, FirewallError> {
        let mut table = Table::open()?;
        let mut held: BTreeMap<Uid, Vec<Element>> = BTreeMap::new();
        for element in table.elements()? {
            if let Some(uid) = element.uid().filter(|uid| alive.contains(uid)) {
                held.entry(uid).or_default().push(element);
            }
        }
        let mut firewall = Self {
            table,
            subnet,
            protected: render::protected(subnet, protected),
            held,
        };
        firewall.restore()?;
        Ok(firewall)
    }

    /// Opens what the rules say, and nothing else, for the sandbox with this address. Replaces what was open for it.
    ///
    /// # Errors
    /// [`FirewallError`]; all is as it was then.
    pub fn admit(&mut self, uid: Uid, ip: Ipv4Addr, rules: &Rules) -> Result<(), FirewallError> {
        let elements = render::sandbox(uid, ip, rules);
        let former = self.held.get(&uid).into_iter().flatten();
        let mut messages: Vec<Message> = former.copied().map(Message::Remove).collect();
        messages.extend(elements.iter().copied().map(Message::Add));
        self.commit(&messages)?;
        self.held.insert(uid, elements);
        Ok(())
    }

    /// Closes everything for the sandbox and forgets its connections; none there is none to close.
    ///
    /// # Errors
    /// [`FirewallError`]; of connections only where all else is closed.
    pub fn withdraw(&mut self, uid: Uid) -> Result<(), FirewallError> {
        let Some(elements) = self.held.get(&uid) else {
            return Ok(());
        };
        let messages: Vec<Message> = elements.iter().copied().map(Message::Remove).collect();
        let ip = elements.iter().find_map(|element| match element {
            Element::Address { ip, .. } => Some(*ip),
            Element::Egress { .. }
            | Element::Allow { .. }
            | Element::AllowPort { .. }
            | Element::Protected { .. }
            | Element::Port { .. } => None,
        });
        self.commit(&messages)?;
        self.held.remove(&uid);
        match ip {
            Some(ip) => connections::forget(&mut self.table.kernel, uid, ip),
            None => Ok(()),
        }
    }

    /// Replaces the protected addresses beside those that are always protected.
    ///
    /// # Errors
    /// [`FirewallError`]; the former ones stay protected then.
    pub fn protect(&mut self, protected: &[Cidr]) -> Result<(), FirewallError> {
        let elements = render::protected(self.subnet, protected);
        if elements == self.protected {
            return Ok(());
        }
        let mut messages = vec![Message::FlushSet(element::Set::Protected)];
        messages.extend(elements.iter().copied().map(Message::Add));
        self.commit(&messages)?;
        self.protected = elements;
        Ok(())
    }

    /// The sandboxes that the kernel has elements of.
    ///
    /// # Errors
    /// [`FirewallError::List`].
    pub fn uids(&mut self) -> Result<BTreeSet<Uid>, FirewallError> {
        Ok(self.table.elements()?.iter().filter_map(Element::uid).collect())
    }

    /// One transaction. Where another program has removed the table or a part of it, it is restored first: with it
    /// gone nothing is closed.
    fn commit(&mut self, messages: &[Message]) -> Result<(), FirewallError> {
        match self.table.commit(messages) {
            Err(FirewallError::Refused { act, source }) if table::is_absent(&source) => {
                tracing::error!(%act, "the firewall was changed by another program: restoring it");
                self.restore()?;
                self.table.commit(messages)
            }
            result => result,
        }
    }

    /// The whole table as it should be.
    fn restore(&mut self) -> Result<(), FirewallError> {
        let elements = self.protected.iter().chain(self.held.values().flatten());
        self.table.commit(&message::table(elements))
    }
}
