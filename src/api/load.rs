//! `GET /load`: what FastDeploy answers by this name, the list of endpoints, and beside it what vLLM does, the load.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::{ToSchema, openapi::HttpMethod};

use super::{Api, openapi::DESCRIPTION};

/// The endpoints, and how busy they are.
#[derive(Serialize, ToSchema)]
#[schema(as = Load)]
pub struct Load {
    /// Those below `/v1`.
    routes: Vec<Route>,
    /// Requests that are inside now.
    server_load: usize,
}

/// One endpoint.
#[derive(Clone, Serialize, ToSchema)]
pub struct Route {
    /// Its path.
    path: &'static str,
    /// Its methods, in order.
    methods: Vec<&'static str>,
    /// What it belongs to.
    tags: Vec<&'static str>,
}

/// The endpoints below `/v1`, each once, in their order.
pub fn routes(endpoints: &[super::openapi::Endpoint]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.path.starts_with("/v1")) {
        let method = match endpoint.method {
            HttpMethod::Get => "GET",
            HttpMethod::Delete => "DELETE",
            _ => "POST",
        };
        match routes.iter_mut().find(|route| route.path == endpoint.path) {
            Some(route) => route.methods.push(method),
            None => routes.push(Route { path: endpoint.path, methods: vec![method], tags: vec![endpoint.tag] }),
        }
    }
    routes.iter_mut().for_each(|route| route.methods.sort_unstable());
    routes
}

/// Answers both.
pub async fn get(api: web::Data<Api>) -> HttpResponse {
    let routes = DESCRIPTION.routes.clone();
    HttpResponse::Ok().json(Load { routes, server_load: api.admission.inside() })
}
