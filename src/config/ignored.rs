//! FastDeploy's flags that have no meaning here: accepted, so that its commands run unchanged, with one warning each.

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};

/// Whether a flag is followed by a value.
#[derive(Debug, Clone, Copy)]
enum Takes {
    Nothing,
    Value,
}
use Takes::{Nothing, Value};

const IGNORED: &[(&str, Takes, &str)] = &[
    ("cache-queue-port", Value, "processes here are joined by private shared memory, not ports"),
    ("cache-transfer-protocol", Value, "prefill and decode aren't split here"),
    ("controller-port", Value, "there is no control port"),
    ("data-parallel-size", Value, "one server runs one group of ranks; start several servers"),
    ("dynamic-load-weight", Nothing, "weights can't be replaced while running"),
    ("enable-chunked-prefill", Nothing, "prompts are always computed in chunks"),
    ("enable-mm", Nothing, "only text is served"),
    ("engine-worker-queue-port", Value, "processes here are joined by private shared memory, not ports"),
    ("graph-optimization-config", Value, "graphs need no configuration here"),
    ("innode-prefill-ports", Value, "prefill and decode aren't split here"),
    ("ips", Value, "one machine is served"),
    ("kv-cache-ratio", Value, "prefill and decode share all blocks"),
    ("limit-mm-per-prompt", Value, "only text is served"),
    ("lm-head-fp32", Nothing, "logits are always computed in f32"),
    ("load-strategy", Value, "weights can't be replaced while running"),
    ("local-data-parallel-id", Value, "one server runs one group of ranks"),
    ("max-long-partial-prefills", Value, "one prompt after the other is computed"),
    ("max-num-partial-prefills", Value, "one prompt after the other is computed"),
    ("mm-processor-kwargs", Value, "only text is served"),
    ("pd-comm-port", Value, "prefill and decode aren't split here"),
    ("rdma-comm-ports", Value, "one machine is served"),
    ("router", Value, "one machine is served"),
    ("scheduler-name", Value, "there is one scheduler"),
    ("splitwise-role", Value, "prefill and decode aren't split here"),
    ("static-decode-blocks", Value, "blocks are handed out one by one"),
    ("swap-space", Value, "there is no second tier of the prefix cache"),
    ("tool-parser-plugin", Value, "Python plugins can't be loaded"),
    ("trust-remote-code", Nothing, "no code of a model is ever run"),
    ("use-cudagraph", Nothing, "graphs need no configuration here"),
    ("use-warmup", Value, "ranks always warm up"),
];

/// Definitions of the ignored flags, hidden from help.
pub fn arguments() -> Vec<Arg> {
    IGNORED
        .iter()
        .map(|&(name, takes, _)| {
            let argument = Arg::new(name).long(name).hide(true);
            match takes {
                Nothing => argument.action(ArgAction::SetTrue),
                Value => argument.num_args(1).allow_hyphen_values(true),
            }
        })
        .collect()
}

/// One sentence for each ignored flag that was given.
pub fn warnings(given: &ArgMatches) -> Vec<String> {
    let said = |name: &str| given.value_source(name) == Some(ValueSource::CommandLine);
    let of = |&(name, _, why): &(&str, Takes, &str)| said(name).then(|| format!("--{name} is ignored: {why}"));
    IGNORED.iter().filter_map(of).collect()
}
