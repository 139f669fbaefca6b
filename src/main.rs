//! The `shardwire` binary: one match over its subcommands.

fn main() {}
