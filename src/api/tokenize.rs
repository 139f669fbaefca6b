//! `POST /tokenize` and `POST /detokenize`, as vLLM has them: what a text or a conversation is in tokens, and back. The
//! ranks aren't needed for it.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api, chat_completions,
    error::ApiError,
    fields::Fields,
    openapi::requests::{DetokenizeRequest, TokenizeRequest},
};
use crate::text::Tokenizer;

/// A text in tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = Tokens)]
pub struct Tokens {
    /// How many there are.
    count: usize,
    /// Longest sequence, prompt and completion, in tokens.
    max_model_len: usize,
    /// Their ids.
    tokens: Vec<u32>,
    /// As the vocabulary writes them, where that was asked for.
    token_strs: Option<Vec<String>>,
}

/// Tokens as a text.
#[derive(Serialize, ToSchema)]
#[schema(as = Detokenized)]
pub struct Text {
    /// The text.
    prompt: String,
}

/// The tokens of a text or of a conversation.
pub async fn tokenize(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    let answer = |api: &_, body: &_| tokens(api, &Fields::read(body)?.described_by::<TokenizeRequest>());
    api.answer_on_text_thread(&request, body, answer).await
}

/// The text of tokens.
pub async fn detokenize(
    api: web::Data<Api>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let answer = |api: &_, body: &_| text(api, &Fields::read(body)?.described_by::<DetokenizeRequest>());
    api.answer_on_text_thread(&request, body, answer).await
}

fn tokens(api: &Api, fields: &Fields) -> Result<Tokens, ApiError> {
    let model = &api.model;
    model.check_name(fields)?;
    let tokenizer = &*model.text.tokenizer;
    let special = fields.get("add_special_tokens")?;
    let tokens = match (fields.get::<String>("prompt")?, fields.raw("messages")) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("prompt", "`prompt` and `messages` exclude each other")),
        (Some(prompt), None) => {
            let about_prompt = |error| ApiError::from(error).about("prompt");
            tokenizer.encode(&prompt, special.unwrap_or(true)).map_err(about_prompt)?
        }
        (None, Some(_)) => {
            let tokens = chat_completions::prompt(api, fields)?.ids;
            if special.unwrap_or(false) { with_ends(tokens, tokenizer)? } else { tokens }
        }
        (None, None) => return Err(ApiError::missing("prompt")),
    };
    let written = |&id: &u32| tokenizer.token_text(id).unwrap_or_default();
    let token_strs = fields.flag("return_token_strs")?.then(|| tokens.iter().map(written).collect());
    Ok(Tokens { count: tokens.len(), max_model_len: model.max_model_len, tokens, token_strs })
}

/// A template writes its own special tokens, so these come on top of them.
fn with_ends(tokens: Vec<u32>, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
    let mut around = tokenizer.encode("", true)?;
    let end = around.pop_if(|id| tokenizer.eos() == Some(*id));
    around.extend(tokens);
    around.extend(end);
    Ok(around)
}

fn text(api: &Api, fields: &Fields) -> Result<Text, ApiError> {
    api.model.check_name(fields)?;
    let tokens = fields.token_ids("tokens", api.model.vocabulary)?.ok_or_else(|| ApiError::missing("tokens"))?;
    Ok(Text { prompt: api.model.text.tokenizer.decode(&tokens, false) })
}
