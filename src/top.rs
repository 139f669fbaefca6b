//! `shardwire top`: a live terminal view of the ranks.
