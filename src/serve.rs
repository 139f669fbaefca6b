//! `shardwire serve`: wires config, text, engine, supervisor and HTTP together; signals and exit codes.
