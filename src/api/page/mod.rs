//! `GET /`: a page to talk with the model and to watch the ranks, for people.
//!
//! A handful of files in the binary, and nothing from elsewhere: it speaks to this server as any client does, with the
//! same paths and, where one is wanted, a key. The files themselves tell nothing and need none.

use actix_web::{HttpRequest, HttpResponse, http::header, web};

use super::{Api, error::ApiError};

/// Where all of the page but the page itself is.
pub const FILES_PATH: &str = "/page/";

/// The browser is held to what the page is: nothing from elsewhere, no script but its own files, in no other page's frame.
const POLICY: &str =
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("index.html")),
    ("/page/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("main.js")),
    ("/page/chat.js", SCRIPT, include_str!("chat.js")),
    ("/page/stream.js", SCRIPT, include_str!("stream.js")),
    ("/page/watch.js", SCRIPT, include_str!("watch.js")),
];

/// Answers the file of this path, unless the server was told to have no page.
pub async fn get(request: HttpRequest, api: web::Data<Api>) -> Result<HttpResponse, ApiError> {
    let file = FILES.iter().find(|(path, ..)| api.settings.serves_page && *path == request.path());
    let (_, kind, content) = file.ok_or_else(|| ApiError::not_found(request.path()))?;
    Ok(HttpResponse::Ok()
        .content_type(*kind)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        // The next version's files shall not meet this one's.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(*content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_for_nothing_that_is_not_here() {
        let size: usize = FILES.iter().map(|(.., content)| content.len()).sum();
        assert!(size < 40_000, "{size} bytes");
        for (path, _, content) in FILES {
            for mark in ["src=\"", "href=\"", "from \"./"] {
                for rest in content.split(mark).skip(1) {
                    let name = rest.split('"').next().unwrap_or_default();
                    let at = if mark.starts_with("from") { format!("{FILES_PATH}{name}") } else { format!("/{name}") };
                    let is_endpoint = ["/docs", "/metrics", "/ranks"].contains(&at.as_str());
                    assert!(is_endpoint || FILES.iter().any(|(path, ..)| *path == at), "{path}: {name}");
                }
            }
            // What the policy would refuse, and what would read a text as HTML.
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "style=\"", "onclick=", "eval("] {
                assert!(!content.contains(word), "{path}: {word}");
            }
        }
    }
}
