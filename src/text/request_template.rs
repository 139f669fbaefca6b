//! Templates that requests bring: programs of strangers, rendered apart from everything else.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value as Json;

use super::{
    ChatOptions, TextError,
    template::{ChatTemplate, STACK_BYTES, THREAD},
};
use crate::apart::{Apart, Bounds, Unfinished};

/// Some KiB of stack for every byte of the longest template; and since no count of steps bounds what one step may take,
/// after so long the request is answered, whatever its template still does.
const BOUNDS: Bounds = Bounds { stack_bytes: STACK_BYTES, time_max: Duration::from_secs(5), overdue_max: 2 };

/// Who renders them.
#[derive(Debug)]
pub(super) struct RequestTemplates(Apart);

impl Default for RequestTemplates {
    fn default() -> Self {
        Self(Apart::new(THREAD, BOUNDS))
    }
}

impl RequestTemplates {
    /// The text that the template `text` makes of a conversation.
    pub(super) fn render(
        &self,
        text: &str,
        special_tokens: BTreeMap<String, String>,
        messages: &Json,
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        let (text, messages, options) = (text.to_owned(), messages.clone(), options.clone());
        let rendered = self.0.run(move || {
            let template = ChatTemplate::of_request(&text, special_tokens)?;
            template.render_conversation(&messages, &options)
        });
        let fault = |message: &str| TextError::Template { message: message.into() };
        rendered.unwrap_or_else(|unfinished| {
            Err(match unfinished {
                Unfinished::Busy => fault("other requests' templates are running beyond their time; try again later"),
                Unfinished::NoThread(error) => fault(&format!("there is no thread for it: {error}")),
                Unfinished::Late => {
                    let seconds = BOUNDS.time_max.as_secs();
                    TextError::TooLarge { limit: format!("the chat template takes more than {seconds} s") }
                }
                Unfinished::Panicked => fault("the template engine gave up on it"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(template: &str) -> Result<String, TextError> {
        let messages = json!([{"role": "user", "content": "Hi"}]);
        RequestTemplates::default().render(template, BTreeMap::new(), &messages, &ChatOptions::default())
    }

    #[test]
    fn deep_templates_and_panics_of_the_engine_end_only_their_request() {
        assert_eq!(written("{{ messages[0].content }}").unwrap(), "Hi");
        for (step, count) in [("-", 50_000), ("not ", 12_000), ("1+", 25_000), ("1|abs~", 9_000)] {
            // Whether it can be rendered is not the point: the process lives.
            let _ = written(&format!("{{{{ {}1 }}}}", step.repeat(count)));
        }
        assert!(written("{{ [1, 2][::-9223372036854775808] }}").is_err());
        assert!(written("{{ '%99999999999999d'|format(1) }}").is_err());
    }
}
