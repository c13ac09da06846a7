//! A real replica's interface in this process, that answers as its script says. Shared by the tests of the
//! client and of the commands.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use cli::client::Endpoint;
use prost::Message;
use proto::relay::{Input, Output};
use proto::wire::{self, control_server::Control};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

/// What a replica does with one request.
#[derive(Clone)]
pub enum Act {
    Accept,
    NotLeader(String),
    Fail(Code, &'static str),
    /// Too much is asked for; to be asked again after so many milliseconds.
    Later(u64),
    Hang,
    /// Accepts, after so many milliseconds.
    Slow(u64),
}

/// One replica on a port of its own; its script is used up one act per request, the last one stays.
#[derive(Clone, Default)]
pub struct Replica {
    pub script: Arc<Mutex<VecDeque<Act>>>,
    pub request_ids: Arc<Mutex<Vec<String>>>,
    /// What each watch sends before it stays silent, one list per watch.
    pub silent_after: Arc<Mutex<VecDeque<Vec<wire::WatchEvent>>>>,
    /// What each watch sends before it breaks, one list per watch; none left: silence.
    pub watches: Arc<Mutex<VecDeque<Vec<wire::WatchEvent>>>>,
    pub logs: Arc<Mutex<VecDeque<LogStream>>>,
    /// What each watch was asked for.
    pub watch_requests: Arc<Mutex<Vec<wire::WatchRequest>>>,
    /// How a watch breaks that has sent its list; none left: the replica stops.
    pub breaks: Arc<Mutex<VecDeque<Status>>>,
    pub log_requests: Arc<Mutex<Vec<wire::LogsRequest>>>,
    /// What conversations were opened.
    pub relays: Arc<Mutex<Vec<wire::RelayRequest>>>,
    /// What `get` and `list` show; `get` of another id is answered with an external of that id.
    pub objects: Arc<Mutex<Vec<wire::Object>>>,
}

/// Lines, and whether the stream then ends well.
pub type LogStream = (Vec<wire::LogLine>, bool);

impl Replica {
    pub fn acting(acts: Vec<Act>) -> Self {
        let replica = Self::default();
        *replica.script.lock().unwrap() = acts.into();
        replica
    }

    pub async fn serve(&self) -> Endpoint {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = wire::control_server::ControlServer::new(self.clone());
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        endpoint.parse().unwrap()
    }

    async fn act(&self) -> Result<(), Status> {
        let act = {
            let mut script = self.script.lock().unwrap();
            match script.len() {
                0 => Act::Accept,
                1 => script[0].clone(),
                _ => script.pop_front().unwrap(),
            }
        };
        match act {
            Act::Accept => Ok(()),
            Act::Fail(code, message) => Err(Status::new(code, message)),
            Act::Hang => std::future::pending().await,
            Act::Slow(after_ms) => {
                tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
                Ok(())
            }
            Act::NotLeader(endpoint) => {
                let detail = wire::error_detail::Detail::NotLeader(wire::NotLeader {
                    leader_id: 1,
                    endpoint,
                });
                Err(detailed(Code::FailedPrecondition, "not the leader", detail))
            }
            Act::Later(after_ms) => {
                let detail = wire::error_detail::Detail::RetryAfter(wire::RetryAfter { after_ms });
                Err(detailed(Code::ResourceExhausted, "too much", detail))
            }
        }
    }
}

fn detailed(code: Code, message: &str, detail: wire::error_detail::Detail) -> Status {
    let detail = wire::ErrorDetail { detail: Some(detail) };
    Status::with_details(code, message, detail.encode_to_vec().into())
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for Replica {
    type WatchStream = Streamed<wire::WatchEvent>;
    type LogsStream = Streamed<wire::LogsChunk>;
    type RelayStream = Streamed<wire::RelayOutput>;

    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        self.request_ids
            .lock()
            .unwrap()
            .push(request.into_inner().request_id);
        self.act().await?;
        Ok(Response::new(wire::ApplyResponse {
            outcome: wire::Outcome::Created.into(),
            object: None,
        }))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Object>, Status> {
        self.act().await?;
        let id = request.into_inner().id;
        let objects = self.objects.lock().unwrap();
        let found = objects.iter().find(|object| id_of(object) == id).cloned();
        Ok(Response::new(found.unwrap_or_else(|| external(&id, 1))))
    }

    async fn list(&self, _: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        self.act().await?;
        Ok(Response::new(wire::ListResponse {
            items: self.objects.lock().unwrap().clone(),
            index: 1,
            cursor: String::new(),
        }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteResponse>, Status> {
        let request = request.into_inner();
        self.request_ids.lock().unwrap().push(request.request_id);
        self.act().await?;
        Ok(Response::new(wire::DeleteResponse { id: request.id }))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.watch_requests.lock().unwrap().push(request.into_inner());
        if let Some(events) = self.silent_after.lock().unwrap().pop_front() {
            let events = tokio_stream::iter(events.into_iter().map(Ok));
            return Ok(Response::new(Box::pin(events.chain(tokio_stream::pending()))));
        }
        let Some(events) = self.watches.lock().unwrap().pop_front() else {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        };
        let broken = self.breaks.lock().unwrap().pop_front();
        let broken = broken.unwrap_or_else(|| Status::unavailable("the replica stops"));
        let broken = tokio_stream::once(Err(broken));
        Ok(Response::new(Box::pin(
            tokio_stream::iter(events.into_iter().map(Ok)).chain(broken),
        )))
    }

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.act().await?;
        self.log_requests.lock().unwrap().push(request.into_inner());
        let Some((lines, ends_well)) = self.logs.lock().unwrap().pop_front() else {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        };
        let chunk = tokio_stream::once(Ok(wire::LogsChunk { lines }));
        if ends_well {
            return Ok(Response::new(Box::pin(chunk)));
        }
        let broken = tokio_stream::once(Err(Status::unavailable("the replica stops")));
        Ok(Response::new(Box::pin(chunk.chain(broken))))
    }

    /// Gives back what it is sent, then breaks off at the word `break`, or exits with 7 at the end.
    async fn relay(
        &self,
        request: Request<Streaming<wire::RelayInput>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let mut input = request.into_inner();
        let Some(Input::Open(open)) = input.message().await?.and_then(|first| first.input) else {
            return Err(Status::invalid_argument("not opened"));
        };
        self.act().await?;
        self.relays.lock().unwrap().push(open);
        let outputs = input
            .take_while(|input| input.is_ok())
            .filter_map(|input| match input.ok()?.input? {
                Input::Data(data) if data == b"break" => Some(Err(Status::unavailable("the replica stops"))),
                Input::Data(data) => Some(Ok(Output::Data(data).into())),
                Input::Eof(_) => Some(Ok(Output::exit(7).into())),
                _ => None,
            });
        Ok(Response::new(Box::pin(outputs)))
    }

    async fn get_policy(&self, _: Request<wire::GetPolicyRequest>) -> Result<Response<wire::Policy>, Status> {
        self.act().await?;
        Ok(Response::new(wire::Policy::default()))
    }

    async fn set_policy(
        &self,
        request: Request<wire::SetPolicyRequest>,
    ) -> Result<Response<wire::Policy>, Status> {
        let request = request.into_inner();
        self.request_ids.lock().unwrap().push(request.request_id);
        self.act().await?;
        let change = proto::policy::PolicyChange::from(request.change.unwrap_or_default());
        Ok(Response::new(change.of(proto::policy::Policy::default()).into()))
    }

    async fn cluster(
        &self,
        _: Request<wire::ClusterRequest>,
    ) -> Result<Response<wire::ClusterResponse>, Status> {
        self.act().await?;
        Ok(Response::new(wire::ClusterResponse::default()))
    }

    async fn schedule_node(
        &self,
        _: Request<wire::ScheduleNodeRequest>,
    ) -> Result<Response<wire::Object>, Status> {
        Err(Status::unimplemented("this replica has no nodes"))
    }

    async fn init_cluster(
        &self,
        _: Request<wire::InitClusterRequest>,
    ) -> Result<Response<wire::InitClusterResponse>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}

pub fn external(id: &str, resource_version: u64) -> wire::Object {
    wire::Object {
        object: Some(wire::object::Object::External(wire::External {
            id: id.to_owned(),
            node_id: "n".to_owned(),
            external: "x.test".to_owned(),
            resource_version,
            ..Default::default()
        })),
    }
}

fn id_of(object: &wire::Object) -> &str {
    use wire::object::Object;
    match object.object.as_ref().unwrap() {
        Object::Sandbox(s) => &s.id,
        Object::Node(n) => &n.id,
        Object::External(e) => &e.id,
    }
}

pub fn event(kind: wire::watch_event::Type, object: Option<wire::Object>) -> wire::WatchEvent {
    wire::WatchEvent {
        r#type: kind.into(),
        object,
        ..Default::default()
    }
}

/// The same, with where to go on behind it.
pub fn event_at(
    kind: wire::watch_event::Type,
    object: Option<wire::Object>,
    index: u64,
    behind: u32,
) -> wire::WatchEvent {
    wire::WatchEvent {
        index,
        behind,
        ..event(kind, object)
    }
}

/// A sandbox of two containers.
pub fn sandbox(id: &str, phase: wire::Phase, version: u64) -> wire::Object {
    let text = format!(
        "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: {id}
spec:
  containers:
    - {{name: one, image: busybox, resource: {{cpu: 100m, memory: 32Mi}}}}
    - {{name: two, image: busybox, resource: {{cpu: 100m, memory: 32Mi}}}}
"
    );
    let manifest = wire::Manifest::from(&proto::manifest::parse(&text).unwrap().remove(0));
    let Some(wire::manifest::Spec::Sandbox(spec)) = manifest.spec else {
        panic!("a sandbox was written");
    };
    wire::Object {
        object: Some(wire::object::Object::Sandbox(wire::Sandbox {
            id: id.to_owned(),
            uid: 1,
            spec: Some(spec),
            status: Some(wire::SandboxStatus {
                phase: phase.into(),
                ..Default::default()
            }),
            created_at_ms: 1,
            updated_at_ms: 1,
            resource_version: version,
            ..Default::default()
        })),
    }
}
