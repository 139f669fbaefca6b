//! Commands that start a server of their own take `serve`'s flags and hand them on as they were given.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Args, Command, parser::ValueSource};

use super::{ServeFlags, ignored};

/// What the command itself decides about its server.
const DECIDED: &[&str] = &["host", "port", "metrics_port", "api_key", "end_with_parent"];

const HEADING: &str = "Its own server (without --url): all flags of serve";

/// Gives `command` the flags of `serve` that it does not have itself. They make no sense beside `--url`.
pub fn with_flags_of_serve(command: Command) -> Command {
    let own: Vec<String> = command.get_arguments().filter_map(Arg::get_long).map(str::to_owned).collect();
    let new = flags().into_iter().filter(|flag| !own.iter().any(|name| flag.get_long() == Some(name)));
    let of_serve = |flag: Arg| {
        let hidden = flag.is_hide_set();
        flag.help_heading(HEADING).conflicts_with("url").hide(hidden)
    };
    command.args_override_self(true).args(new.map(of_serve))
}

/// The words of the command line that are meant for `serve`. A flag of the command's own that has a name of `serve`'s is
/// meant for both if it has the same id too.
pub fn words_for_serve(given: &ArgMatches) -> Vec<OsString> {
    let on_the_line = |flag: &Arg| {
        let id = flag.get_id().as_str();
        given.try_contains_id(id).is_ok() && given.value_source(id) == Some(ValueSource::CommandLine)
    };
    flags().iter().filter(|flag| on_the_line(flag)).flat_map(|flag| words_of(flag, given)).collect()
}

/// The flags of `serve` that may be handed on.
fn flags() -> Vec<Arg> {
    let serve = ServeFlags::augment_args(Command::new("serve")).args(ignored::arguments());
    let free = |flag: &&Arg| !DECIDED.contains(&flag.get_id().as_str());
    serve.get_arguments().filter(free).cloned().collect()
}

fn words_of(flag: &Arg, given: &ArgMatches) -> Vec<OsString> {
    let name = format!("--{}", flag.get_long().unwrap_or_default());
    if !flag.get_action().takes_values() {
        return vec![name.into()];
    }
    let word = |value: &std::ffi::OsStr| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        word
    };
    given.get_raw(flag.get_id().as_str()).into_iter().flatten().map(word).collect()
}
