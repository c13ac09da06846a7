//! `/api/v1/cluster`

use super::Rest;
use super::answer::Refusal;
use super::body::Params;
use super::objects::ShowParams;
use axum::Json;
use axum::extract::State;
use proto::document::ClusterDocument;

pub(super) async fn show(
    State(rest): State<Rest>,
    Params(params): Params<ShowParams>,
) -> Result<Json<ClusterDocument>, Refusal> {
    Ok(Json(rest.api.cluster(params.stale).await?.into()))
}
