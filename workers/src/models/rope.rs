//! Rotary position embedding: which angles a model turns its heads by.

use kernels::rotary::Pairing;

/// A model's rotary embedding over whole heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: the i-th is `theta^(-2i/head_dim)`, before scaling.
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
    /// A divisor for each frequency, `head_dim / 2` of them (GGUF's `rope_freqs.weight`).
    Divisors(Vec<f32>),
}

/// The names that config.json knows them by.
pub(super) const KNOWN: &str = "default, linear, llama3";

impl Rope {
    /// The angle per position of each pair of a head, `[head_dim / 2]`. In f32 as the models were trained.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = |i: usize| (1.0 / self.theta.powf((2 * i) as f64 / head_dim as f64)) as f32;
        (0..head_dim / 2).map(|i| self.scaling.apply(i, plain(i))).collect()
    }
}

impl Scaling {
    fn apply(&self, i: usize, frequency: f32) -> f32 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / *factor as f32,
            Scaling::Divisors(divisors) => frequency / divisors[i],
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                let wavelength = std::f64::consts::TAU / f64::from(frequency);
                let turns = original_positions / wavelength;
                // 0 where the wavelength is long, 1 where it is short, a straight line between.
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (f64::from(frequency) * (kept + (1.0 - kept) / factor)) as f32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: Scaling) -> Vec<f32> {
        Rope { theta: 10_000.0, scaling, pairing: Pairing::Half }.frequencies(8)
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
        near(frequencies(Scaling::Divisors(vec![1.0, 2.0, 4.0, 8.0])), [1.0, 0.05, 0.0025, 0.000125]);
        // 100 positions: 15.9 turns of the first (kept), 1.59 of the second (kept to 0.197), 0.159 and fewer of the rest.
        let llama3 =
            Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 100.0 };
        near(frequencies(llama3), [1.0, 0.029_753_525, 0.00125, 0.000125]);
    }
}
