//! A table over the vocabulary, of which each rank has an equal run of rows: the embedding, the head, or both at once.

use kernels::{Backend, Result, memory::Memory};

use super::{Source, shard::Tokens};
use crate::{
    models::Role,
    weights::{LoadError, Stored},
};

/// This rank's rows, filled up with zeros where the vocabulary does not divide.
pub(crate) struct Vocabulary<M: Memory> {
    /// `[vocabulary / world size (rounded up), hidden size]`.
    weight: M::Weight,
    /// The token of the first row.
    first_token: u32,
}

impl<M: Memory> Vocabulary<M> {
    /// Takes this rank's rows of `name.weight`.
    pub(crate) fn load(source: &Source<M>, name: &str) -> std::result::Result<Self, LoadError> {
        let (vocab_size, hidden_size) = (source.config().vocab_size, source.config().hidden_size);
        let whole = source.matrix(&format!("{name}.weight"), vocab_size, hidden_size)?;
        let Tokens { own, padding } = source.shard.tokens(vocab_size);
        let first_token = u32::try_from(own.start).expect("the vocabulary's size was checked");
        let mut parts = vec![whole.row_range(own)];
        parts.retain(|part| part.rows() > 0);
        if padding > 0 {
            parts.push(Stored::zeros(padding, hidden_size));
        }
        Ok(Self { weight: source.weight(parts, Role::Vocabulary)?, first_token })
    }

    /// Makes it ready to be the head.
    pub(crate) fn prepare(&self, device: &M) {
        device.prepare_for_few(&self.weight);
    }

    /// `[tokens, hidden size]`: the batch's tokens as hidden states times `scale`, on all ranks.
    pub(crate) fn embed(&self, device: &M, scale: f32, batch: &M::Batch) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let mut hidden = device.embed(&self.weight, self.first_token, scale, batch)?;
        device.all_reduce(&mut hidden)?;
        Ok(hidden)
    }

    /// `[rows, own rows]`: this rank's columns of the logits of `x [rows, hidden size]`. Side by side, those from the
    /// vocabulary's size on are padding.
    pub(crate) fn logits(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        device.scores(x, &self.weight, None)
    }
}
