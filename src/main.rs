//! The `shardwire` binary: one match over its subcommands.

use std::process::ExitCode;

use shardwire::{
    batch, bench, chat, collect_env,
    config::{Command, CommandLine, FetchFlags},
    hub, inspect, interrupts, selftest, serve, top,
};

fn main() -> ExitCode {
    let line = CommandLine::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match line.command {
        Command::Serve(flags) => serve::run(*flags),
        Command::Top(flags) => top::run(&flags),
        Command::Chat(flags) => chat::run(&flags, chat::Manner::Chat),
        Command::Complete(flags) => chat::run(&flags, chat::Manner::Complete),
        Command::RunBatch(flags) => batch::run(&flags),
        Command::Bench(flags) => bench::run(&flags),
        Command::Inspect(flags) => inspect::run(&flags),
        Command::CollectEnv(flags) => collect_env::run(&flags),
        Command::Selftest(flags) => selftest::run(&flags),
        Command::Worker => workers::worker::run(),
        Command::Fetch(flags) => fetch(flags),
    }
}

fn fetch(flags: FetchFlags) -> ExitCode {
    let found = interrupts::all().map(|interrupts| hub::model_path_unless(&interrupts, flags.model, flags.hub));
    let (code, why) = match found {
        Ok(Some(Ok(path))) => {
            println!("{}", path.display());
            return ExitCode::SUCCESS;
        }
        Ok(None) => (130, "interrupted; the same command goes on where this ended".into()),
        Ok(Some(Err(why))) | Err(why) => (2, why),
    };
    eprintln!("shardwire: {why}");
    ExitCode::from(code)
}
