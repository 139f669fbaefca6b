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

fn rank(gpu: Cuda, model: &str) -> Rank<Cuda> {
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
    Rank::load(gpu, &config, &mut |_| ()).expect("the model loads")
}

/// Every sequence's outcomes.
#[derive(Default)]
struct Outcomes(HashMap<u64, Vec<Outcome>>);

impl Outcomes {
    fn add(&mut self, report: StepReport) {
        for sampled in report.tokens {
            self.0.entry(sampled.id.0).or_default().extend(sampled.outcomes);
        }
    }

    /// Each step once all is known of the one before.
    fn one_by_one(gpu: Cuda, model: &str, steps: &[Step]) -> Self {
        let mut rank = rank(gpu, model);
        let mut outcomes = Self::default();
        for step in steps {
            outcomes.add(rank.compute(step, &mut Masks::default()).expect("a good step"));
        }
        outcomes
    }

    /// Each step begins before the tokens of the one before are known, wherever the GPU chooses them.
    fn ahead(gpu: Cuda, model: &str, steps: &[Step]) -> (Self, usize) {
        let mut rank = rank(gpu, model);
        let taken = rank.device().activation_bytes();
        let (mut outcomes, mut begun_early) = (Self::default(), 0);
        for step in steps {
            let begun = rank.begin(step).expect("a good step");
            if rank.is_choosing() {
                begun_early += 1;
                outcomes.add(rank.settle().expect("tokens"));
            }
            if let Some(report) = rank.conclude(begun, &mut Masks::default()).expect("a good step") {
                outcomes.add(report);
            }
        }
        if rank.is_choosing() {
            outcomes.add(rank.settle().expect("tokens"));
        }
        assert_eq!(rank.device().activation_bytes(), taken, "no step takes memory that the start did not");
        (outcomes, begun_early)
    }
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
    let Outcomes(outcomes) = Outcomes::one_by_one(gpu, "llama_basic", &script.steps());
    for (id, sampling) in (0..).zip(&samplings) {
        let tokens = |id| outcomes[&id].iter().map(Outcome::token).collect::<Vec<_>>();
        assert_eq!(tokens(2 * id), tokens(2 * id + 1), "{sampling:?}");
        assert_eq!(tokens(2 * id).iter().flatten().count(), 6, "{sampling:?}");
    }
}

/// Prompts in chunks beside sequences that decode, one that ends and one that comes; among them, for a while, one whose
/// tokens the host chooses.
#[test]
fn a_step_may_begin_before_the_tokens_of_the_last_are_known() {
    let (Some(first), Some(second)) = (gpu(), gpu()) else { return };
    let draw = Sampling { temperature: 0.9, top_p: 0.95, seed: 9, ..Sampling::default() };
    let mut script = Script::default();
    script.start(1, &prompt(3), greedy());
    script.start(2, &prompt(19), draw.clone());
    script.run_all(8, &|_| 5);
    script.start(3, &prompt(4), Sampling { logprobs: Some(1), ..draw.clone() });
    script.run_all(8, &|id| if id == 3 { 3 } else { 8 });
    script.finish(3);
    script.finish(1);
    script.start(4, &prompt(6), Sampling { seed: 10, ..draw });
    script.run_all(8, &|_| 14);
    let steps = script.steps();
    let expected = Outcomes::one_by_one(first, "llama_basic", &steps);
    let (found, begun_early) = Outcomes::ahead(second, "llama_basic", &steps);
    assert_eq!(found.0, expected.0);
    assert!(begun_early > steps.len() / 2, "{begun_early} of {} steps began early", steps.len());
}
