//! Who says which token may come next: grammars, thinking budgets, forced calls. The engine knows only that they say it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use workers::link::mask::Allowed;

/// Follows one sequence and says, before each choice, what may be chosen. It sees generated tokens only, each once and in
/// order. Both calls may take milliseconds: they are made on threads of their own, while the ranks compute.
pub trait Guide: Send {
    /// The next generated token, one of those that were allowed.
    fn take(&mut self, token: u32) -> Result<(), GuideError>;

    /// The tokens that may come now. At least one, of those below the model's vocabulary.
    fn allowed(&mut self) -> Result<Allowed, GuideError>;
}

/// A guide that can't go on: its grammar is too complex here, or contradicts itself. Ends its own sequence only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GuideError(pub String);

/// A sequence's guide, shared by the loop and the threads that ask it.
#[derive(Clone)]
pub struct SharedGuide(Arc<Mutex<Box<dyn Guide>>>);

impl SharedGuide {
    /// A guide at the beginning of its sequence.
    pub fn new(guide: impl Guide + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(guide))))
    }

    /// The guide itself; waits for whoever is asking it.
    pub fn lock(&self) -> MutexGuard<'_, Box<dyn Guide>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for SharedGuide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedGuide")
    }
}

impl PartialEq for SharedGuide {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
