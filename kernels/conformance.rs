//! Every operation's conformance check, for whoever wants to know whether a machine computes as it should
//! (`shardwire selftest`). The tests run the same ones.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use crate::{
    Result, all_gather, all_reduce, attention, choose,
    cpu::{Cpu, CpuConfig, Instructions},
    cuda::{Activations, Cuda, CudaConfig, check_products},
    embed, glu,
    group::Group,
    matmul,
    memory::Memory,
    mla, moe, repeat, rms_norm, rotary,
    samples::Tested,
    select_rows,
};

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The device, for people.
    pub device: String,
    /// The operation.
    pub operation: &'static str,
    /// How long it took, kernels that had to be compiled included.
    pub took: Duration,
    /// What was wrong, if something was.
    pub fault: Option<String>,
}

/// Checks every operation on the processor, with the best instructions that it has, with fewer and with plain ones.
pub fn check_cpu(tell: &mut dyn FnMut(Finding)) {
    let mut names = Vec::new();
    for instructions in [Instructions::Best, Instructions::Avx2, Instructions::Portable] {
        let cpu = Cpu::new(CpuConfig { threads: 2, instructions, ..CpuConfig::default() }, Group::solo());
        // Where the best is no more than that, once is enough.
        if !names.contains(&cpu.name()) {
            names.push(cpu.name());
            check(&cpu, tell);
        }
    }
}

/// Checks every operation on the GPU of `config`, with both types of activations; and what NVIDIA's library takes over, or
/// kernels that few GPUs have, without these, too.
pub fn check_gpu(config: &CudaConfig, tell: &mut dyn FnMut(Finding)) -> Result<()> {
    for activations in [Activations::F32, Activations::BF16] {
        check(&Cuda::open(CudaConfig { activations, ..config.clone() }, Group::solo())?, tell);
    }
    if check_products().is_ok() {
        let config = CudaConfig { own_products: true, common_products: true, ..config.clone() };
        let alone = Cuda::open(config, Group::solo())?;
        check_one(&alone, "matmul by own kernels", matmul::check, tell);
    }
    Ok(())
}

/// Checks what GPUs do together, on the first `ranks` of them, with both types of activations.
pub fn check_gpus(config: &CudaConfig, ranks: usize, tell: &mut dyn FnMut(Finding)) -> Result<()> {
    for activations in [Activations::F32, Activations::BF16] {
        let of_rank = |gpu: &Cuda| {
            let mut findings = Vec::new();
            check_among(gpu, &mut |finding| findings.push(finding));
            findings
        };
        let config = CudaConfig { activations, ..config.clone() };
        Cuda::each_of(&config, ranks, of_rank)?.into_iter().flatten().for_each(&mut *tell);
    }
    Ok(())
}

type Check<B> = fn(&B);

fn check_among<B: Tested>(device: &B, tell: &mut dyn FnMut(Finding)) {
    let checks: [(&'static str, Check<B>); 3] = [
        ("all_reduce", all_reduce::check_among),
        ("all_gather", all_gather::check_among),
        ("choose, together", choose::check_among),
    ];
    run(device, &checks, tell);
}

fn check<B: Tested>(device: &B, tell: &mut dyn FnMut(Finding)) {
    let checks: [(&'static str, Check<B>); 11] = [
        ("embed", embed::check),
        ("matmul", matmul::check),
        ("rms_norm", rms_norm::check),
        ("rotary", rotary::check),
        ("attention", attention::check),
        ("mla", mla::check),
        ("glu", glu::check),
        ("moe", moe::check),
        ("select_rows", select_rows::check),
        ("choose", choose::check),
        ("repeat", repeat::check),
    ];
    run(device, &checks, tell);
}

fn run<B: Tested>(device: &B, checks: &[(&'static str, Check<B>)], tell: &mut dyn FnMut(Finding)) {
    for &(operation, check) in checks {
        check_one(device, operation, check, tell);
    }
}

fn check_one<B: Tested>(device: &B, operation: &'static str, check: fn(&B), tell: &mut dyn FnMut(Finding)) {
    let started = Instant::now();
    let fault = fault_of(|| check(device));
    let device = format!("{}{}", device.name(), device.precision());
    tell(Finding { device, operation, took: started.elapsed(), fault });
}

/// What a check had to say against a result, if something.
pub fn fault_of(check: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(check)).err().map(words)
}

/// What a panic said.
fn words(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast::<String>().map(|text| *text);
    text.or_else(|panic| panic.downcast::<&str>().map(|text| text.to_string())).unwrap_or_else(|_| "it broke".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_checked_and_faults_are_told() {
        let mut findings = Vec::new();
        check_cpu(&mut |finding| findings.push(finding));
        let mut devices: Vec<&str> = findings.iter().map(|finding| &*finding.device).collect();
        devices.dedup();
        assert!(devices.last().is_some_and(|last| last.ends_with("portable)")), "{devices:?}");
        assert_eq!(findings.len(), 11 * devices.len(), "{devices:?}");
        assert!(findings.iter().all(|finding| finding.fault.is_none()), "{findings:?}");
        assert_eq!(words(catch_unwind(|| panic!("element {} is off", 7)).expect_err("a panic")), "element 7 is off");
    }
}
