//! `shardwire top`: a live terminal view of the ranks.
//!
//! One thread asks the server ([`source`]), this one draws ([`view`]) and listens to keys, so that a server that hangs
//! never makes the screen hang. Without a terminal, or with `--once`, one plain table is printed.

mod plain;
mod rows;
mod source;
mod view;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, TryRecvError};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;

use self::source::{Sample, Source};
use crate::config::TopFlags;

/// How long a key may go unheard, and a new sample undrawn.
const KEY_TICK: Duration = Duration::from_millis(50);

/// Runs until the user leaves. Exit code 1: the server could not be reached (plain table only), or the terminal failed.
pub fn run(flags: &TopFlags) -> ExitCode {
    let source = match Source::new(&flags.url, flags.api_key.as_deref()) {
        Ok(source) => source,
        Err(reason) => return fail(&reason),
    };
    if flags.once || !io::stdout().is_terminal() {
        return print_once(&source);
    }
    let samples = source.follow(Duration::from_millis(flags.interval_ms));
    match ratatui::try_init().and_then(|terminal| show(terminal, &flags.url, &samples)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shardwire top: the terminal failed: {error}");
            ExitCode::from(1)
        }
    }
}

fn print_once(source: &Source) -> ExitCode {
    match source.ask() {
        Ok(sample) => {
            print!("{}", plain::table(&sample));
            ExitCode::SUCCESS
        }
        Err(reason) => fail(&reason),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("shardwire top: {reason}");
    ExitCode::from(1)
}

/// Draws until a key ends it; the terminal is given back in any case.
fn show(mut terminal: DefaultTerminal, url: &str, samples: &Receiver<Result<Sample, String>>) -> io::Result<()> {
    let result = watch(&mut terminal, url, samples);
    ratatui::restore();
    result
}

fn watch(terminal: &mut DefaultTerminal, url: &str, samples: &Receiver<Result<Sample, String>>) -> io::Result<()> {
    let mut screen = Screen::new(url);
    loop {
        match samples.try_recv() {
            Ok(sample) => screen.take(sample),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the thread that asks the server ended")),
        }
        terminal.draw(|frame| view::draw(frame, &screen))?;
        if event::poll(KEY_TICK)? && leaves(&event::read()?) {
            return Ok(());
        }
    }
}

/// Whether this is one of the keys that end the view: q, Esc, Ctrl-C.
fn leaves(event: &Event) -> bool {
    match event {
        Event::Key(KeyEvent { kind: KeyEventKind::Release, .. }) => false,
        Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers, .. }) => modifiers.contains(KeyModifiers::CONTROL),
        Event::Key(key) => matches!(key.code, KeyCode::Char('q') | KeyCode::Esc),
        _ => false,
    }
}

/// What is on the screen.
struct Screen {
    url: String,
    /// The last answer, kept while the server is away.
    sample: Option<Sample>,
    /// The answer before it, for rates.
    earlier: Option<Sample>,
    /// Why there is no newer answer.
    trouble: Option<String>,
}

impl Screen {
    fn new(url: &str) -> Self {
        Self { url: url.to_owned(), sample: None, earlier: None, trouble: Some("asking the server …".into()) }
    }

    fn take(&mut self, answer: Result<Sample, String>) {
        match answer {
            Ok(sample) => {
                self.earlier = self.sample.take();
                self.sample = Some(sample);
                self.trouble = None;
            }
            Err(reason) => self.trouble = Some(reason),
        }
    }

    /// Seconds between the last two answers.
    fn elapsed_s(&self) -> Option<f64> {
        let (earlier, sample) = (self.earlier.as_ref()?, self.sample.as_ref()?);
        Some(seconds_between(earlier.at, sample.at)).filter(|&seconds| seconds > 0.0)
    }
}

fn seconds_between(earlier: Instant, later: Instant) -> f64 {
    later.saturating_duration_since(earlier).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_keys_leave() {
        let check = |code, modifiers, expected| {
            assert_eq!(leaves(&Event::Key(KeyEvent::new(code, modifiers))), expected, "{code:?} {modifiers:?}");
        };
        check(KeyCode::Char('q'), KeyModifiers::NONE, true);
        check(KeyCode::Esc, KeyModifiers::NONE, true);
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, true);
        check(KeyCode::Char('c'), KeyModifiers::NONE, false);
        check(KeyCode::Char('x'), KeyModifiers::NONE, false);
        assert!(!leaves(&Event::Resize(80, 24)));
    }
}
