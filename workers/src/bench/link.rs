//! How fast two processes talk through the link's rings, as a server and a rank do: an *asker*, which asks and measures,
//! and its *echo*, which answers.
//!
//! Two rings of their own join them, of the kinds that carry steps and reports. Frames are bytes that nobody reads but for
//! a [`Word`] at their beginning.

mod asker;
mod echo;
mod spread;
mod word;

use serde::{Deserialize, Serialize};

pub use self::{
    asker::{Asker, AskerError},
    echo::run as run_echo,
    spread::Spread,
};
use crate::{
    child::keep_to,
    link::{
        LinkError,
        name::{LinkName, Role},
        ring::{RingMemory, RingShape, Waiting},
    },
};

/// Room of each ring, about as a small server has it.
const ROOM_BYTES: usize = 1 << 20;

/// What an echo is told, by one line of JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoConfig {
    /// The link's name.
    pub link: String,
    /// Whether it looks around for a while before it sleeps, as ranks with cores of their own do.
    pub spin: bool,
    /// The core that it keeps to; none: any.
    pub core: Option<usize>,
}

/// From the asker to its echo, and back.
fn ring(name: LinkName, role: Role) -> (String, RingShape) {
    (name.segment(0, role), RingShape { role, epoch: 0, readers: 1 })
}

fn attach(name: LinkName, role: Role) -> Result<RingMemory, LinkError> {
    let (segment, shape) = ring(name, role);
    RingMemory::attach(&segment, shape)
}

fn waiting(spin: bool) -> Waiting {
    Waiting::new(spin)
}

/// Keeps the calling thread to a core.
fn stay_on(core: Option<usize>) {
    keep_to(core.as_slice());
}
