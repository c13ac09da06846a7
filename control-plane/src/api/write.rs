//! What shall change: checked before it is proposed, so that the log holds nothing that a user could have been told at
//! once; but for the policy, which is part of the state.

use super::{Api, Fault};
use crate::access::{Caller, audit};
use crate::admission::Client;
use crate::clock;
use crate::trace::Trace;
use proto::object::Kind;
use proto::policy::{Policy, PolicyChange};
use proto::spec::Manifest;
use proto::wire::{self, command::Op};

/// How an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Created, or changed where its rules allow it.
    Apply,
    /// Deleted and created again where they don't.
    Replace,
    /// Only where the object still has this resource version; 0: where there is none.
    Expecting(u64),
}

impl Api {
    /// Creates or changes one object.
    ///
    /// # Errors
    /// [`Fault`]; nothing was proposed where the request itself is at fault.
    pub async fn apply(
        &self,
        caller: &Caller,
        request_id: String,
        manifest: wire::Manifest,
        write: Write,
    ) -> Result<wire::Accepted, Fault> {
        let what = described(&manifest);
        let applied = self.apply_checked(caller, request_id, manifest, write).await;
        audit::note(caller, "apply", &what, &applied);
        applied
    }

    async fn apply_checked(
        &self,
        caller: &Caller,
        request_id: String,
        manifest: wire::Manifest,
        write: Write,
    ) -> Result<wire::Accepted, Fault> {
        check_request_id(&request_id)?;
        let manifest = Manifest::try_from(manifest)?;
        let trace = Trace::current();
        let op = Op::Apply(wire::ApplyObject {
            manifest: Some((&manifest).into()),
            replace: write == Write::Replace,
            expected_version: match write {
                Write::Apply | Write::Replace => None,
                Write::Expecting(version) => Some(version),
            },
            trace_id: trace.map(|trace| trace.id().to_string()).unwrap_or_default(),
        });
        let proposed = clock::instant();
        let accepted = self.propose(caller, request_id, op).await?;
        if let Some(trace) = trace.filter(|_| self.exporter.is_on()) {
            self.exporter
                .record(trace.applied(&accepted, proposed, clock::instant()));
        }
        Ok(accepted)
    }

    /// Deletes one object; a sandbox on a node is Deleting until the node has cleared it away.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn delete(
        &self,
        caller: &Caller,
        request_id: String,
        kind: Kind,
        id: String,
        force: bool,
    ) -> Result<wire::Accepted, Fault> {
        let what = format!("{}/{id}", name(kind));
        let deleted = async {
            check_request_id(&request_id)?;
            let kind = wire::Kind::from(kind).into();
            let op = Op::Delete(wire::DeleteObject { kind, id, force });
            self.propose(caller, request_id, op).await
        };
        let deleted = deleted.await;
        audit::note(caller, "delete", &what, &deleted);
        deleted
    }

    /// Cordons, drains or uncordons a node.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn schedule_node(
        &self,
        caller: &Caller,
        request: wire::ScheduleNodeRequest,
    ) -> Result<wire::Object, Fault> {
        let what = format!("node/{}", request.node_id);
        let act = match (request.unschedulable, request.drain_ms) {
            (false, _) => "uncordon",
            (true, None) => "cordon",
            (true, Some(_)) => "drain",
        };
        let scheduled = self.schedule(caller, request).await;
        audit::note(caller, act, &what, &scheduled);
        scheduled
    }

    async fn schedule(
        &self,
        caller: &Caller,
        request: wire::ScheduleNodeRequest,
    ) -> Result<wire::Object, Fault> {
        check_request_id(&request.request_id)?;
        if request.drain_ms.is_some() && !request.unschedulable {
            return Err(Fault::Invalid(
                "drain_ms: only an unschedulable node is drained".to_owned(),
            ));
        }
        let op = Op::ScheduleNode(wire::ScheduleNode {
            node_id: request.node_id,
            unschedulable: request.unschedulable,
            drain_ms: request.drain_ms,
        });
        let accepted = self.propose(caller, request.request_id, op).await?;
        accepted
            .object
            .ok_or(Fault::Invalid("the node was deleted meanwhile".to_owned()))
    }

    /// Changes what sandboxes may loosen; the policy as it is then.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn set_policy(
        &self,
        caller: &Caller,
        request_id: String,
        change: PolicyChange,
    ) -> Result<Policy, Fault> {
        let set = async {
            check_request_id(&request_id)?;
            self.propose(caller, request_id, Op::SetPolicy(change.into()))
                .await
        };
        let set = set.await;
        audit::note(caller, "set", "policy", &set);
        set?;
        // Accepted is applied.
        Ok(self.replica.replicated().read().policy())
    }

    /// What sandboxes may loosen.
    ///
    /// # Errors
    /// [`Fault::Read`] unless `stale`.
    pub async fn policy(&self, stale: bool) -> Result<Policy, Fault> {
        if !stale {
            self.replica.linearize().await?;
        }
        Ok(self.replica.replicated().read().policy())
    }

    async fn propose(&self, caller: &Caller, request_id: String, op: Op) -> Result<wire::Accepted, Fault> {
        let leader = self.leadership().leader;
        if leader
            .as_ref()
            .is_some_and(|leader| leader.id != self.replica.id())
        {
            // It has the turns.
            return Err(Fault::NotLeader(leader));
        }
        let creating = self.creates(&op);
        let _place = self.admission.enter(&Client::of(caller), creating).await?;
        let command = wire::Command {
            request_id,
            op: Some(op),
        };
        let mut accepted = self.replica.propose(command).await?;
        if let Some(object) = &mut accepted.object {
            self.fill_in(std::slice::from_mut(object));
        }
        Ok(accepted)
    }
}

impl Api {
    /// Whether it makes a sandbox, as far as can be told before.
    fn creates(&self, op: &Op) -> bool {
        let Op::Apply(apply) = op else { return false };
        let Some(manifest) = &apply.manifest else {
            return false;
        };
        let Some(wire::manifest::Spec::Sandbox(_)) = &manifest.spec else {
            return false;
        };
        let state = self.replica.replicated().read();
        apply.replace || manifest.id.parse().is_ok_and(|id| state.sandbox(&id).is_none())
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sandbox => "sandbox",
        Kind::Node => "node",
        Kind::External => "external",
    }
}

/// What a manifest is about, for the audit: before it is known to be good.
fn described(manifest: &wire::Manifest) -> String {
    use wire::manifest::Spec;
    let kind = match &manifest.spec {
        Some(Spec::Sandbox(_)) => name(Kind::Sandbox),
        Some(Spec::Node(_)) => name(Kind::Node),
        Some(Spec::External(_)) => name(Kind::External),
        None => "nothing",
    };
    format!("{kind}/{}", manifest.id)
}

/// # Errors
/// [`Fault::RequestId`]
pub(crate) fn check_request_id(id: &str) -> Result<(), Fault> {
    match uuid::Uuid::try_parse(id) {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::RequestId(id.to_owned())),
    }
}
