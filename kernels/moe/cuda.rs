//! Mixtures of experts on a GPU.

mod products;
mod visits;

use super::{Experts, Groups, Moe, Routing, Scoring};
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Element, Grid, Pointer, Shape, Source, Tensor},
    glu::{Activation, Glu},
};
use products::{Product, Run, Size};
use visits::Visits;

/// All but the experts' products.
const SOURCE: Source = Source { name: "moe", text: include_str!("cuda.cu") };

impl Moe for Cuda {
    fn route(&self, logits: &Tensor, bias: Option<&Tensor>, routing: &Routing) -> Result<Tensor> {
        /// A warp takes a token, and a block has four.
        const TOKENS: usize = 4;
        let (tokens, experts) = (logits.rows(), logits.columns());
        let &Routing { chosen, scoring, groups, normalise, scale } = routing;
        assert!((1..=experts).contains(&chosen), "some of the experts are chosen");
        assert_eq!(logits.element(), Element::F32, "logits are f32");
        let is_bias = |bias: &Tensor| (bias.elements(), bias.element()) == (experts, Element::F32);
        assert!(bias.is_none_or(is_bias), "a bias per expert");
        let entry = match experts {
            1..=128 => "route_128",
            129..=256 => "route_256",
            257..=512 => "route_512",
            _ => return Err(DeviceError::Unsupported(format!("a router to {experts} experts"))),
        };
        let groups = groups.unwrap_or(Groups { count: 0, kept: 0, best: 0 });
        let group_size = experts.checked_div(groups.count).unwrap_or(0);
        // What is chosen by a softmax of the chosen is normalised as such.
        let least = if scoring == Scoring::SoftmaxOfChosen { Some(0.0) } else { normalise };
        let routes = self.floats(tokens, experts)?;
        let arguments = &mut [
            (&routes).into(),
            logits.into(),
            bias.map(Tensor::pointer).into(),
            tokens.into(),
            experts.into(),
            chosen.into(),
            (scoring as usize).into(),
            groups.count.into(),
            groups.kept.into(),
            groups.best.min(group_size).into(),
            least.is_some().into(),
            least.unwrap_or(0.0).into(),
            scale.into(),
        ];
        let grid =
            Grid { blocks: [tokens.div_ceil(TOKENS) as u32, 1, 1], threads: 32 * TOKENS as u32, shared_bytes: 0 };
        // SAFETY: routes have the shape of the logits, and a bias is as long as a row.
        unsafe { self.launch(&SOURCE, entry, grid, arguments) }?;
        Ok(routes)
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
        self.add_visits(&sum, is_added, &made, (routes, experts.first), &visits)?;
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

    /// Writes into `sum` what the visits made, added to what is there where `is_added`.
    fn add_visits(
        &self,
        sum: &Tensor,
        is_added: bool,
        made: &Tensor,
        (routes, first): (&Tensor, usize),
        visits: &Visits,
    ) -> Result<()> {
        const THREADS: usize = 128;
        let hidden_size = made.columns();
        let onto = is_added.then(|| sum.pointer());
        let (entry, length) =
            if hidden_size.is_multiple_of(8) { ("add_visits_by_8", 8) } else { ("add_visits_by_1", 1) };
        let pieces = (hidden_size / length).div_ceil(THREADS);
        let grid = Grid { blocks: [sum.rows() as u32, pieces as u32, 1], threads: THREADS as u32, shared_bytes: 0 };
        let arguments = &mut [
            sum.into(),
            onto.into(),
            made.into(),
            visits.places.into(),
            routes.into(),
            routes.columns().into(),
            first.into(),
            visits.slots.into(),
            hidden_size.into(),
        ];
        // SAFETY: each place names a visit, which has a row in `made`, and an expert, which has a column in `routes`.
        unsafe { self.launch(&SOURCE, entry, grid, arguments) }
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
