//! `shardwire bench`: one match over what can be measured.

mod kernels;
mod link;
mod sheet;

use std::process::ExitCode;

use crate::config::{BenchCommand, BenchFlags};

/// Measures; what goes wrong is told in one line.
pub fn run(flags: &BenchFlags) -> ExitCode {
    match &flags.command {
        BenchCommand::Kernels(flags) => kernels::run(flags),
        BenchCommand::Link(flags) => link::run(flags),
        BenchCommand::LinkEcho => workers::bench::link::run_echo(),
    }
}
