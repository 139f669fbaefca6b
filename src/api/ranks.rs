//! `GET /ranks`: the group of ranks and each rank, now.

use actix_web::{HttpResponse, web};

use super::Api;

/// What the supervisor sees.
pub async fn get(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok().json(api.supervisor.ranks())
}
