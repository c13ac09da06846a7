//! `sbxctl dev partition | heal`: what happens to networks.

use super::firewall;
use super::member;
use super::record::{self, Record};
use crate::failure::Failure;
use crate::invocation::Invocation;
use std::path::Path;

/// Cuts the named members off from all others, in both directions. Among themselves they stay connected, and
/// the machine reaches them all.
pub(super) async fn cut(dir: &Path, names: &[String], invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let mut record = Record::load(dir)?;
    let named = member::resolve(&record, names).await?;
    let members = record.plan().members();
    let (inside, outside): (Vec<_>, Vec<_>) = members.iter().partition(|m| named.contains(&m.name));
    if outside.is_empty() {
        return Err(Failure::Usage(
            "these are all members: there is nobody left to be cut off from".to_owned(),
        ));
    }
    let addresses: Vec<_> = outside.iter().map(|m| m.address).collect();
    let others: Vec<String> = outside.iter().map(|m| m.name.clone()).collect();
    for member in inside {
        firewall::cut(&member.netns(), &addresses)?;
        record.cuts.insert(member.name.clone(), others.clone());
        record.save()?;
        invocation.say(format_args!("{} cut off from {}", member.name, others.join(", ")))?;
    }
    Ok(())
}

pub(super) fn heal(dir: &Path, invocation: &mut Invocation) -> Result<(), Failure> {
    let _lock = record::lock(dir)?;
    let mut record = Record::load(dir)?;
    let cut: Vec<String> = record.cuts.keys().cloned().collect();
    for name in cut {
        firewall::heal(&record.member(&name)?.netns())?;
        record.cuts.remove(&name);
        record.save()?;
        invocation.say(format_args!("{name} reconnected"))?;
    }
    Ok(())
}
