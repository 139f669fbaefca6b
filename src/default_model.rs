//! The model that is served when none is named: SmolLM2-135M-Instruct, fetched once, checked, cached.
