//! What was said so far, and how the next answer is asked for.

use serde_json::{Map, Value, json};

use super::Manner;
use crate::config::SamplingFlags;

/// The longest answer where none is named and texts are continued; chats leave it to the server.
const COMPLETION_TOKENS: u64 = 128;

/// A conversation. Between turns it ends with an answer; while one is asked for, with the question.
#[derive(Debug)]
pub struct Conversation {
    manner: Manner,
    model: String,
    system: Option<String>,
    messages: Vec<Message>,
    sampling: SamplingFlags,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    role: &'static str,
    content: String,
}

impl Conversation {
    /// An empty one. `model` is the name that requests carry.
    pub fn new(manner: Manner, model: Option<String>, system: Option<String>, sampling: SamplingFlags) -> Self {
        let model = model.unwrap_or_else(|| "default".into());
        Self { manner, model, system, messages: Vec::new(), sampling }
    }

    /// Adds a question.
    pub fn ask(&mut self, text: &str) {
        self.messages.push(Message { role: "user", content: text.to_owned() });
    }

    /// Adds the answer.
    pub fn answered(&mut self, text: String) {
        self.messages.push(Message { role: "assistant", content: text });
    }

    /// Takes back the last question, with its answer if it has one; the question.
    pub fn undo(&mut self) -> Option<String> {
        let last = self.messages.iter().rposition(|message| message.role == "user")?;
        self.messages.drain(last..).next().map(|message| message.content)
    }

    /// Forgets all but what the model is told before.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// What the model is told before the conversation.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Tells the model something else before the conversation; the conversation stays.
    pub fn set_system(&mut self, text: Option<String>) {
        self.system = text;
    }

    /// Where answers are asked for.
    pub fn path(&self) -> &'static str {
        match self.manner {
            Manner::Chat => "/v1/chat/completions",
            Manner::Complete => "/v1/completions",
        }
    }

    /// The request for the next answer.
    pub fn request(&self) -> Value {
        let mut body = Map::new();
        body.insert("model".into(), json!(self.model));
        match self.manner {
            Manner::Chat => body.insert("messages".into(), self.messages()),
            Manner::Complete => {
                let prompt = self.messages.last().map_or("", |message| message.content.as_str());
                body.insert("max_tokens".into(), json!(COMPLETION_TOKENS));
                body.insert("prompt".into(), json!(prompt))
            }
        };
        body.insert("stream".into(), json!(true));
        body.insert("stream_options".into(), json!({"include_usage": true}));
        body.extend(fields(&self.sampling));
        Value::Object(body)
    }

    /// All that was said, in OpenAI's form.
    pub fn messages(&self) -> Value {
        let system = self.system.as_ref().map(|content| json!({"role": "system", "content": content}));
        let said = self.messages.iter().map(|message| json!({"role": message.role, "content": message.content}));
        system.into_iter().chain(said).collect()
    }
}

/// Only what was named: the server and its model have defaults of their own.
fn fields(sampling: &SamplingFlags) -> Map<String, Value> {
    let named = [
        ("max_tokens", sampling.max_tokens.map(Value::from)),
        ("temperature", sampling.temperature.map(Value::from)),
        ("top_p", sampling.top_p.map(Value::from)),
        ("top_k", sampling.top_k.map(Value::from)),
        ("min_p", sampling.min_p.map(Value::from)),
        ("repetition_penalty", sampling.repetition_penalty.map(Value::from)),
        ("seed", sampling.seed.map(Value::from)),
        ("stop", (!sampling.stop.is_empty()).then(|| json!(sampling.stop))),
        ("enable_thinking", sampling.enable_thinking.map(Value::from)),
    ];
    named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_carries_all_that_was_said() {
        let sampling = SamplingFlags { temperature: Some(0.0), stop: vec!["x".into()], ..Default::default() };
        let mut chat = Conversation::new(Manner::Chat, None, Some("Be brief.".into()), sampling);
        chat.ask("A?");
        chat.answered("B.".into());
        chat.ask("C?");
        let request = chat.request();
        assert_eq!(
            (&request["temperature"], &request["stop"], request.get("top_p")),
            (&json!(0.0), &json!(["x"]), None)
        );
        let expected = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "B."},
            {"role": "user", "content": "C?"},
        ]);
        assert_eq!(request["messages"], expected);
    }

    #[test]
    fn questions_are_taken_back_with_their_answers() {
        let mut chat = Conversation::new(Manner::Chat, None, None, SamplingFlags::default());
        chat.ask("A?");
        chat.answered("B.".into());
        chat.ask("C?");
        assert_eq!(chat.undo().as_deref(), Some("C?"));
        assert_eq!(chat.undo().as_deref(), Some("A?"));
        assert_eq!((chat.undo(), chat.messages()), (None, json!([])));
    }

    #[test]
    fn a_continued_text_stands_alone() {
        let mut texts = Conversation::new(Manner::Complete, Some("m".into()), None, SamplingFlags::default());
        texts.ask("Once");
        texts.answered(" upon".into());
        texts.ask("The sky");
        let request = texts.request();
        assert_eq!((&request["prompt"], &request["max_tokens"]), (&json!("The sky"), &json!(128)));
        assert_eq!((&request["model"], request.get("messages")), (&json!("m"), None));
    }
}
