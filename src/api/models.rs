//! `GET /v1/models` and `GET /v1/models/NAME`.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::{Api, error::ApiError};

/// The one model that is served.
pub async fn list(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "object": "list", "data": [card(&api)] }))
}

/// The same by its name.
pub async fn one(api: web::Data<Api>, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    if *name != api.model.name {
        return Err(ApiError::unknown_model(&name, &api.model.name));
    }
    Ok(HttpResponse::Ok().json(card(&api)))
}

fn card(api: &Api) -> Value {
    let model = &api.model;
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "shardwire",
        "root": model.root,
        "parent": null,
        "max_model_len": model.max_model_len,
        "permission": [{
            "id": format!("modelperm-{:016x}", model.created),
            "object": "model_permission",
            "created": model.created,
            "allow_create_engine": false,
            "allow_sampling": true,
            "allow_logprobs": model.logprobs_enabled,
            "allow_search_indices": false,
            "allow_view": true,
            "allow_fine_tuning": false,
            "organization": "*",
            "group": null,
            "is_blocking": false,
        }],
    })
}
