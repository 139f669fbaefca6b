//! A conversation in the form of chats, grown from the blocks and items that other dialects list.

use serde_json::{Map, Value, json};

/// What an assistant wants of a tool.
pub struct Call<'a> {
    /// By which its result is found again.
    pub id: &'a str,
    /// The tool.
    pub name: &'a str,
    /// JSON text.
    pub arguments: String,
}

/// The messages up to now. What one role says in a row becomes one message: many templates insist on turns, and their
/// calls and reasoning belong to the message that they came with.
#[derive(Debug, Default)]
pub struct Conversation(Vec<Map<String, Value>>);

impl Conversation {
    /// What stands above the conversation, or is said by nobody in it.
    pub fn system(&mut self, text: &str) {
        self.say("system", "content", text);
    }

    /// What the user says.
    pub fn user(&mut self, text: &str) {
        self.say("user", "content", text);
    }

    /// What the assistant said.
    pub fn assistant(&mut self, text: &str) {
        self.say("assistant", "content", text);
    }

    /// What the assistant thought.
    pub fn reasoning(&mut self, text: &str) {
        self.say("assistant", "reasoning_content", text);
    }

    /// What the assistant called.
    pub fn call(&mut self, call: Call<'_>) {
        let Call { id, name, arguments } = call;
        let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let calls = self.turn("assistant").entry("tool_calls").or_insert_with(|| json!([]));
        if let Some(calls) = calls.as_array_mut() {
            calls.push(call);
        }
    }

    /// What a call gave.
    pub fn result(&mut self, call_id: &str, text: &str) {
        let name = self.name_of(call_id);
        let mut message = Map::new();
        message.insert("role".into(), "tool".into());
        message.insert("tool_call_id".into(), call_id.into());
        message.insert("content".into(), text.into());
        message.extend(name.map(|name| ("name".to_owned(), name)));
        self.0.push(message);
    }

    /// Whether the last word is the assistant's, so that it could be continued.
    pub fn ends_with_assistant(&self) -> bool {
        self.0.last().is_some_and(|last| last["role"] == "assistant" && !last.contains_key("tool_calls"))
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list of messages.
    pub fn into_messages(self) -> Value {
        self.0.into_iter().map(Value::Object).collect()
    }

    fn say(&mut self, role: &str, field: &str, text: &str) {
        let said = self.turn(role).entry(field).or_insert_with(|| "".into());
        if let Value::String(said) = said {
            if !said.is_empty() {
                said.push('\n');
            }
            said.push_str(text);
        }
    }

    /// The message of the role whose turn it is.
    fn turn(&mut self, role: &str) -> &mut Map<String, Value> {
        if self.0.last().is_none_or(|last| last["role"] != role) {
            let mut message = Map::new();
            message.insert("role".into(), role.into());
            message.insert("content".into(), "".into());
            self.0.push(message);
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Some templates write the tool's name beside its result, which the other dialects don't repeat.
    fn name_of(&self, call_id: &str) -> Option<Value> {
        let calls = self.0.iter().rev().filter_map(|message| message.get("tool_calls")?.as_array()).flatten();
        let call = calls.into_iter().find(|call| call["id"] == call_id)?;
        Some(call["function"]["name"].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_role_says_in_a_row_is_one_message() {
        let mut conversation = Conversation::default();
        conversation.system("Be brief.");
        conversation.system("Be kind.");
        conversation.user("Weather?");
        conversation.reasoning("A tool!");
        conversation.assistant("I'll look.");
        conversation.call(Call { id: "a", name: "weather", arguments: "{}".into() });
        conversation.result("a", "sunny");
        conversation.result("b", "?");
        conversation.user("So?");
        let call = json!({"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}});
        let expected = json!([
            {"role": "system", "content": "Be brief.\nBe kind."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "I'll look.", "reasoning_content": "A tool!", "tool_calls": [call]},
            {"role": "tool", "content": "sunny", "tool_call_id": "a", "name": "weather"},
            {"role": "tool", "content": "?", "tool_call_id": "b"},
            {"role": "user", "content": "So?"},
        ]);
        assert_eq!(conversation.into_messages(), expected);
    }

    #[test]
    fn only_what_the_assistant_said_last_can_be_continued() {
        let mut conversation = Conversation::default();
        conversation.user("Hi");
        assert!(!conversation.ends_with_assistant());
        conversation.assistant("I");
        assert!(conversation.ends_with_assistant());
        conversation.call(Call { id: "a", name: "f", arguments: "{}".into() });
        assert!(!conversation.ends_with_assistant());
    }
}
