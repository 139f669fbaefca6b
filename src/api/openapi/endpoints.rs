//! The list of endpoints, in the order in which people read it.

use super::{
    Endpoint,
    requests::{AbortRequest, ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingsRequest, TokenizeRequest},
};
use crate::{
    api::{abort, chat_completions, completions, embeddings, load, models, tokenize, version},
    supervisor::RanksReport,
};

/// Every endpoint that clients may use.
pub fn endpoints() -> Vec<Endpoint> {
    [generating(), text(), about()].into_iter().flatten().collect()
}

fn generating() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/chat/completions", "chat", "Goes on with a conversation")
            .takes::<ChatRequest>()
            .answers_choices::<chat_completions::wording::WholeChoice>("ChatCompletion")
            .streams_choices::<chat_completions::wording::ChunkChoice>("ChatCompletionChunk")
            .computes(),
        Endpoint::post("/v1/completions", "completions", "Goes on with texts")
            .takes::<CompletionRequest>()
            .answers_choices::<completions::WholeChoice>("Completion")
            .streams_choices::<completions::ChunkChoice>("CompletionChunk")
            .computes(),
        Endpoint::post("/v1/embeddings", "embeddings", "Makes vectors of texts")
            .takes::<EmbeddingsRequest>()
            .answers::<embeddings::Embeddings>()
            .computes(),
        Endpoint::post("/v1/abort_requests", "server", "Ends requests that are being computed")
            .takes::<AbortRequest>()
            .answers::<abort::Answer>(),
    ]
}

/// vLLM's paths, and the same below `/v1`.
fn text() -> Vec<Endpoint> {
    let tokenize = |path| {
        Endpoint::post(path, "text", "A text or a conversation in tokens")
            .takes::<TokenizeRequest>()
            .answers::<tokenize::Tokens>()
            .fails(&[404])
    };
    let detokenize = |path| {
        Endpoint::post(path, "text", "Tokens as a text")
            .takes::<DetokenizeRequest>()
            .answers::<tokenize::Text>()
            .fails(&[404])
    };
    vec![tokenize("/tokenize"), tokenize("/v1/tokenize"), detokenize("/detokenize"), detokenize("/v1/detokenize")]
}

fn about() -> Vec<Endpoint> {
    let healthy = "Whether requests may be sent here: every rank is ready and moves";
    vec![
        Endpoint::get("/v1/models", "models", "The model that is served").answers::<models::List>(),
        Endpoint::get("/v1/models/{name}", "models", "The same by its name")
            .path_part("name", "The model's name")
            .answers::<models::Card>()
            .fails(&[404]),
        Endpoint::get("/health", "server", healthy).fails(&[503]),
        Endpoint::get("/ping", "server", healthy).fails(&[503]),
        Endpoint::post("/ping", "server", healthy).fails(&[503]),
        Endpoint::get("/livez", "server", "Whether the server speaks HTTP at all"),
        Endpoint::get("/load", "server", "The endpoints below /v1, and how many requests are inside")
            .answers::<load::Load>(),
        Endpoint::get("/metrics", "server", "OpenMetrics").answers_text("application/openmetrics-text"),
        Endpoint::get("/ranks", "server", "The group of ranks, and each rank").answers::<RanksReport>(),
        Endpoint::get("/version", "server", "The server's version").answers::<version::Version>(),
        Endpoint::get("/openapi.json", "server", "This description").answers::<serde_json::Value>(),
        Endpoint::get("/docs", "server", "A page that shows this description").answers_text("text/html"),
    ]
}
