//! The meeting place of CPU ranks: a segment of shared memory in which collectives happen.
