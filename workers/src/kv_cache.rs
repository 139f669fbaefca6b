//! The memory behind block ids: how many blocks fit.
