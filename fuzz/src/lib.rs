//! What Shardwire reads and didn't write, one room per kind: each is handed any bytes, and has to answer with a value or an
//! error. A panic is a defect, and so is more memory than [`memory::BYTES_MAX`].
//!
//! `scripts/fuzz` runs one for as long as it is told; `tests/replay.rs` runs all of them on what was found before.

#![deny(unsafe_code)]

mod chat_templates;
mod fixtures;
mod gguf;
mod link_frames;
#[allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one counts and calls the system's")]
pub mod memory;
mod models;
mod requests;
mod safetensors;
mod vocabularies;

/// A reader with its name, which is that of its folder in `corpus/`, too.
pub struct Target {
    /// By which it is asked for.
    pub name: &'static str,
    /// Hands it these bytes.
    pub read: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "requests", read: requests::read },
    Target { name: "chat-templates", read: chat_templates::read },
    Target { name: "gguf", read: gguf::read },
    Target { name: "safetensors", read: safetensors::read },
    Target { name: "vocabularies", read: vocabularies::read },
    Target { name: "link-frames", read: link_frames::read },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Makes what it makes once, so that no input has to answer for that memory.
    pub fn warm_up(&self) {
        (self.read)(&[]);
    }

    /// Reads `input` within the bound on memory.
    pub fn run(&self, input: &[u8]) {
        memory::bounded(|| (self.read)(input));
    }
}
