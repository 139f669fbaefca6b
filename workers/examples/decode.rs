//! Three decode steps of a model that needs no files: random weights of the shape that a `config.json` has, and
//! sequences whose context is said to be in the KV cache already, as a cached prefix is. On GPUs, which may be simulated;
//! for `scripts/cuda-cost`. The workers are real ones, so that all that a step asks of the device is as in a server.
//!
//! The first step is computed kernel by kernel, the second recorded and replayed, the third replayed.
//!
//!     decode FOLDER RANKS SEQUENCES CONTEXT none|wint8|wint4 [FOLDER of all ranks but the first]
//!
//! Where only the first rank's kernels are computed (`STAND_IN_KERNELS=sample`), the others can do with smaller layers:
//! it is the hidden size, the vocabulary, the heads and the number of layers that must be the same. They aren't quantized.

use std::{
    io::Write,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use workers::{
    KvDType,
    link::{
        LinkConfig, ServerLink,
        sampling::Sampling,
        step::{Chunk, NewSequence, SequenceId, Step},
        vitals::RankState,
    },
    models::{Quantization, WeightOptions},
    worker::{CudaChoice, DeviceChoice, WorkerConfig},
};

/// A simulated GPU takes its time.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Tokens in a KV block; the server's default.
const BLOCK_SIZE: usize = 64;

const STEPS: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker"] => workers::worker::run(),
        [folder, ranks, sequences, context, quantization] => {
            let quantization = quantization_of(quantization);
            decode([ranks, sequences, context], |_| (folder, quantization))
        }
        [folder, ranks, sequences, context, quantization, others] => {
            let quantization = quantization_of(quantization);
            let model = |rank| if rank == 0 { (folder, quantization) } else { (others, None) };
            decode([ranks, sequences, context], model)
        }
        _ => {
            eprintln!("decode FOLDER RANKS SEQUENCES CONTEXT none|wint8|wint4 [FOLDER of all ranks but the first]");
            ExitCode::from(2)
        }
    }
}

fn quantization_of(text: &str) -> Option<Quantization> {
    match text {
        "none" => None,
        "wint8" => Some(Quantization::WInt8),
        "wint4" => Some(Quantization::WInt4),
        other => panic!("none, wint8 or wint4, not {other}"),
    }
}

/// `model` is a rank's folder, and what it is quantized to.
fn decode<'a>(numbers: [&str; 3], model: impl Fn(usize) -> (&'a str, Option<Quantization>)) -> ExitCode {
    let [ranks, sequences, context] = numbers.map(|text| text.parse::<usize>().expect("a number"));
    let link = LinkConfig {
        world_size: ranks,
        epoch: 0,
        step_ring_bytes: 64 << 20,
        return_ring_bytes: 1 << 20,
        mask_ring_bytes: 1 << 16,
        meeting_bytes: workers::meeting_bytes(ranks),
        spin: false,
    };
    let mut link = ServerLink::create(&link).expect("shared memory");
    let config = |rank| WorkerConfig {
        kv_memory: None,
        rank,
        world_size: ranks,
        epoch: 0,
        link: link.name(),
        model: model(rank).0.into(),
        weights: WeightOptions { random: true, quantization: model(rank).1, ..WeightOptions::default() },
        device: DeviceChoice::Cuda(CudaChoice {
            f32: false,
            eager: false,
            nccl_only: false,
            own_products: true, // they tell what they read
            memory_share: 0.9,
            kernel_cache: Some(std::env::temp_dir().join("shardwire-test-kernels")),
            kernels: None,
        }),
        max_model_len: context,
        batch_tokens_max: sequences,
        sequences_max: sequences,
        draft_max: 0,
        block_size: BLOCK_SIZE,
        kv_cache_bytes: 0,
        kv_blocks: Some(sequences * context.div_ceil(BLOCK_SIZE)),
        activation_bytes: false,
        kv_dtype: KvDType::BF16,
        threads: 1,
        cores: Vec::new(),
        spin: false,
    };
    let mut workers: Vec<Child> = (0..ranks).map(|rank| spawn(&config(rank))).collect();
    let started = Instant::now();
    while link.vitals.read_all().iter().any(|vitals| vitals.state != RankState::Ready) {
        check_alive(&mut workers, started);
    }
    link.unlink();
    eprintln!("loaded in {:.0?}", started.elapsed());
    let (steps, started) = (steps(sequences, context), Instant::now());
    for step in &steps {
        link.steps.publish(step, LIMIT).expect("the ranks take"); // all at once: the next one waits for no report
    }
    for step in &steps {
        while link.reports.take(Duration::from_millis(100)).expect("a good report").is_none() {
            check_alive(&mut workers, started);
        }
        eprintln!("step {} after {:.1?}", step.number, started.elapsed());
    }
    for mut worker in workers {
        drop(worker.stdin.take());
        assert!(worker.wait().expect("a child").success(), "a worker ended badly");
    }
    ExitCode::SUCCESS
}

/// Starts a worker; it goes when its standard input ends.
fn spawn(config: &WorkerConfig) -> Child {
    let this = std::env::current_exe().expect("this binary");
    let mut child = Command::new(this).arg("worker").stdin(Stdio::piped()).spawn().expect("spawns");
    let line = serde_json::to_string(config).expect("plain data") + "\n";
    child.stdin.as_mut().expect("piped").write_all(line.as_bytes()).expect("the worker listens");
    child
}

fn check_alive(workers: &mut [Child], since: Instant) {
    for worker in workers {
        let ended = worker.try_wait().expect("a child");
        assert!(ended.is_none(), "a worker ended: {ended:?}");
    }
    assert!(since.elapsed() < LIMIT, "nothing happens any more");
    std::thread::sleep(Duration::from_millis(10));
}

/// The last step has this context, tokens; those before it a token less each.
fn steps(sequences: usize, context: usize) -> Vec<Step> {
    let known = context + 1 - STEPS;
    let blocks = context.div_ceil(BLOCK_SIZE);
    let new = |id: usize| NewSequence {
        id: SequenceId(id as u64),
        tokens: (0..known).map(|at| ((id * 7919 + at * 31 + 20) % 1000) as u32).collect(),
        prompt_length: known as u32,
        sampling: Sampling { seed: id as u64, ..Sampling::default() }, // so that each has another token
        pooling: None,
    };
    let chunk = |id: usize, step: usize| Chunk {
        id: SequenceId(id as u64),
        start: (known + step - 1) as u32,
        count: 1,
        new_blocks: if step == 0 {
            (id * blocks..(id + 1) * blocks).map(|block| block as u32).collect()
        } else {
            vec![]
        },
        samples: true,
        ..Chunk::default()
    };
    let step = |step: usize| Step {
        number: step as u64 + 1,
        finished: Vec::new(),
        started: if step == 0 { (0..sequences).map(new).collect() } else { Vec::new() },
        batch: (0..sequences).map(|id| chunk(id, step)).collect(),
    };
    (0..STEPS).map(step).collect()
}
