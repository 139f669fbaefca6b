//! What a model is made of: weights that know their own shard, and the operations they go through.
