//! The part of etcd's gRPC interface that is used here: put a value, ask a member for its state. Field numbers are those of
//! `etcdserverpb/rpc.proto`; fields that are left out are skipped by the decoder.

use super::Connection;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// Id of the member that leads, as this one knows.
    #[prost(uint64, tag = "4")]
    leader: u64,
}

impl StatusResponse {
    /// Whether the member that has answered leads.
    pub(super) fn leads(&self) -> bool {
        self.leader != 0
            && self
                .header
                .as_ref()
                .is_some_and(|header| header.member_id == self.leader)
    }
}

/// Of one member.
pub(super) struct Client(Connection);

impl Client {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    pub(super) async fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Status> {
        let request = PutRequest {
            key: key.to_vec(),
            value: value.to_vec(),
        };
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }

    pub(super) async fn status(&self) -> Result<StatusResponse, Status> {
        self.call("/etcdserverpb.Maintenance/Status", StatusRequest {})
            .await
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        Ok(grpc
            .unary(tonic::Request::new(request), path, codec)
            .await?
            .into_inner())
    }
}
