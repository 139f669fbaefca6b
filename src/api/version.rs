//! `GET /version`.

use actix_web::HttpResponse;

/// The server's version.
pub async fn get() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))
}
