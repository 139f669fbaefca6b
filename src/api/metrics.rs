//! `GET /metrics`, in the OpenMetrics text format.

use actix_web::{HttpResponse, web};

use super::{Api, error::ApiError};

/// Everything that is counted, now.
pub async fn get(api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    let text = api.monitor.text().map_err(|_| ApiError::internal("the metrics can't be written"))?;
    Ok(HttpResponse::Ok().content_type("application/openmetrics-text; version=1.0.0; charset=utf-8").body(text))
}
