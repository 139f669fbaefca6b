//! A rank on a GPU, or on a stand-in for one: tokens that the GPU chooses, and those beside them that the host does.

use kernels::{
    cuda::{Activations, Cuda, CudaConfig},
    group::Group,
};
use workers::link::{report::Outcome, sampling::Sampling};
use workers::masks::Masks;
use workers::rank::Rank;
use workers::worker::{CudaChoice, DeviceChoice, WorkerConfig};

use super::*;

/// None where there is no GPU, unless `SHARDWIRE_TEST_GPU` says that there must be one.
fn gpu() -> Option<Cuda> {
    let cache = Some(std::env::temp_dir().join("shardwire-test-kernels"));
    let config = CudaConfig { activations: Activations::F32, cache, ..CudaConfig::default() };
    match Cuda::open(config, Group::solo()) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("SHARDWIRE_TEST_GPU").is_some() => panic!("no GPU to test: {error}"),
        Err(error) => {
            eprintln!("not tested, for there is no GPU: {error}");
            None
        }
    }
}

/// Every sequence's outcomes.
fn outcomes(gpu: Cuda, model: &str, script: Script) -> HashMap<u64, Vec<Outcome>> {
    let choice = CudaChoice {
        f32: true,
        eager: false,
        nccl_only: false,
        own_products: false,
        memory_share: 0.9,
        kernel_cache: None,
        kernels: None,
    };
    let config = WorkerConfig { device: DeviceChoice::Cuda(choice), batch_tokens_max: 64, ..config(model, 0, 1) };
    let mut rank = Rank::load(gpu, &config, &mut |_| ()).expect("the model loads");
    let mut outcomes: HashMap<u64, Vec<Outcome>> = HashMap::new();
    for step in script.steps() {
        for sampled in rank.compute(&step, &mut Masks::default()).expect("a good step").tokens {
            outcomes.entry(sampled.id.0).or_default().push(sampled.outcome);
        }
    }
    outcomes
}

/// Of neighbours in a batch one is chosen on the GPU and the other, whose log-probabilities are wanted, by the host.
#[test]
fn the_gpu_chooses_as_the_host_does() {
    let Some(gpu) = gpu() else { return };
    let draw = Sampling { temperature: 0.8, top_k: 30, top_p: 0.9, seed: 3, ..Sampling::default() };
    let samplings =
        [greedy(), draw.clone(), Sampling { temperature: 1.0, ..greedy() }, Sampling { min_p: 0.1, ..draw }];
    let mut script = Script::default();
    for (id, sampling) in (0..).zip(&samplings) {
        let prompt = prompt(5 + id as u32);
        script.start(2 * id, &prompt, sampling.clone());
        script.start(2 * id + 1, &prompt, Sampling { logprobs: Some(0), ..sampling.clone() });
    }
    script.run_all(8, &|_| 6);
    let outcomes = outcomes(gpu, "llama_basic", script);
    for (id, sampling) in (0..).zip(&samplings) {
        let tokens = |id| outcomes[&id].iter().map(Outcome::token).collect::<Vec<_>>();
        assert_eq!(tokens(2 * id), tokens(2 * id + 1), "{sampling:?}");
        assert_eq!(tokens(2 * id).iter().flatten().count(), 6, "{sampling:?}");
    }
}
