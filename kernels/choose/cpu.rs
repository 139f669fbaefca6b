//! Choosing on the CPU: the logits are the host's already, and the threads share the rows.

use std::{cell::RefCell, convert::Infallible};

use super::{
    Ask, Choose, Chosen, Distribution, Draw,
    rows::{argmax, not_finite},
};
use crate::{
    Result,
    cpu::{Cpu, Split, Tensor},
};

thread_local! {
    /// Each thread's own.
    static DISTRIBUTION: RefCell<Distribution> = RefCell::default();
}

impl Choose for Cpu {
    type Choice = Infallible;

    /// Nothing is gained by choosing later.
    fn begin_choice(&self, _: &Tensor, _: usize, _: &[Ask]) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn is_chosen(&self, choice: &Infallible) -> Result<bool> {
        match *choice {}
    }

    fn chosen(&self, choice: Infallible) -> Result<Vec<Chosen>> {
        match choice {}
    }

    fn choose(&self, logits: &Tensor, vocabulary: usize, asks: &[Ask]) -> Result<Option<Vec<Chosen>>> {
        /// What a token of a row costs, roughly: only sharing among threads depends on it.
        const NANOSECONDS: f64 = 0.2;
        let mut chosen = vec![Chosen::Token(0); asks.len()];
        let places = Split::new(&mut chosen);
        self.team.share(asks.len(), NANOSECONDS * vocabulary as f64, |index| {
            let Ask { row, draw } = asks[index];
            // SAFETY: each ask is one item.
            let place = unsafe { places.part(index..index + 1) };
            place[0] = of_row(&logits.row(row)[..vocabulary], draw.as_ref());
        });
        Ok(Some(chosen))
    }
}

fn of_row(logits: &[f32], draw: Option<&Draw>) -> Chosen {
    if let Some(token) = not_finite(logits) {
        return Chosen::NotFinite { token: token as u32, value: logits[token] };
    }
    let best = argmax(logits).expect("there are tokens");
    let token = draw.map_or(best, |draw| {
        DISTRIBUTION.with_borrow_mut(|distribution| {
            distribution.compute(logits, logits[best], draw);
            distribution.draw(draw.uniform)
        })
    });
    Chosen::Token(token as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        Cpu::kinds().iter().for_each(crate::choose::check);
    }
}
