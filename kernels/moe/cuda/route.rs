//! A router's choice on a GPU.

use crate::{
    DeviceError, Result,
    cuda::{Cuda, Element, Grid, Source, Tensor},
    moe::{Groups, Routing, Scoring},
};

const SOURCE: Source = Source { name: "route", text: include_str!("../route/cuda.cu") };

/// Each token's weights of the experts, f32 as the logits and the bias are.
pub(super) fn route(device: &Cuda, logits: &Tensor, bias: Option<&Tensor>, routing: &Routing) -> Result<Tensor> {
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
    let routes = device.floats(tokens, experts)?;
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
    let grid = Grid { blocks: [tokens.div_ceil(TOKENS) as u32, 1, 1], threads: 32 * TOKENS as u32, shared_bytes: 0 };
    // SAFETY: routes have the shape of the logits, and a bias is as long as a row.
    unsafe { device.launch(&SOURCE, entry, grid, arguments) }?;
    Ok(routes)
}
