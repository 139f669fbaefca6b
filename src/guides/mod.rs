//! What a client may ask of the form of an answer: a JSON schema, a regular expression, a list of choices, a grammar.
//!
//! [`grammar`] says what is wanted, [`tools`] what a forced call of a tool looks like.

pub mod grammar;
pub mod tools;

pub use grammar::Grammar;
