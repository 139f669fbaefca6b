//! The `shardwire` binary: one match over its subcommands.

use std::process::ExitCode;

use shardwire::{
    config::{Command, CommandLine},
    default_model, serve, top,
};

fn main() -> ExitCode {
    let line = CommandLine::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match line.command {
        Command::Serve(flags) => serve::run(*flags),
        Command::Top(flags) => top::run(&flags),
        Command::Worker => workers::worker::run(),
        Command::Fetch => fetch(),
    }
}

fn fetch() -> ExitCode {
    match default_model::locate() {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("shardwire: {error}");
            ExitCode::from(2)
        }
    }
}
