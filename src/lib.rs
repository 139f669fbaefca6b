//! Shardwire decides here: text in, text out, and which tokens next. No tensor is ever seen in this crate.
//!
//! A request's way: [`api`] (HTTP) → [`text`] (template, tokens) → [`engine`] (schedule, publish, collect, deliver) and
//! back; [`guides`] keeps answers to a form. [`supervisor`] keeps the worker processes alive beside it, [`monitor`] counts,
//! [`traces`] tells where the time of each went, [`liveness`] knows whether the loops run, [`config`] names every flag, [`hub`] finds and fetches models. [`batch`], [`bench`], [`chat`], [`top`],
//! [`inspect`], [`collect_env`] and [`selftest`] are commands beside [`serve`]; the first four ask a [`remote`] server,
//! perhaps an [`own_server`].

#![forbid(unsafe_code)]

pub mod apart;
pub mod api;
pub mod batch;
pub mod bench;
pub mod chat;
pub mod collect_env;
pub mod config;
pub mod default_model;
pub mod engine;
#[cfg(test)]
#[path = "../tests/fixtures/mod.rs"]
mod fixtures;
pub mod guides;
pub mod hub;
pub mod inspect;
pub mod interrupts;
pub mod liveness;
pub mod monitor;
pub mod own_server;
pub mod remote;
pub mod selftest;
pub mod serve;
pub mod supervisor;
pub mod text;
pub mod top;
pub mod traces;
pub mod user_data;
