//! `GET /version`.

use actix_web::HttpResponse;
use serde::Serialize;
use utoipa::ToSchema;

/// Which Shardwire this is.
#[derive(Serialize, ToSchema)]
pub struct Version {
    /// For instance `0.1.0`.
    version: &'static str,
}

/// The server's version.
pub async fn get() -> HttpResponse {
    HttpResponse::Ok().json(Version { version: env!("CARGO_PKG_VERSION") })
}
