//! Server-sent events: one `data:` line and a blank line each.

use actix_web::{HttpResponse, http::header, web::Bytes};
use futures_util::Stream;
use serde::Serialize;

use super::error::ApiError;

/// The event that ends every stream, a failed one too.
pub const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// One event.
pub fn event(data: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(data).unwrap_or_else(|error| {
        // Only a map with keys that aren't strings can do this, and no answer has one.
        ApiError::internal(format!("the answer can't be written: {error}")).to_json().to_string()
    });
    Bytes::from(format!("data: {json}\n\n"))
}

/// One event with a name, for dialects that tell their events' kinds; `fields` get it as `type` too.
pub fn named(kind: &str, mut fields: serde_json::Value) -> Bytes {
    fields["type"] = kind.into();
    Bytes::from(format!("event: {kind}\ndata: {fields}\n\n"))
}

/// An answer that is sent event by event, never held back by us or by a proxy.
pub fn respond(events: impl Stream<Item = Bytes> + 'static) -> HttpResponse {
    use futures_util::StreamExt;
    HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events.map(Ok::<_, actix_web::Error>))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_a_blank_one() {
        assert_eq!(event(&"a\nb"), "data: \"a\\nb\"\n\n");
        assert_eq!(named("ping", serde_json::json!({})), "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    }
}
