//! A model's files on their way to a rank: opened, checked, and its weights laid out as for a device.

use std::path::Path;

use kernels::{
    cpu::{Cpu, CpuConfig},
    group::Group,
};
use workers::{
    layers::Shard,
    models::{self, LoadOptions, WeightOptions},
    weights::{Checkpoint, LoadError},
};

/// Opens, checks and loads the model at `path`; an error must be one line.
pub fn load(path: &Path) {
    if let Err(error) = try_load(path) {
        let line = error.to_string();
        assert!(!line.contains('\n'), "more than one line: {line}");
    }
}

fn try_load(path: &Path) -> Result<(), LoadError> {
    let weights = WeightOptions::default();
    let checkpoint = Checkpoint::open(path)?;
    models::check(&checkpoint, 2, weights)?;
    models::check(&checkpoint, 1, weights)?;
    let device = Cpu::new(CpuConfig { threads: 1, ..CpuConfig::default() }, Group::solo());
    let options = LoadOptions { max_model_len: 64, threads: 1, weights };
    models::load(&device, &checkpoint, Shard::WHOLE, options, &mut |_| {})?;
    Ok(())
}
