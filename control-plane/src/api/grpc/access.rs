//! The service of tokens and certificates.

use super::caller;
use super::status::status;
use crate::access::Gate;
use crate::api::Fault;
use proto::wire::{self, access_server::Access};
use tonic::{Request, Response, Status};

pub(super) struct AccessService(pub(super) Gate);

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    result.map(Response::new).map_err(|fault| status(&fault))
}

#[tonic::async_trait]
impl Access for AccessService {
    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Answer<wire::CreateTokenResponse> {
        let caller = caller(&request);
        answer(self.0.create_token(&caller, request.into_inner()).await)
    }

    async fn list_tokens(
        &self,
        request: Request<wire::ListTokensRequest>,
    ) -> Answer<wire::ListTokensResponse> {
        let tokens = self.0.list_tokens(request.into_inner().stale).await;
        answer(tokens.map(|tokens| wire::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Answer<wire::RevokeTokenResponse> {
        let caller = caller(&request);
        let revoked = self.0.revoke_token(&caller, request.into_inner()).await;
        answer(revoked.map(|()| wire::RevokeTokenResponse {}))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Answer<wire::JoinResponse> {
        let caller = caller(&request);
        answer(self.0.join(&caller, request.into_inner()).await)
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Answer<wire::RenewResponse> {
        let caller = caller(&request);
        answer(self.0.renew(&caller, &request.into_inner()))
    }

    async fn note_uses(&self, request: Request<wire::NoteUsesRequest>) -> Answer<wire::NoteUsesResponse> {
        let noted = self.0.note_uses(request.into_inner().uses).await;
        answer(noted.map(|()| wire::NoteUsesResponse {}))
    }
}
