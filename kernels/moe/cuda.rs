//! Mixtures of experts on a GPU.

mod products;
mod route;
mod visits;

use super::{Experts, Moe, Routing};
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Element, Pointer, Shape, Tensor},
    glu::{Activation, Glu},
};
use products::{Product, Run, Size};
use visits::Visits;

impl Moe for Cuda {
    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, routing: &Routing) -> Result<Tensor> {
        route::route(self, logits, bias, routing)
    }

    fn experts(&self, x: &Tensor, routes: &Tensor, experts: &Experts<Self>, onto: Option<Tensor>) -> Result<Tensor> {
        let (tokens, hidden_size) = (x.rows(), x.columns());
        assert_eq!((x.element(), routes.rows()), (self.act(), tokens), "activations, with routes of each");
        let is_alike = |onto: &Tensor| (onto.element(), onto.elements()) == (x.element(), x.elements());
        assert!(onto.as_ref().is_none_or(is_alike), "what is added to has the shape of x");
        let is_added = onto.is_some();
        let sum = onto.map_or_else(|| self.activations(tokens, hidden_size), Ok)?;
        if x.elements() == 0 {
            return Ok(sum);
        }
        let stack = Stack::of(experts, hidden_size)?;
        let fits = |shape: Shape| {
            let shared_bytes = |run: &Run| shape.shared_bytes(run.dtype, self.act());
            stack.runs().all(|run| shared_bytes(run) <= self.facts().shared_bytes_max as usize)
        };
        let size = Size::of(tokens * experts.chosen.min(routes.columns()), routes.columns(), fits);
        let visits = Visits::find(self, routes, experts, size.visits())?;
        let inner = self.inner(x, experts, &stack, &visits, size)?;
        let made = self.activations(visits.visits_max, hidden_size)?;
        let product = Product {
            visits: &visits,
            size,
            x: inner.pointer(),
            of_visits: true,
            inputs: stack.width,
            bias: experts.down_bias.as_ref().map(Tensor::pointer),
            bias_step: hidden_size,
            y: made.pointer(),
            y_stride: hidden_size,
            width: hidden_size,
            gates: None,
        };
        // SAFETY: a row of `inner` and of `made` for each visit, of as many columns as the experts' matrices have inputs and
        // outputs, as was asserted with the biases of all experts.
        unsafe { product.launch(self, &stack.down) }?;
        drop(inner);
        visits.add(self, (&sum, is_added), &made, (routes, experts.first))?;
        Ok(sum)
    }
}

/// Where a layer's experts lie.
struct Stack {
    width: usize,
    gates: Vec<Run>,
    ups: Vec<Run>,
    down: Vec<Run>,
}

impl Stack {
    fn of(experts: &Experts<Cuda>, hidden_size: usize) -> Result<Self> {
        let &Experts { count, ref gate_up, ref down, ref gate_up_bias, ref down_bias, .. } = experts;
        if count > visits::EXPERTS_MAX {
            return Err(DeviceError::Unsupported(format!("{count} experts on one GPU")));
        }
        let width = down.inputs;
        assert_eq!((gate_up.outputs, gate_up.inputs), (count * 2 * width, hidden_size), "gates and ups of all experts");
        assert_eq!(down.outputs, count * hidden_size, "down projections of all experts");
        let are_biases = |bias: &Option<Tensor>, length: usize| {
            bias.as_ref().is_none_or(|bias| (bias.elements(), bias.element()) == (length, Element::F32))
        };
        assert!(are_biases(gate_up_bias, count * 2 * width) && are_biases(down_bias, count * hidden_size), "biases");
        Ok(Self {
            width,
            gates: Run::all(gate_up, count, width, |expert| 2 * expert * width),
            ups: Run::all(gate_up, count, width, |expert| (2 * expert + 1) * width),
            down: Run::all(down, count, hidden_size, |expert| expert * hidden_size),
        })
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.gates.iter().chain(&self.ups).chain(&self.down)
    }
}

impl Cuda {
    /// `[visits, width]`: what goes into the down projections.
    fn inner(&self, x: &Tensor, experts: &Experts<Self>, stack: &Stack, visits: &Visits, size: Size) -> Result<Tensor> {
        let width = stack.width;
        let bias = |first: usize| {
            let bias = experts.gate_up_bias.as_ref();
            bias.map(|bias| bias.pointer().offset(first * Element::F32.bytes()))
        };
        let product = |y: Pointer, y_stride: usize, bias: Option<Pointer>, gates: Option<Activation>| Product {
            visits,
            size,
            x: x.pointer(),
            of_visits: false,
            inputs: x.columns(),
            bias,
            bias_step: 2 * width,
            y,
            y_stride,
            width,
            gates,
        };
        if let Some(pairs) = Run::paired(&stack.gates, &stack.ups) {
            let inner = self.activations(visits.visits_max, width)?;
            let both = product(inner.pointer(), width, bias(0), Some(experts.activation));
            // SAFETY: `x` has a row for each token and as many columns as the matrices inputs, `inner` a row for each visit
            // and a column for each pair; a bias has been asserted to be as long as all rows.
            unsafe { both.launch(self, &pairs) }?;
            return Ok(inner);
        }
        // Gates and ups of different formats need a kernel each.
        let gate_up = self.activations(visits.visits_max, 2 * width)?;
        let to_ups = gate_up.pointer().offset(width * gate_up.element().bytes());
        let gates = product(gate_up.pointer(), 2 * width, bias(0), None);
        let ups = product(to_ups, 2 * width, bias(width), None);
        // SAFETY: the same, but that rows have room for both.
        unsafe { gates.launch(self, &stack.gates) }?;
        // SAFETY: the same.
        unsafe { ups.launch(self, &stack.ups) }?;
        self.glu(&gate_up, experts.activation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType,
        memory::Memory,
        samples::{Samples, Tested},
    };

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::moe::check(&gpu);
        }
    }

    /// What a router never does must not lead astray: lists have room for the chosen.
    #[test]
    fn routes_beyond_the_chosen_are_cut() {
        const EXPERTS: usize = 40;
        const SIZE: usize = 32;
        for gpu in Cuda::kinds() {
            let mut samples = Samples::new(8);
            let mut matrices = |count: usize| {
                let matrices = (0..count).map(|_| samples.matrix(DType::F32, SIZE, SIZE)).collect();
                gpu.weight(matrices).expect("a weight")
            };
            let experts = Experts {
                first: 1,
                count: EXPERTS - 1,
                chosen: 3,
                gate_up: matrices(2 * (EXPERTS - 1)),
                gate_up_bias: None,
                down: matrices(EXPERTS - 1),
                down_bias: None,
                activation: Activation::Silu,
            };
            for tokens in [70, 300] {
                let x = gpu.tensor(tokens, SIZE, &samples.floats(tokens * SIZE)).expect("memory");
                let mut routes: Vec<f32> = (0..tokens * EXPERTS).map(|_| samples.below(3) as f32).collect();
                let answer = |routes: &[f32]| {
                    let routes = gpu.residual(tokens, EXPERTS, routes);
                    let sum = gpu.experts(&x, &routes, &experts, None).expect("experts");
                    gpu.to_host(&sum).expect("a copy")
                };
                let all = answer(&routes);
                for row in routes.chunks_exact_mut(EXPERTS) {
                    let beyond = row[1..].iter_mut().filter(|weight| **weight != 0.0).skip(3);
                    beyond.for_each(|weight| *weight = 0.0);
                }
                assert_eq!(answer(&routes), all, "{tokens} tokens");
            }
        }
    }
}
