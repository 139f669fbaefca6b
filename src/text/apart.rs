//! Templates that requests bring, rendered apart from everything else: on a thread with a deep stack, since a template
//! nests as deep as it is long, and only for so long, since no count of steps bounds what one step may take.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde_json::Value as Json;

use super::{ChatOptions, TextError, template::ChatTemplate};

/// Stack of a rendering, bytes of address space: some KiB for every byte of the longest template.
const STACK_BYTES: usize = 512 << 20;
/// After so long the request is answered, whatever its template still does.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Renderings that may go on beyond their time before no other is begun.
const OVERDUE_MAX: usize = 2;

static OVERDUE: AtomicUsize = AtomicUsize::new(0);

/// The text that the template `text` makes of a conversation.
pub(super) fn render(
    text: &str,
    special_tokens: BTreeMap<String, String>,
    messages: &Json,
    options: &ChatOptions,
) -> Result<String, TextError> {
    let fault = |message: &str| TextError::Template { message: message.into() };
    if OVERDUE.load(Ordering::Relaxed) >= OVERDUE_MAX {
        return Err(fault("other requests' templates are running beyond their time; try again later"));
    }
    let (text, messages, options) = (text.to_owned(), messages.clone(), options.clone());
    let (sender, receiver) = mpsc::channel();
    let one_ended = Arc::new(AtomicBool::new(false));
    let running = Ends(one_ended.clone());
    let work = move || {
        let _running = running;
        let rendered = ChatTemplate::of_request(&text, special_tokens)
            .and_then(|template| template.render_conversation(&messages, &options));
        let _ = sender.send(rendered);
    };
    let started = thread::Builder::new().name("chat-template".into()).stack_size(STACK_BYTES).spawn(work);
    started.map_err(|error| fault(&format!("there is no thread for it: {error}")))?;
    receiver.recv_timeout(TIME_MAX).unwrap_or_else(|error| match error {
        mpsc::RecvTimeoutError::Timeout => {
            OVERDUE.fetch_add(1, Ordering::Relaxed);
            drop(Ends(one_ended));
            Err(TextError::TooLarge { limit: format!("the chat template takes more than {} s", TIME_MAX.as_secs()) })
        }
        mpsc::RecvTimeoutError::Disconnected => Err(fault("the template engine gave up on it")),
    })
}

/// The end of a rendering, and the end of the waiting for it: the later of the two makes up for the count.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        if self.0.swap(true, Ordering::AcqRel) {
            OVERDUE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(template: &str) -> Result<String, TextError> {
        render(template, BTreeMap::new(), &json!([{"role": "user", "content": "Hi"}]), &ChatOptions::default())
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
