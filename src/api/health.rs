//! `GET /health` and `/ping`: may requests be sent here? `GET /livez`: does the server itself run?

use actix_web::{HttpResponse, web};

use super::{Api, error::ApiError};

/// 200 and nothing else when every rank is ready and, with work outstanding, moves; else 503 with the reason.
pub async fn health(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    if api.admission.is_draining() {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    api.supervisor.health().map_err(ApiError::unavailable)?;
    match api.admission.closed() {
        Some(why) => Err(ApiError::unavailable(why)),
        None => Ok(HttpResponse::Ok().finish()),
    }
}

/// 200 while HTTP is spoken at all.
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().finish()
}
