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

/// 200 and nothing else while the server's own loops run, whatever the ranks do; else 503 with the loop that hangs.
pub async fn livez(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    match api.liveness.trouble() {
        Some(why) => Err(ApiError::unavailable(why)),
        None => Ok(HttpResponse::Ok().finish()),
    }
}
