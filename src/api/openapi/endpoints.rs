//! The list of endpoints, in the order in which people read it.

use super::Endpoint;
use crate::api::{models, version};

/// Every endpoint that clients may use.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/v1/models", "models", "The model that is served").answers::<models::List>(),
        Endpoint::get("/v1/models/{name}", "models", "The same by its name")
            .path_part("name", "The model's name")
            .answers::<models::Card>()
            .fails(&[404]),
        Endpoint::get("/version", "server", "The server's version").answers::<version::Version>(),
        Endpoint::get("/openapi.json", "server", "This description").answers::<serde_json::Value>(),
        Endpoint::get("/docs", "server", "A page that shows this description").answers_text("text/html"),
    ]
}
