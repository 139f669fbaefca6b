//! The findings for people.

use std::fmt::Write;

use workers::{layers::Inventory, models::ModelConfig};

use super::Findings;

impl Findings {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, said: String| {
            let _ = writeln!(text, "{label:<14}{said}");
        };
        line("model", self.path.clone());
        line("architecture", self.config.architecture.into());
        line("weights", format!("{} ({})", count(self.whole.weights()), formats(&self.whole)));
        if self.file_bytes > 0 {
            line("files", bytes(self.file_bytes));
        }
        for (index, said) in shape(&self.config).into_iter().enumerate() {
            line(if index == 0 { "shape" } else { "" }, said);
        }
        line("context", format!("{} tokens", self.config.max_positions));
        let _ = writeln!(text, "\n{:>4}  {:>12}  {:>14}  formats", "rank", "weights", "KV per token");
        for (rank, needs) in self.ranks.iter().enumerate() {
            let (weights, kv) = (bytes(needs.weights.bytes()), bytes(needs.kv_bytes_per_token));
            let _ = writeln!(text, "{rank:>4}  {weights:>12}  {kv:>14}  {}", formats(&needs.weights));
        }
        let _ = writeln!(text, "\n{}", self.verdict());
        text
    }

    fn verdict(&self) -> String {
        let (needed, available) = (bytes(self.needed_bytes()), bytes(self.available_bytes));
        let (weights, tokens) = (bytes(self.weight_bytes()), self.sequence_tokens);
        let kv = bytes(self.kv_bytes_per_token() * tokens);
        let sum = format!("{weights} of weights + {kv} of keys and values for {tokens} tokens = {needed}");
        if self.needed_bytes() <= self.available_bytes {
            let fitting = self.tokens_that_fit();
            return format!("It fits: {sum}, of {available} free; {fitting} tokens in all would.");
        }
        let instead = match self.tokens_that_fit() {
            0 => "the weights alone are too large; try --quantization".to_owned(),
            fitting => format!("{fitting} tokens would (--max-model-len)"),
        };
        format!("It does not fit: {sum}, and {available} are free; {instead}.")
    }
}

fn shape(config: &ModelConfig) -> Vec<String> {
    let ModelConfig { layers, hidden_size, heads, kv_heads, head_dim, vocab_size, .. } = config;
    let mut lines = vec![format!("{layers} layers, hidden size {hidden_size}, vocabulary {vocab_size}")];
    lines.push(match &config.latent {
        None => format!("{heads} query heads and {kv_heads} KV heads of {head_dim}"),
        Some(latent) => format!(
            "{heads} query heads of {head_dim} over latent vectors of {} + {}",
            latent.kv_lora_rank, latent.rope_dim
        ),
    });
    let windows = config.windows.iter().flatten();
    if let Some(window) = windows.clone().next() {
        lines.push(format!("a window of {window} tokens on {} layers", windows.count()));
    }
    let width = config.intermediate_size;
    lines.push(match &config.moe {
        None => format!("MLP of width {width}"),
        Some(moe) => {
            let mixtures = moe.layers.iter().filter(|is_moe| **is_moe).count();
            let (experts, chosen, own) = (moe.experts, moe.routing.chosen, moe.width);
            let shared = if moe.shared_width > 0 { format!(", {} shared", moe.shared_width) } else { String::new() };
            format!("{experts} experts of width {own}, {chosen} per token{shared}, on {mixtures} layers; MLP of width {width}")
        }
    });
    lines
}

fn formats(inventory: &Inventory) -> String {
    let amounts = inventory.formats.iter().map(|(name, amount)| format!("{name} {}", bytes(amount.bytes)));
    amounts.collect::<Vec<_>>().join(", ")
}

/// A number of weights in words: `134.5 M`.
fn count(weights: u64) -> String {
    scaled(weights as f64, 1000.0, &["", " k", " M", " G", " T"])
}

/// In binary units: `87.9 MiB`.
fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(mut number: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= step && unit + 1 < units.len() {
        number /= step;
        unit += 1;
    }
    if unit == 0 { format!("{number}{}", units[0]) } else { format!("{number:.1}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_their_units() {
        assert_eq!((bytes(0), bytes(1023), bytes(1 << 20)), ("0 B".into(), "1023 B".into(), "1.0 MiB".into()));
        assert_eq!((count(999), count(134_515_008)), ("999".into(), "134.5 M".into()));
    }
}
