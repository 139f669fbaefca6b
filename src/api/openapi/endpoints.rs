//! The list of endpoints, in the order in which people read it.

use super::{
    Endpoint,
    answers::{AnthropicMessage, DeletedResponse, InputItems, NamedEvent, Response, TokenCount},
    requests::{
        AbortRequest, ChatRequest, CompletionRequest, CountTokensRequest, DetokenizeRequest, EmbeddingsRequest,
        MessagesRequest, ResponsesRequest, TokenizeRequest,
    },
};
use crate::{
    api::{
        abort, chat_completions, completions, embeddings, load, messages::error::AnthropicError, models, tokenize,
        version,
    },
    supervisor::RanksReport,
};

/// Every endpoint that clients may use.
pub fn endpoints() -> Vec<Endpoint> {
    [generating(), messages(), responses(), text(), about()].into_iter().flatten().collect()
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

/// Anthropic's.
fn messages() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/v1/messages", "messages", "Goes on with a conversation, in Anthropic's form")
            .takes::<MessagesRequest>()
            .answers::<AnthropicMessage>()
            .streams::<NamedEvent>()
            .computes()
            .fails_as::<AnthropicError>(),
        Endpoint::post("/v1/messages/count_tokens", "messages", "How many tokens a conversation is")
            .takes::<CountTokensRequest>()
            .answers::<TokenCount>()
            .fails(&[404])
            .fails_as::<AnthropicError>(),
    ]
}

/// Answers that can be looked up later.
fn responses() -> Vec<Endpoint> {
    let stored = |endpoint: Endpoint| endpoint.path_part("id", "The response's id").fails(&[404]);
    vec![
        Endpoint::post("/v1/responses", "responses", "Answers, and keeps the answer")
            .takes::<ResponsesRequest>()
            .answers::<Response>()
            .streams::<NamedEvent>()
            .computes(),
        stored(Endpoint::get("/v1/responses/{id}", "responses", "A response as it is by now"))
            .answers::<Response>()
            .query("stream", "`true` is refused: what was told is not told again")
            .fails(&[400]),
        stored(Endpoint::delete("/v1/responses/{id}", "responses", "Forgets a response, and ends it"))
            .answers::<DeletedResponse>(),
        stored(Endpoint::post("/v1/responses/{id}/cancel", "responses", "Ends a response in the background"))
            .answers::<Response>()
            .fails(&[400]),
        stored(Endpoint::get("/v1/responses/{id}/input_items", "responses", "What a response answers"))
            .answers::<InputItems>()
            .query("order", "`asc` or, as it is without a word, `desc`")
            .query("after", "The id of the item before the page")
            .query("limit", "Items of the page, 1 to 100; without a word 20")
            .fails(&[400]),
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
        Endpoint::get("/livez", "server", "Whether the server's own loops run").fails(&[503]),
        Endpoint::get("/load", "server", "The endpoints below /v1, and how many requests are inside")
            .answers::<load::Load>(),
        Endpoint::get("/metrics", "server", "OpenMetrics").answers_text("application/openmetrics-text"),
        Endpoint::get("/ranks", "server", "The group of ranks, and each rank").answers::<RanksReport>(),
        Endpoint::get("/version", "server", "The server's version").answers::<version::Version>(),
        Endpoint::get("/openapi.json", "server", "This description").answers::<serde_json::Value>(),
        Endpoint::get("/docs", "server", "A page that shows this description").answers_text("text/html"),
        Endpoint::get("/", "server", "A page to talk with the model and to watch the ranks")
            .answers_text("text/html")
            .fails(&[404]),
    ]
}
