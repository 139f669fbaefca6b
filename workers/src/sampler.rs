//! Logits → token: a pure function of (logits, parameters, seed, position).
