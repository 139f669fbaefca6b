//! `POST /v1/abort_requests`: ends requests that are being computed.
//!
//! Whoever waits for one of them is told that it was aborted: by status 499, or by an error event in a stream. What it has
//! of a text isn't passed off as the whole.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, error::ApiError, fields::Fields, openapi::requests::AbortRequest, request_id};

/// Most ids in one request.
const IDS_MAX: usize = 1024;

/// What has become of the requests; FastDeploy's form.
#[derive(Serialize, ToSchema)]
#[schema(as = AbortAnswer)]
pub struct Answer {
    /// A name for this call.
    request_id: String,
    /// `success`.
    status: &'static str,
    /// Always null.
    error_message: Option<String>,
    /// Who was found.
    result: Outcome,
}

/// Who was found.
#[derive(Serialize, ToSchema)]
#[schema(as = AbortOutcome)]
struct Outcome {
    /// Aborted now.
    aborted: Vec<String>,
    /// Not being computed: never, or not any more.
    not_found: Vec<String>,
}

/// Aborts some requests, or all.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    let fields = Fields::read(&api.body(&request, body).await?)?.described_by::<AbortRequest>();
    let ids: Option<Vec<String>> = fields.get("req_ids")?;
    let result = match (fields.flag("abort_all")?, ids) {
        (true, _) => Outcome { aborted: api.open.abort_all(), not_found: Vec::new() },
        (false, Some(ids)) if ids.len() > IDS_MAX => {
            return Err(ApiError::invalid("req_ids", format!("at most {IDS_MAX} ids can be given")));
        }
        (false, Some(ids)) if !ids.is_empty() => {
            let (aborted, not_found) = ids.into_iter().partition(|id| api.open.abort(id));
            Outcome { aborted, not_found }
        }
        _ => return Err(ApiError::missing("req_ids")),
    };
    tracing::info!(aborted = result.aborted.len(), not_found = result.not_found.len(), "requests were aborted");
    let request_id = request_id::make("control-", None, None);
    Ok(HttpResponse::Ok().json(Answer { request_id, status: "success", error_message: None, result }))
}
