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
//! | `watch` | what other programs do to the table |
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
mod watch;

pub use error::FirewallError;
pub use rules::Rules;

use element::Element;
use message::{Hold, Message};
use proto::id::Uid;
use proto::spec::Cidr;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use table::Table;
use watch::Watch;

/// The table, and what we know to be in it.
#[derive(Debug)]
pub struct Firewall {
    table: Table,
    hold: Hold,
    /// Where the kernel lets other programs change the table.
    watch: Option<Watch>,
    subnet: Cidr,
    protected: Vec<Element>,
    held: BTreeMap<Uid, Vec<Element>>,
}

impl Firewall {
    /// Sets up the table of the calling thread's network namespace in one transaction. Elements of the sandboxes
    /// `alive` are kept without a gap, those of others dropped. Where the kernel can, nobody else changes the table from
    /// then on.
    ///
    /// # Errors
    /// [`FirewallError`]; all is as it was then.
    pub fn open(subnet: Cidr, protected: &[Cidr], alive: &BTreeSet<Uid>) -> Result<Self, FirewallError> {
        let mut firewall = Self::read(subnet, protected, alive)?;
        if !firewall.take()? {
            firewall.share()?;
        }
        Ok(firewall)
    }

    /// The same as on a kernel that can't keep others from the table.
    ///
    /// # Errors
    /// [`FirewallError`]; all is as it was then.
    #[cfg(test)]
    pub(super) fn open_shared(
        subnet: Cidr,
        protected: &[Cidr],
        alive: &BTreeSet<Uid>,
    ) -> Result<Self, FirewallError> {
        let mut firewall = Self::read(subnet, protected, alive)?;
        firewall.share()?;
        Ok(firewall)
    }

    fn read(subnet: Cidr, protected: &[Cidr], alive: &BTreeSet<Uid>) -> Result<Self, FirewallError> {
        let mut table = Table::open()?;
        let mut held: BTreeMap<Uid, Vec<Element>> = BTreeMap::new();
        for element in table.elements()? {
            if let Some(uid) = element.uid().filter(|uid| alive.contains(uid)) {
                held.entry(uid).or_default().push(element);
            }
        }
        Ok(Self {
            table,
            hold: Hold::Exclusive,
            watch: None,
            subnet,
            protected: render::protected(subnet, protected),
            held,
        })
    }

    /// Makes the table ours alone; whether the kernel can do that.
    fn take(&mut self) -> Result<bool, FirewallError> {
        let Err(refused) = self.restore() else {
            return Ok(true);
        };
        match refused {
            FirewallError::Refused { source, .. } if table::is_held(&source) => Err(FirewallError::Taken),
            FirewallError::Refused { source, .. } if table::is_unsupported(&source) => {
                // One that was everybody's can't become ours: another takes its place, in the same moment.
                let mut anew = vec![Message::RemoveTable];
                anew.extend(self.whole());
                match self.table.commit(&anew) {
                    Ok(()) => Ok(true),
                    Err(FirewallError::Refused { source, .. })
                        if table::is_absent(&source) || table::is_unsupported(&source) =>
                    {
                        Ok(false)
                    }
                    Err(error) => Err(error),
                }
            }
            error => Err(error),
        }
    }

    /// Others may change the table: sees to it that we learn of that.
    fn share(&mut self) -> Result<(), FirewallError> {
        self.hold = Hold::Shared;
        self.watch = Some(Watch::open()?);
        self.restore()
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
        let ip = address_among(elements);
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

    /// Readable when [`Self::defend`] may have something to do; `None` where the kernel keeps others from the table.
    #[must_use]
    pub fn changes(&self) -> Option<io::Result<OwnedFd>> {
        self.watch.as_ref().map(Watch::readiness)
    }

    /// Puts the table back where another program has changed it, or where that is `in_doubt`, and cuts what was connected
    /// meanwhile: known connections pass.
    ///
    /// # Errors
    /// [`FirewallError`]; it is in doubt then.
    pub fn defend(&mut self, in_doubt: bool) -> Result<(), FirewallError> {
        let own = self.table.kernel.port().map_err(FirewallError::Watch)?;
        let changed = match &mut self.watch {
            Some(watch) => watch.others_changed(own)?,
            None => false,
        };
        if changed {
            tracing::error!("the firewall was changed by another program: restoring it");
        }
        if changed || in_doubt {
            self.close_again()?;
        }
        Ok(())
    }

    fn close_again(&mut self) -> Result<(), FirewallError> {
        self.restore()?;
        for (uid, elements) in &self.held {
            if let Some(ip) = address_among(elements) {
                connections::forget(&mut self.table.kernel, *uid, ip)?;
            }
        }
        Ok(())
    }

    /// One transaction. Where another program has removed the table or a part of it, it is restored first: with it
    /// gone nothing is closed.
    fn commit(&mut self, messages: &[Message]) -> Result<(), FirewallError> {
        match self.table.commit(messages) {
            Err(FirewallError::Refused { act, source }) if table::is_absent(&source) => {
                tracing::error!(%act, "the firewall was changed by another program: restoring it");
                self.close_again()?;
                self.table.commit(messages)
            }
            result => result,
        }
    }

    fn restore(&mut self) -> Result<(), FirewallError> {
        let whole = self.whole();
        self.table.commit(&whole)
    }

    /// The whole table as it should be.
    fn whole(&self) -> Vec<Message> {
        let elements = self.protected.iter().chain(self.held.values().flatten());
        message::table(self.hold, elements)
    }
}

fn address_among(elements: &[Element]) -> Option<Ipv4Addr> {
    elements.iter().find_map(|element| match element {
        Element::Address { ip, .. } => Some(*ip),
        Element::Egress { .. }
        | Element::Allow { .. }
        | Element::AllowPort { .. }
        | Element::Protected { .. }
        | Element::Port { .. } => None,
    })
}
