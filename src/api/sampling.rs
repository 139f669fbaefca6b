//! How tokens are to be chosen, as a request says it: bounded, and completed by the model's defaults.

use std::collections::HashMap;

use serde_json::{Map, Value};
use workers::link::sampling::{BAD_WORDS_TOKENS_MAX, LOGIT_BIAS_MAX, SEED_MAX, STOP_TOKENS_MAX, Sampling};

use super::{
    error::ApiError,
    fields::{Fields, token_ids},
    model::ServedModel,
};

/// The most that a logit may be raised or lowered.
const BIAS_MAX: f64 = 100.0;

/// Reads them. `logprobs` was read by the endpoint.
pub fn read(fields: &Fields, model: &ServedModel, logprobs: Option<u32>) -> Result<Sampling, ApiError> {
    let defaults = &model.sampling_defaults;
    let number = |name, default: f32| fields.number(name).map(|number| number.unwrap_or(default));
    let top_k = fields.integer("top_k", -1..=i64::MAX)?;
    let min_tokens = fields.integer("min_tokens", 0..=i64::from(u32::MAX))?;
    let seed = fields.integer("seed", 0..=SEED_MAX as i64)?;
    let sampling = Sampling {
        temperature: number("temperature", defaults.temperature)?,
        top_p: number("top_p", defaults.top_p)?,
        top_k: top_k.map_or(defaults.top_k, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX)),
        min_p: number("min_p", defaults.min_p)?,
        repetition_penalty: number("repetition_penalty", defaults.repetition_penalty)?,
        presence_penalty: number("presence_penalty", defaults.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", defaults.frequency_penalty)?,
        seed: seed.map_or_else(|| rand::random_range(0..=SEED_MAX), |seed| seed as u64),
        min_tokens: min_tokens.unwrap_or(0) as u32,
        stop_token_ids: stop_tokens(fields, model)?,
        logit_bias: logit_bias(fields, model)?,
        bad_words: bad_words(fields, model)?,
        logprobs,
        temp_scaled_logprobs: fields.flag("temp_scaled_logprobs")?,
        top_p_normalized_logprobs: fields.flag("top_p_normalized_logprobs")?,
        ..Sampling::default()
    };
    sampling.check().map_err(|error| ApiError::invalid(error.parameter, error.to_string()))?;
    check_that_tokens_are_left(&sampling, model)?;
    Ok(sampling)
}

/// Words of one token are never chosen, and stop tokens not until `min_tokens` is reached. Where that is every token
/// there is, no text can be made, which is better told at once. Longer words may still come to that, one at a time; the
/// sequence is then ended with the same fault.
fn check_that_tokens_are_left(sampling: &Sampling, model: &ServedModel) -> Result<(), ApiError> {
    let stops = if sampling.min_tokens > 0 { sampling.stop_token_ids.as_slice() } else { &[] };
    let banned = sampling.bad_words.iter().filter(|word| word.len() == 1).map(|word| word[0]);
    let mut never: Vec<u32> = stops.iter().copied().chain(banned).collect();
    never.sort_unstable();
    never.dedup();
    never.retain(|&id| (id as usize) < model.vocabulary);
    if never.len() < model.vocabulary {
        return Ok(());
    }
    let (param, why) = match stops.len() < model.vocabulary {
        true => ("bad_words_token_ids", "`bad_words`"),
        false => ("stop_token_ids", "`stop_token_ids` (with `min_tokens`)"),
    };
    Err(ApiError::invalid(param, format!("{why} forbid all tokens of the vocabulary: none is left to choose")))
}

/// The client's own, and the model's ends of sequence unless they are to be ignored.
fn stop_tokens(fields: &Fields, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let mut ids = fields.token_ids("stop_token_ids", model.vocabulary)?.unwrap_or_default();
    if ids.len() > STOP_TOKENS_MAX {
        return Err(ApiError::invalid("stop_token_ids", format!("at most {STOP_TOKENS_MAX} stop tokens can be given")));
    }
    if !fields.flag("ignore_eos")? {
        ids.extend(&model.eos_ids);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// OpenAI's object from token ids, written as strings, to what is added to their logits.
fn logit_bias(fields: &Fields, model: &ServedModel) -> Result<Vec<(u32, f32)>, ApiError> {
    let given: Map<String, Value> = fields.get("logit_bias")?.unwrap_or_default();
    if given.len() > LOGIT_BIAS_MAX {
        let message = format!("`logit_bias` may name at most {LOGIT_BIAS_MAX} tokens, got {}", given.len());
        return Err(ApiError::invalid("logit_bias", message));
    }
    let mut biases = HashMap::with_capacity(given.len());
    for (key, value) in &given {
        let (token, bias) = one_bias(key, value, model.vocabulary)?;
        if biases.insert(token, bias).is_some() {
            return Err(ApiError::invalid("logit_bias", format!("`logit_bias` names the token {token} twice")));
        }
    }
    let mut biases: Vec<(u32, f32)> = biases.into_iter().filter(|&(_, bias)| bias != 0.0).collect();
    biases.sort_unstable_by_key(|&(token, _)| token);
    Ok(biases)
}

fn one_bias(key: &str, value: &Value, vocabulary: usize) -> Result<(u32, f32), ApiError> {
    let fault = |what: String| ApiError::invalid("logit_bias", format!("`logit_bias` {what}"));
    let shown: String = key.chars().take(32).collect();
    let token = key.parse::<u32>().ok().filter(|&id| (id as usize) < vocabulary);
    let token =
        token.ok_or_else(|| fault(format!("has the key {shown:?}; keys are token ids, 0 to {}", vocabulary - 1)))?;
    match value.as_f64().filter(|bias| bias.abs() <= BIAS_MAX) {
        Some(bias) => Ok((token, bias as f32)),
        None => Err(fault(format!("of the token {token} must be a number between -100 and 100"))),
    }
}

/// Texts and tokens that must not come. A text is forbidden as it is and with a blank before it, which is how most
/// vocabularies write it within a sentence.
fn bad_words(fields: &Fields, model: &ServedModel) -> Result<Vec<Vec<u32>>, ApiError> {
    let texts: Vec<String> = fields.get("bad_words")?.unwrap_or_default();
    check_count("bad_words", texts.len())?;
    let mut words = bad_token_sequences(fields, model)?;
    for text in &texts {
        words.extend(spellings(text, model)?);
        check_count("bad_words", words.iter().map(Vec::len).sum())?;
    }
    words.sort_unstable();
    words.dedup();
    Ok(words)
}

/// A list of ids, each forbidden; or a list of lists, each forbidden as a whole.
fn bad_token_sequences(fields: &Fields, model: &ServedModel) -> Result<Vec<Vec<u32>>, ApiError> {
    const NAME: &str = "bad_words_token_ids";
    let words = match fields.raw(NAME) {
        Some(Value::Array(lists)) if lists.first().is_some_and(Value::is_array) => {
            let words = lists.iter().map(|list| token_ids(NAME, list, model.vocabulary));
            words.collect::<Result<Vec<_>, _>>()?
        }
        _ => fields.token_ids(NAME, model.vocabulary)?.unwrap_or_default().into_iter().map(|id| vec![id]).collect(),
    };
    if words.iter().any(Vec::is_empty) {
        return Err(ApiError::invalid(NAME, format!("`{NAME}` has an empty list")));
    }
    check_count(NAME, words.iter().map(Vec::len).sum())?;
    Ok(words)
}

fn spellings(text: &str, model: &ServedModel) -> Result<Vec<Vec<u32>>, ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid("bad_words", "a bad word must not be empty"));
    }
    let within = format!(" {}", text.trim_start());
    let spell = |text: &str| model.text.tokenizer.encode(text, false);
    let both = [text, &within].map(|text| spell(text).map_err(|error| ApiError::from(error).about("bad_words")));
    let mut words = both.into_iter().collect::<Result<Vec<_>, _>>()?;
    // What holds a token that the model hasn't got can't come anyway.
    words.retain(|word| !word.is_empty() && word.iter().all(|&id| (id as usize) < model.vocabulary));
    Ok(words)
}

fn check_count(name: &str, tokens: usize) -> Result<(), ApiError> {
    if tokens <= BAD_WORDS_TOKENS_MAX {
        return Ok(());
    }
    let message =
        format!("`{name}` may have at most {BAD_WORDS_TOKENS_MAX} tokens, both spellings of each text counted");
    Err(ApiError::invalid(name, message))
}
