//! The sum of every rank's tensor, on every rank.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

#[cfg(doc)]
use crate::rms_norm::RmsNorm;
use crate::{Result, memory::Memory};
use crate::{
    rms_norm,
    samples::{Samples, Tested, assert_close},
};

/// See the module.
pub trait AllReduce: Memory {
    /// `x` becomes the sum over ranks of their `x` (same shape on all), so that every rank ends with the same bits; on the CPU
    /// they are added in the order of the ranks. One rank alone: nothing happens.
    fn all_reduce(&self, x: &mut Self::Tensor) -> Result<()>;

    /// The same of `x`, the ranks' parts of a branch's output, and at once what nearly always follows:
    /// [`RmsNorm::add_rms_norm`] with the sum. Of the residual stream a rank may then have some rows only: what reads it
    /// next has to be an operation on all ranks (the next of these; a norm; [`crate::select_rows::SelectRows`]).
    fn all_reduce_add_rms_norm(
        &self,
        residual: &mut Self::Tensor,
        x: Self::Tensor,
        norm: NormAfter<Self::Tensor>,
    ) -> Result<Self::Tensor>;
}

/// The norm that follows an all-reduce; as the arguments of [`RmsNorm::add_rms_norm`].
pub struct NormAfter<'a, T> {
    /// What the sum is multiplied by before it joins the residual stream.
    pub scale: f32,
    /// `[1, n]`
    pub weight: &'a T,
    /// What is added to the mean square.
    pub eps: f32,
}

/// What [`AllReduce::all_reduce`] means: the sum of `parts`, one per rank, in their order.
pub(crate) fn reference(parts: &[Vec<f32>]) -> Vec<f32> {
    let add = |sum: Vec<f32>, part: &Vec<f32>| sum.iter().zip(part).map(|(a, b)| a + b).collect();
    parts[1..].iter().fold(parts[0].clone(), add)
}

/// All ranks together: sums, and norms of them, of messages of many lengths; then many in a row, so that one that is early
/// meets one that is late.
pub(crate) fn check_among<B: Tested>(device: &B) {
    for (rows, columns) in
        [(0, 8), (1, 5), (1, 64), (3, 40), (70, 72), (1, 33_000), (70, 4096), (300, 1000), (41, 8200)]
    {
        check_shape(device, rows, columns);
    }
    (0..20).for_each(|round| check_shape(device, 1 + round % 3, 16));
}

fn check_shape<B: Tested>(device: &B, rows: usize, columns: usize) {
    const EPS: f32 = 1e-5;
    let (rank, ranks) = (device.group().rank(), device.group().world_size());
    let what = format!("{}: {rows} × {columns} on {ranks} ranks", device.name());
    let length = rows * columns;
    let part = |rank: usize| device.stored(Samples::new((rank * 7 + length) as u64).floats(length));
    let parts: Vec<Vec<f32>> = (0..ranks).map(part).collect();
    let mut samples = Samples::new(5);
    let (base, weight) = (samples.floats(length), samples.floats(columns));
    // First all that ranks do together: one whose sum is wrong shall not be missed by the others.
    let mut x = device.tensor(rows, columns, &parts[rank]).expect("memory");
    device.all_reduce(&mut x).expect("all are there");
    let mut floats = device.residual(rows, columns, &parts[rank]);
    device.all_reduce(&mut floats).expect("all are there");
    let mut residual = device.residual(rows, columns, &base);
    let branch = device.tensor(rows, columns, &parts[rank]).expect("memory");
    let norm_weight = device.vector(&weight).expect("memory");
    let norm = NormAfter { scale: 0.5, weight: &norm_weight, eps: EPS };
    let y = device.all_reduce_add_rms_norm(&mut residual, branch, norm).expect("all are there");
    let [x, floats, residual, y] = [&x, &floats, &residual, &y].map(|tensor| device.whole_to_host(tensor));
    // NCCL rounds after each addition.
    let tolerance = ranks as f32 * device.tolerance(1e-6);
    let sums = reference(&parts);
    assert_close(&x, &sums, tolerance, &what);
    assert_close(&floats, &sums, 1e-6, &what);
    let expected: Vec<f32> = base.iter().zip(&sums).map(|(base, sum)| base + 0.5 * sum).collect();
    assert_close(&residual, &expected, tolerance, &what);
    let normed = expected.chunks_exact(columns.max(1)).flat_map(|row| rms_norm::reference(row, &weight, EPS));
    // The norm of a row of small sums is as inexact as they are.
    assert_close(&y, &normed.collect::<Vec<_>>(), 4.0 * tolerance, &what);
}
