//! The users' service.

use super::status::status;
use super::{Streamed, caller};
use crate::access::Caller;
use crate::api::{Api, Fault, Lines, Mark, Query, Talk, Write};
use proto::convert::ConvertError;
use proto::object::Kind;
use proto::relay::Input;
use proto::status::Phase;
use proto::wire::{self, control_server::Control};
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

/// Said together with the request; nobody waits for one that stays silent.
const OPENING: Duration = Duration::from_secs(10);

pub(super) struct ControlService(pub(super) Api);

type Answer<T> = Result<Response<T>, Status>;

fn kind(value: i32) -> Result<Kind, Fault> {
    let unknown = |_| ConvertError::Unknown { field: "kind", value };
    Ok(wire::Kind::try_from(value).map_err(unknown)?.try_into()?)
}

/// Unspecified: every phase.
fn phase(value: i32) -> Result<Option<Phase>, Fault> {
    let unknown = |_| ConvertError::Unknown {
        field: "phase",
        value,
    };
    match wire::Phase::try_from(value).map_err(unknown)? {
        wire::Phase::Unspecified => Ok(None),
        phase => Ok(Some(phase.try_into()?)),
    }
}

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    result.map(Response::new).map_err(|fault| status(&fault))
}

impl ControlService {
    async fn apply(
        &self,
        caller: &Caller,
        request: wire::ApplyRequest,
    ) -> Result<wire::ApplyResponse, Fault> {
        let manifest = request
            .manifest
            .ok_or(ConvertError::Missing { field: "manifest" })?;
        let write = match (request.replace, request.resource_version) {
            (false, None) => Write::Apply,
            (true, None) => Write::Replace,
            (false, Some(version)) => Write::Expecting(version),
            (true, Some(_)) => {
                return Err(Fault::Invalid(
                    "resource_version: what is replaced is deleted, whatever version it has; leave out one of the two"
                        .to_owned(),
                ));
            }
        };
        let accepted = self.0.apply(caller, request.request_id, manifest, write).await?;
        Ok(wire::ApplyResponse {
            outcome: accepted.outcome,
            object: accepted.object,
        })
    }

    async fn list(&self, request: wire::ListRequest) -> Result<wire::ListResponse, Fault> {
        let query = Query {
            labels: request.labels,
            phase: phase(request.phase)?,
            events: request.events,
            ..Query::all(kind(request.kind)?)
        };
        let limit = match request.limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let after = (!request.cursor.is_empty()).then_some(&*request.cursor);
        let page = self.0.page(&query, after, limit, request.stale).await?;
        Ok(wire::ListResponse {
            items: page.objects,
            index: page.index,
            cursor: page.next.unwrap_or_default(),
        })
    }

    async fn delete(
        &self,
        caller: &Caller,
        request: wire::DeleteRequest,
    ) -> Result<wire::DeleteResponse, Fault> {
        let id = request.id.clone();
        self.0
            .delete(
                caller,
                request.request_id,
                kind(request.kind)?,
                request.id,
                request.force,
            )
            .await?;
        Ok(wire::DeleteResponse { id })
    }

    async fn watch(
        &self,
        caller: &Caller,
        request: wire::WatchRequest,
    ) -> Result<Streamed<wire::WatchEvent>, Fault> {
        let query = Query {
            id: (!request.id.is_empty()).then_some(request.id),
            labels: request.labels,
            ..Query::all(kind(request.kind)?)
        };
        let since = Mark {
            index: request.since_index,
            behind: request.since_behind,
        };
        let events = self.0.watch(caller, vec![query], since).await?;
        Ok(Box::pin(
            events.map(|event| event.map_err(|fault| status(&fault))),
        ))
    }
}

/// Lines until there are no more, or a status that says why there are none.
fn lines(lines: Lines) -> Streamed<wire::LogsChunk> {
    let chunks = futures::stream::unfold(Some(lines), |open| async {
        let mut lines = open?;
        match lines.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(lines))),
            Ok(None) => None,
            Err(fault) => Some((Err(status(&fault)), None)),
        }
    });
    Box::pin(chunks)
}

/// What a sandbox says, or a status that says why it says no more.
fn outputs(talk: Talk) -> Streamed<wire::RelayOutput> {
    let outputs = futures::stream::unfold(Some(talk), |open| async {
        let mut talk = open?;
        match talk.next().await {
            Ok(Some(output)) => Some((Ok(output), Some(talk))),
            Ok(None) => None,
            Err(fault) => Some((Err(status(&fault)), None)),
        }
    });
    Box::pin(outputs)
}

/// What a user wants to speak with.
async fn opening(input: &mut Streaming<wire::RelayInput>) -> Result<wire::RelayRequest, Fault> {
    let first = tokio::time::timeout(OPENING, input.message()).await;
    match first
        .ok()
        .and_then(Result::ok)
        .flatten()
        .and_then(|first| first.input)
    {
        Some(Input::Open(request)) => Ok(request),
        Some(_) | None => Err(Fault::Invalid("a conversation begins with `open`".to_owned())),
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type WatchStream = Streamed<wire::WatchEvent>;
    type LogsStream = Streamed<wire::LogsChunk>;
    type RelayStream = Streamed<wire::RelayOutput>;

    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Answer<wire::ApplyResponse> {
        let caller = caller(&request);
        answer(self.apply(&caller, request.into_inner()).await)
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Answer<wire::Object> {
        let request = request.into_inner();
        let kind = kind(request.kind).map_err(|fault| status(&fault))?;
        let query = Query {
            events: request.events,
            ..Query::one(kind, request.id)
        };
        answer(self.0.look_at(query, request.stale).await)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        answer(self.list(request.into_inner()).await)
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Answer<wire::DeleteResponse> {
        let caller = caller(&request);
        answer(self.delete(&caller, request.into_inner()).await)
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        let caller = caller(&request);
        answer(self.watch(&caller, request.into_inner()).await)
    }

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Answer<Self::LogsStream> {
        let caller = caller(&request);
        answer(self.0.logs(&caller, request.into_inner()).await.map(lines))
    }

    async fn relay(&self, request: Request<Streaming<wire::RelayInput>>) -> Answer<Self::RelayStream> {
        let caller = caller(&request);
        let mut input = request.into_inner();
        let opened = async {
            let request = opening(&mut input).await?;
            self.0.converse(&caller, request, input).await.map(outputs)
        };
        answer(opened.await)
    }

    async fn get_policy(&self, request: Request<wire::GetPolicyRequest>) -> Answer<wire::Policy> {
        answer(self.0.policy(request.into_inner().stale).await.map(Into::into))
    }

    async fn set_policy(&self, request: Request<wire::SetPolicyRequest>) -> Answer<wire::Policy> {
        let caller = caller(&request);
        let request = request.into_inner();
        let change = request.change.unwrap_or_default().into();
        let policy = self.0.set_policy(&caller, request.request_id, change).await;
        answer(policy.map(Into::into))
    }

    async fn cluster(&self, request: Request<wire::ClusterRequest>) -> Answer<wire::ClusterResponse> {
        answer(self.0.cluster(request.into_inner().stale).await)
    }

    async fn schedule_node(&self, request: Request<wire::ScheduleNodeRequest>) -> Answer<wire::Object> {
        let caller = caller(&request);
        answer(self.0.schedule_node(&caller, request.into_inner()).await)
    }

    async fn init_cluster(
        &self,
        request: Request<wire::InitClusterRequest>,
    ) -> Answer<wire::InitClusterResponse> {
        let caller = caller(&request);
        let formed = self.0.init(&caller, request.into_inner().replicas).await;
        answer(formed.map(|()| wire::InitClusterResponse {}))
    }
}
