//! Rotary position embedding: which angles a model turns its heads by.

use std::f64::consts::TAU;

use kernels::rotary::{Pairing, Turns};

/// A model's rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Elements of a head that turn, its first ones.
    pub dim: usize,
    /// Base of the frequencies: the i-th is `theta^(-2i/dim)`, before scaling.
    pub theta: f64,
    /// How the frequencies were stretched for longer contexts.
    pub scaling: Scaling,
    /// Which two elements of a head turn together.
    pub pairing: Pairing,
}

/// How a model's frequencies were stretched. The scaling holds at every position, short contexts included.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All divided by the same factor.
    Linear {
        /// The divisor, `>= 1`.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided by `factor`, short ones kept, those between interpolated.
    Llama3 {
        /// The divisor, `>= 1`.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was first trained for.
        original_positions: f64,
    },
    /// YaRN (Peng et al. 2023): much the same by the number of turns within the first context, and turned heads are
    /// longer by a factor.
    Yarn(Yarn),
    /// A divisor for each frequency (LongRoPE, and GGUF's `rope_freqs.weight`).
    Divisors {
        /// `dim / 2` of them.
        divisors: Vec<f32>,
        /// What cosines and sines are multiplied by.
        magnitude: f64,
    },
}

/// The settings of YaRN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// The divisor of frequencies that turn less than `beta_slow` times, `>= 1`.
    pub factor: f64,
    /// The context that the model was first trained for.
    pub original_positions: f64,
    /// Frequencies that turn more often than this within that context are kept.
    pub beta_fast: f64,
    /// Those that turn less often are divided.
    pub beta_slow: f64,
    /// Whether the borders between them are rounded to whole frequencies, outwards.
    pub truncate: bool,
    /// What cosines and sines are multiplied by.
    pub magnitude: f64,
}

/// The names that config.json knows them by.
pub(super) const KNOWN: &str = "default, linear, llama3, yarn, longrope";

impl Rope {
    /// The angle per position of each pair of a head, `[dim / 2]`. In f32 as the models were trained.
    pub fn frequencies(&self) -> Vec<f32> {
        let plain = |i: usize| (1.0 / self.theta.powf((2 * i) as f64 / self.dim as f64)) as f32;
        (0..self.dim / 2).map(|i| self.scale(i, plain(i))).collect()
    }

    /// How heads are turned at positions below `positions`.
    pub fn turns(&self, positions: usize) -> Turns {
        let (frequencies, magnitude, pairing) = (self.frequencies(), self.magnitude(), self.pairing);
        Turns { frequencies, magnitude, pairing, positions }
    }

    /// What cosines and sines are multiplied by.
    pub fn magnitude(&self) -> f32 {
        match self.scaling {
            Scaling::Yarn(Yarn { magnitude, .. }) | Scaling::Divisors { magnitude, .. } => magnitude as f32,
            _ => 1.0,
        }
    }

    fn scale(&self, i: usize, frequency: f32) -> f32 {
        match &self.scaling {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / *factor as f32,
            Scaling::Divisors { divisors, .. } => frequency / divisors[i],
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let wavelength = TAU / f64::from(frequency);
                let turns = original_positions / wavelength;
                // 0 where the wavelength is long, 1 where it is short, a straight line between.
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (f64::from(frequency) * (kept + (1.0 - kept) / factor)) as f32
            }
            Scaling::Yarn(yarn) => {
                let kept = yarn.kept(i, self.dim, self.theta);
                (f64::from(frequency) * (kept + (1.0 - kept) / yarn.factor)) as f32
            }
        }
    }
}

impl Yarn {
    /// How much of the `i`-th frequency is kept: 1 up to the border of the fast ones, 0 from that of the slow ones on, a
    /// straight line between.
    fn kept(&self, i: usize, dim: usize, theta: f64) -> f64 {
        // The (fractional) index of the frequency that turns so often within the first context.
        let index = |turns: f64| dim as f64 * (self.original_positions / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (index(self.beta_fast), index(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        // Where both borders fall together, the line is steep rather than vertical.
        let width = if low == high { 0.001 } else { high - low };
        1.0 - ((i as f64 - low) / width).clamp(0.0, 1.0)
    }

    /// The usual factor by which turned heads grow (the paper's equation 22), for `mscale` 1.
    pub(super) fn growth(factor: f64, mscale: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: Scaling) -> Vec<f32> {
        Rope { dim: 8, theta: 10_000.0, scaling, pairing: Pairing::Half }.frequencies()
    }

    #[test]
    fn each_scaling_divides_as_it_says() {
        let near = |found: Vec<f32>, expected: [f32; 4]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-6, "{found} for {expected}");
            }
        };
        near(frequencies(Scaling::None), [1.0, 0.1, 0.01, 0.001]);
        near(frequencies(Scaling::Linear { factor: 4.0 }), [0.25, 0.025, 0.0025, 0.00025]);
        let divisors = Scaling::Divisors { divisors: vec![1.0, 2.0, 4.0, 8.0], magnitude: 1.0 };
        near(frequencies(divisors), [1.0, 0.05, 0.0025, 0.000125]);
        // 100 positions: 15.9 turns of the first (kept), 1.59 of the second (kept to 0.197), 0.159 and fewer of the rest.
        let llama3 =
            Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 100.0 };
        near(frequencies(llama3), [1.0, 0.029_753_525, 0.00125, 0.000125]);
        // 1,000 positions: the borders are at 0.70 (32 turns; 0 rounded down) and 2.20 (1 turn; 3 rounded up).
        let yarn = |truncate| {
            let (factor, original_positions, magnitude) = (4.0, 1000.0, 1.0);
            Scaling::Yarn(Yarn { factor, original_positions, beta_fast: 32.0, beta_slow: 1.0, truncate, magnitude })
        };
        near(frequencies(yarn(true)), [1.0, 0.075, 0.005, 0.00025]);
        near(frequencies(yarn(false)), [1.0, 0.084_885_4, 0.003_505_648, 0.00025]);
    }
}
