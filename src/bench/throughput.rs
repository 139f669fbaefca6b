//! `shardwire bench throughput`: all requests at once.

use super::{
    Halt, conclude,
    conditions::Conditions,
    levels::{self, Plan},
    results,
    session::Session,
    table::{Detail, table},
    workload::Workload,
};
use crate::config::BenchThroughputFlags;

/// Measures; the exit code.
pub fn measure(flags: &BenchThroughputFlags) -> Result<u8, Halt> {
    results::check_writable([flags.asking.json.as_deref(), None])?;
    let plan = Plan { open_max: Some(flags.num_prompts), rate: None, requests: flags.num_prompts as usize };
    let mut session = Session::open(&flags.asking, flags.num_prompts)?;
    let warmup = flags.warmup as usize;
    let count = warmup + plan.requests * flags.rounds as usize;
    let mut workload = Workload::open(&flags.asking, &flags.prompts, count, &session.target)?;
    let requests = workload.round(warmup, &session.target);
    session.warm_up(&requests, plan.requests)?;
    let (levels, ended) = levels::measure(&mut session, &mut workload, &[plan], flags.rounds, flags.asking.seed);
    let conditions = Conditions::of(&session.target, &flags.asking.server.serve_words, workload.name);
    println!("{}\n{}", conditions.text(), table(&levels, Detail::Throughput).trim_end());
    if let Some(path) = &flags.asking.json {
        results::write(path, &format!("{}\n", results::of_levels("bench throughput", &conditions, &levels, &ended)))?;
    }
    conclude(&mut session, &levels, &ended)
}
