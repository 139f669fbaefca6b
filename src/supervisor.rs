//! Starts, watches and stops the workers; the group of ranks is the unit of restart.
