//! The way to the control plane: any number of replicas behind one handle.
//!
//! | file | owns |
//! |---|---|
//! | `access` | what a client shows of itself, and whom it trusts |
//! | `backup` | the whole state as a stream |
//! | `endpoint` | addresses of replicas, and the connections that are kept to them |
//! | `fault` | what a failed attempt means: go to the leader, try again, or give up |
//! | `members` | replicas taken in and out |
//! | `token` | tokens, made here and told to the cluster by their hashes |
//! | `retry` | the loop over attempts, and its deadline |
//! | `round` | whom to ask next, beside those who have not answered |
//! | `watch` | a stream of changes that outlives its replica |
//! | `follow` | log lines, resumed without loss or doubles |
//! | `converse` | both directions of a stream to something in a sandbox |
//!
//! A write keeps its request id over all attempts, so that it takes effect once. Called by the commands and by
//! the local cluster; prints nothing.

mod access;
mod backup;
mod converse;
mod endpoint;
mod fault;
mod follow;
mod members;
mod retry;
mod round;
mod token;
mod watch;

pub use access::Access;
pub use backup::BackupParts;
pub use converse::{Conversation, Hears, Says};
pub use endpoint::Endpoint;
pub use fault::ClientError;
pub use follow::LogLines;
pub use token::NewToken;
pub use watch::{Change, Watch};

use crate::context;
use endpoint::Channels;
use identity::folder;
use proto::object::Kind;
use proto::policy::{Policy, PolicyChange};
use proto::spec::Manifest;
use proto::wire;
use retry::Route;
use round::Pace;
use std::sync::Mutex;
use std::time::Duration;

/// Objects in one answer of a list: about a megabyte of sandboxes.
const PAGE: u32 = 500;

/// A handle for one cluster. Cheap to make: connections are opened when first used.
pub struct Client {
    servers: Vec<Endpoint>,
    channels: Channels,
    /// Where the last write was accepted.
    leader: Mutex<Option<Endpoint>>,
    /// Where the last read was answered: index into `servers`.
    reader: Mutex<usize>,
    /// How long answers take at present.
    pace: Mutex<Pace>,
    request_timeout: Duration,
    /// Told once per request that has to wait: what is waited for.
    notice: Option<Notice>,
}

/// Tells a person why nothing happens.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

impl Client {
    /// `request_timeout` bounds one request with all its attempts.
    ///
    /// # Errors
    /// [`ClientError::NoServer`] where `servers` is empty.
    pub fn new(
        servers: Vec<Endpoint>,
        access: Access,
        request_timeout: Duration,
    ) -> Result<Self, ClientError> {
        if servers.is_empty() {
            return Err(ClientError::NoServer);
        }
        Ok(Self {
            servers,
            channels: Channels::new(access),
            leader: Mutex::new(None),
            reader: Mutex::new(0),
            pace: Mutex::default(),
            request_timeout,
            notice: None,
        })
    }

    /// For the cluster that a context file names.
    ///
    /// # Errors
    /// [`ClientError`], also where a file can't be read.
    pub fn of(context: &context::File, request_timeout: Duration) -> Result<Self, ClientError> {
        let servers: Result<Vec<Endpoint>, _> = context.servers.iter().map(|server| server.parse()).collect();
        let unreadable = |error: folder::FolderError| ClientError::Authority(error.to_string());
        let authority = context
            .ca
            .as_deref()
            .map(folder::read)
            .transpose()
            .map_err(unreadable)?;
        let token = context
            .token
            .as_deref()
            .map(folder::read_secret)
            .transpose()
            .map_err(unreadable)?;
        let access = match authority {
            Some(authority) => Access::new(Some(&authority), token.as_deref())?,
            None => Access::plain(),
        };
        Self::new(servers?, access, request_timeout)
    }

    /// `notice` is called once for each request that a user has to wait for.
    #[must_use]
    pub fn with_notice(mut self, notice: Notice) -> Self {
        self.notice = Some(notice);
        self
    }

    /// Creates or changes one object, once however often it had to be asked.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn apply(
        &self,
        manifest: &Manifest,
        replace: bool,
    ) -> Result<wire::ApplyResponse, ClientError> {
        let (kind, id) = identity(manifest);
        let request = wire::ApplyRequest {
            request_id: request_id(),
            manifest: Some(manifest.into()),
            replace,
            resource_version: None,
        };
        self.call(
            &format!("apply {}/{id}", kind_name(kind)),
            Route::Leader,
            |mut c| {
                let request = request.clone();
                async move { c.apply(request).await }
            },
        )
        .await
    }

    /// # Errors
    /// [`ClientError`]; [`ClientError::is_not_found`] where there is no such object.
    pub async fn delete(&self, kind: Kind, id: &str, force: bool) -> Result<(), ClientError> {
        let request = wire::DeleteRequest {
            request_id: request_id(),
            kind: wire::Kind::from(kind).into(),
            id: id.to_owned(),
            force,
        };
        self.call(
            &format!("delete {}/{id}", kind_name(kind)),
            Route::Leader,
            |mut c| {
                let request = request.clone();
                async move { c.delete(request).await }
            },
        )
        .await
        .map(|_: wire::DeleteResponse| ())
    }

    /// Cordons a node, with `drain` also empties it within that time, or gives it back to the scheduler.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_not_found`] where there is no such node.
    pub async fn schedule_node(
        &self,
        id: &str,
        unschedulable: bool,
        drain: Option<Duration>,
    ) -> Result<wire::Object, ClientError> {
        let request = wire::ScheduleNodeRequest {
            request_id: request_id(),
            node_id: id.to_owned(),
            unschedulable,
            drain_ms: drain.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        };
        self.call(&format!("schedule node/{id}"), Route::Leader, |mut c| {
            let request = request.clone();
            async move { c.schedule_node(request).await }
        })
        .await
    }

    /// # Errors
    /// [`ClientError`]; [`ClientError::is_not_found`] where there is no such object.
    pub async fn get(&self, kind: Kind, id: &str, stale: bool) -> Result<wire::Object, ClientError> {
        self.look_at(kind, id, stale, false).await
    }

    /// With `events` also what has happened to it.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn look_at(
        &self,
        kind: Kind,
        id: &str,
        stale: bool,
        events: bool,
    ) -> Result<wire::Object, ClientError> {
        let request = wire::GetRequest {
            kind: wire::Kind::from(kind).into(),
            id: id.to_owned(),
            stale,
            events,
        };
        self.call(&format!("get {}/{id}", kind_name(kind)), Route::Any, |mut c| {
            let request = request.clone();
            async move { c.get(request).await }
        })
        .await
    }

    /// All that match, asked for in pages of [`PAGE`]: no answer is so large that it holds up others. The index is the
    /// first page's, from which a watch misses nothing.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn list(&self, request: &wire::ListRequest) -> Result<wire::ListResponse, ClientError> {
        let mut request = wire::ListRequest {
            limit: PAGE,
            ..request.clone()
        };
        let mut all = self.page(&request).await?;
        while !all.cursor.is_empty() {
            request.cursor = std::mem::take(&mut all.cursor);
            let page = self.page(&request).await?;
            all.items.extend(page.items);
            all.cursor = page.cursor;
        }
        Ok(all)
    }

    async fn page(&self, request: &wire::ListRequest) -> Result<wire::ListResponse, ClientError> {
        self.call("list", Route::Any, |mut c| {
            let request = request.clone();
            async move { c.list(request).await }
        })
        .await
    }

    /// # Errors
    /// [`ClientError`]
    pub async fn cluster(&self, stale: bool) -> Result<wire::ClusterResponse, ClientError> {
        self.call("get cluster", Route::Any, |mut c| async move {
            c.cluster(wire::ClusterRequest { stale }).await
        })
        .await
    }

    /// # Errors
    /// [`ClientError`]
    pub async fn policy(&self, stale: bool) -> Result<Policy, ClientError> {
        let policy: wire::Policy = self
            .call("get the policy", Route::Any, |mut c| async move {
                c.get_policy(wire::GetPolicyRequest { stale }).await
            })
            .await?;
        Ok(policy.into())
    }

    /// Changes it, once however often it had to be asked; the policy as it is then.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn set_policy(&self, change: PolicyChange) -> Result<Policy, ClientError> {
        let request = wire::SetPolicyRequest {
            request_id: request_id(),
            change: Some(change.into()),
        };
        let policy: wire::Policy = self
            .call("set the policy", Route::Leader, |mut c| {
                let request = request.clone();
                async move { c.set_policy(request).await }
            })
            .await?;
        Ok(policy.into())
    }

    /// The present state of what matches, then every change, over any number of lost replicas.
    #[must_use]
    pub fn watch(&self, request: wire::WatchRequest) -> Watch<'_> {
        Watch::new(self, request)
    }

    /// What containers have written; `request` with `follow` goes on until the sandbox has ended.
    #[must_use]
    pub fn logs(&self, request: wire::LogsRequest) -> LogLines<'_> {
        LogLines::new(self, request)
    }
}

fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// As it is written in `KIND/ID`.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sandbox => "sandbox",
        Kind::Node => "node",
        Kind::External => "external",
    }
}

/// What a manifest describes.
#[must_use]
pub fn identity(manifest: &Manifest) -> (Kind, &str) {
    match manifest {
        Manifest::Sandbox { id, .. } => (Kind::Sandbox, id.as_str()),
        Manifest::Node { id, .. } => (Kind::Node, id.as_str()),
        Manifest::External { id, .. } => (Kind::External, id.as_str()),
    }
}
