//! The bodies of requests, as far as they can be told by types and bounds. Nothing is ever read into these structs:
//! endpoints take fields one by one ([`Fields`](crate::api::fields::Fields)).
#![allow(dead_code, reason = "they are described, not made")]
