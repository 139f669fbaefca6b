//! `GET /openapi.json`: every endpoint in OpenAPI's words; and `GET /docs`, a page that shows it.
//!
//! An endpoint is described by one entry of [`endpoints`]. What it answers is described by the very structs that are
//! written; what it takes is read field by field, so that every fault can name its field, and is described by structs of
//! its own ([`requests`]).

mod answers;
mod document;
mod endpoint;
mod endpoints;
pub mod requests;

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use super::load::{self, Route};

pub use self::{document::document, endpoint::Endpoint, endpoints::endpoints};

/// The page: it fetches the description and shows it, and needs nothing from elsewhere.
const PAGE: &str = include_str!("page.html");

/// The description of this server, made when it is first asked for.
pub static DESCRIPTION: LazyLock<Description> = LazyLock::new(Description::make);

/// The description.
pub struct Description {
    json: web::Bytes,
    /// The same in short.
    pub routes: Vec<Route>,
}

impl Description {
    fn make() -> Self {
        let json = document().to_json().unwrap_or_else(|error| Value::from(error.to_string()).to_string());
        Self { json: json.into(), routes: load::routes(&endpoints()) }
    }
}

/// Answers the description.
pub async fn get() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DESCRIPTION.json.clone())
}

/// Answers the page.
pub async fn page(_request: HttpRequest) -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(PAGE)
}
