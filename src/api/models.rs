//! `GET /v1/models` and `GET /v1/models/NAME`.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, error::ApiError};

/// All models that are served: one.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelList)]
pub struct List {
    /// `list`.
    object: &'static str,
    /// The models.
    data: [Card; 1],
}

/// A model.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
pub struct Card {
    /// Its name.
    id: String,
    /// `model`.
    object: &'static str,
    /// When it was loaded, seconds since 1970.
    created: u64,
    /// `shardwire`.
    owned_by: &'static str,
    /// Where it was loaded from.
    root: String,
    /// What it was made from; always null.
    parent: Option<String>,
    /// Longest sequence, prompt and completion, in tokens.
    max_model_len: usize,
    /// What may be done with it.
    permission: [Permission; 1],
}

/// What may be done with a model, in OpenAI's older words.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelPermission)]
struct Permission {
    id: String,
    /// `model_permission`.
    object: &'static str,
    created: u64,
    allow_create_engine: bool,
    allow_sampling: bool,
    /// Whether the server was started with --enable-logprob.
    allow_logprobs: bool,
    allow_search_indices: bool,
    allow_view: bool,
    allow_fine_tuning: bool,
    organization: &'static str,
    group: Option<String>,
    is_blocking: bool,
}

/// The one model that is served.
pub async fn list(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok().json(List { object: "list", data: [card(&api)] })
}

/// The same by its name.
pub async fn one(api: web::Data<Api>, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    if *name != api.model.name {
        return Err(ApiError::unknown_model(&name, &api.model.name));
    }
    Ok(HttpResponse::Ok().json(card(&api)))
}

fn card(api: &Api) -> Card {
    let model = &api.model;
    Card {
        id: model.name.clone(),
        object: "model",
        created: model.created,
        owned_by: "shardwire",
        root: model.root.clone(),
        parent: None,
        max_model_len: model.max_model_len,
        permission: [permission(model.created, model.logprobs_enabled)],
    }
}

fn permission(created: u64, allow_logprobs: bool) -> Permission {
    Permission {
        id: format!("modelperm-{created:016x}"),
        object: "model_permission",
        created,
        allow_create_engine: false,
        allow_sampling: true,
        allow_logprobs,
        allow_search_indices: false,
        allow_view: true,
        allow_fine_tuning: false,
        organization: "*",
        group: None,
        is_blocking: false,
    }
}
