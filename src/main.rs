//! The `shardwire` binary: one match over its subcommands.

use shardwire::config::CommandLine;

fn main() {
    let _line = CommandLine::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
}
