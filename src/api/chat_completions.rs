//! `POST /v1/chat/completions`.

mod message;
mod template_options;
mod tools;
pub mod wording;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use self::{
    template_options::TemplateOptions,
    tools::{Force, ToolUse},
    wording::Chat,
};
use super::{
    Api,
    error::ApiError,
    fields::Fields,
    generation::{Generation, Prompt, logprobs_count},
    model::ServedModel,
    openapi::requests::ChatRequest,
    prompt_scores::PromptScores,
    request_id, structured,
};
use crate::{
    guides::tools::{named, required},
    text::{CallFormat, FORCED_CALLS, MessageFormat, TextError, Tools},
};

/// So many of the prompt's last tokens may show whether the model is thinking.
const PROMPT_END_TOKENS: usize = 32;

/// Answers one chat.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    api.generate(&request, body, prepare).await
}

/// A request that was understood: what is wanted, of which prompts, and how it will be answered.
pub fn prepare(api: &Arc<Api>, body: &[u8]) -> Result<super::Prepared<Chat>, ApiError> {
    let mut fields = Fields::read(body)?.described_by::<ChatRequest>();
    check_metadata(&fields)?;
    fields.fall_back_on("metadata")?;
    let Understood { generation, prompt, max_tokens } = understand(api, &fields)?;
    let id = request_id::make("chatcmpl-", generation.request_id.as_deref(), generation.user.as_deref());
    let prompt_token_ids = generation.return_token_ids.then(|| prompt.ids.clone());
    let (names, prompts) = (generation.token_names(&api.model), vec![(prompt, max_tokens)]);
    let scores = PromptScores::new(&generation, &prompts);
    let wording =
        Chat { api: api.clone(), id: id.clone(), created: request_id::now(), prompt_token_ids, names, scores };
    Ok(super::Prepared { id, generation, prompts, wording })
}

/// What a chat asks for, in whichever dialect it was asked.
pub struct Understood {
    /// How to generate.
    pub generation: Generation,
    /// The conversation as tokens.
    pub prompt: Prompt,
    /// The most tokens that may follow it.
    pub max_tokens: u32,
}

/// Understands the fields of a chat request. Other dialects translate theirs to these.
pub fn understand(api: &Api, fields: &Fields) -> Result<Understood, ApiError> {
    let mut generation = Generation::read(fields, &api.model, chat_logprobs(fields, &api.model)?)?;
    let tools = ToolUse::read(fields)?;
    match tools.force {
        Force::No => {}
        Force::Any => generation.force("tools", &required(&tools.tools, tools.parallel), &api.model)?,
        Force::One(index) => generation.force("tools", &named(&tools.tools[index]), &api.model)?,
    }
    let options = TemplateOptions::read(fields, &tools)?;
    let prompt = prompt_of(api, fields, &options)?;
    let prompt_end = &prompt.ids[prompt.ids.len().saturating_sub(PROMPT_END_TOKENS)..];
    let prompt_end = api.model.text.tokenizer.decode(prompt_end, false);
    generation.message = message_format(&api.model, &tools, &prompt_end, options.thinking);
    generation.thinking = structured::thinking(&generation, &api.model, &prompt_end, options.thinking)?;
    let max_tokens = generation.max_tokens_after(&prompt, None, &api.model)?;
    Ok(Understood { generation, prompt, max_tokens })
}

/// The conversation as tokens, however many.
pub fn prompt(api: &Api, fields: &Fields) -> Result<Prompt, ApiError> {
    prompt_of(api, fields, &TemplateOptions::read(fields, &ToolUse::read(fields)?)?)
}

fn prompt_of(api: &Api, fields: &Fields, options: &TemplateOptions) -> Result<Prompt, ApiError> {
    if options.chat.template.is_some() && !api.model.trusts_templates {
        // A template is a program: it can cost seconds and memory.
        let message = "a chat template of the request's own needs a server that was started with \
                       --trust-request-chat-template";
        return Err(ApiError::invalid("chat_template", message));
    }
    let (param, ids) = match fields.token_ids("prompt_token_ids", api.model.vocabulary)? {
        Some(ids) => ("prompt_token_ids", ids),
        None => ("messages", messages_ids(api, fields, options)?),
    };
    Prompt::new(param, ids, None, &api.model)?.cut(fields, &api.model)
}

/// How the answer to this prompt is taken apart. Calls are looked for only where there are tools to call.
fn message_format(model: &ServedModel, tools: &ToolUse, prompt_end: &str, thinking: bool) -> MessageFormat {
    let calls = match tools.force {
        Force::No => model.tool_format.filter(|_| !tools.tools.is_empty()).map(CallFormat::Found),
        Force::Any => Some(CallFormat::Found(&FORCED_CALLS)),
        Force::One(index) => tools::name(&tools.tools[index]).map(|name| CallFormat::Arguments(name.into())),
    };
    MessageFormat {
        reasoning: model.reasoning,
        thinking: model.reasoning.is_some_and(|format| format.starts_thinking(prompt_end, thinking)),
        calls,
        tools: Arc::new(Tools::of(&tools.tools)),
        one_call: !tools.parallel,
    }
}

/// FastDeploy keeps this entry for itself.
fn check_metadata(fields: &Fields) -> Result<(), ApiError> {
    match fields.raw("metadata").and_then(|metadata| metadata.get("raw_request")) {
        Some(_) => Err(ApiError::invalid("metadata", "`metadata.raw_request` is reserved")),
        None => Ok(()),
    }
}

/// `logprobs` is a boolean here, `top_logprobs` the number of alternatives.
fn chat_logprobs(fields: &Fields, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    match logprobs_count(fields, "top_logprobs", model)? {
        Some(count) if wanted => Ok(Some(count)),
        Some(1..) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
        _ => Ok(wanted.then_some(0)),
    }
}

fn messages_ids(api: &Api, fields: &Fields, options: &TemplateOptions) -> Result<Vec<u32>, ApiError> {
    let messages = fields.raw("messages").ok_or_else(|| ApiError::missing("messages"))?;
    let first = match messages.as_array().map(Vec::as_slice) {
        Some([first, ..]) => first,
        _ => return Err(ApiError::invalid("messages", "`messages` must be a list of at least one message")),
    };
    let about_messages = |error| match error {
        TextError::Template { .. } => ApiError::from(error).about("chat_template"),
        TextError::NotRendered { .. } if options.chat.template.is_some() => {
            ApiError::from(error).about("chat_template")
        }
        _ => ApiError::from(error).about("messages"),
    };
    if fields.flag("disable_chat_template")? {
        let text = first.get("content").and_then(Value::as_str);
        let text =
            text.ok_or_else(|| ApiError::invalid("messages", "the first message's `content` must be a string"))?;
        api.model.text.completion_prompt(text).map_err(about_messages)
    } else {
        api.model.text.chat_prompt(messages, &options.chat).map_err(about_messages)
    }
}
