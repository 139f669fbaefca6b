//! Which GGUF file of a repository is meant: `Q4_K_M` in `owner/name:Q4_K_M` is the end of its name.

use super::choice::NoChoice;

/// The kind that is taken where none is named, as llama.cpp does.
const USUAL: &str = "Q4_K_M";

/// One model: a file, or the parts of one (`-00001-of-00003.gguf`).
#[derive(Debug, PartialEq, Eq)]
struct Model {
    /// The path without `.gguf` and the number of the part.
    stem: String,
    /// How many parts there should be.
    parts: usize,
    /// Those there are: number and name.
    names: Vec<(usize, String)>,
}

/// Chooses among the names of all files; several are parts, in order.
pub fn choose(names: &[String], quant: Option<&str>) -> Result<Vec<String>, NoChoice> {
    let models = models(names);
    if models.is_empty() && quant.is_none() {
        return Err(NoChoice::NoWeights);
    }
    let named = |quant| models.iter().filter(|model| model.is(quant)).min_by_key(|model| model.stem.len());
    match (quant, &models[..]) {
        (Some(quant), _) => named(quant).ok_or_else(|| NoChoice::NoSuchQuant(labels(&models)))?.whole(),
        (None, [only]) => only.whole(),
        (None, _) => named(USUAL).ok_or_else(|| NoChoice::SeveralQuants(labels(&models)))?.whole(),
    }
}

fn models(names: &[String]) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for name in names.iter().filter(|name| is_language_model(name)) {
        let (stem, part, parts) = taken_apart(name);
        match models.iter_mut().find(|model| model.stem == stem && model.parts == parts) {
            Some(model) => model.names.push((part, name.clone())),
            None => models.push(Model { stem: stem.to_owned(), parts, names: vec![(part, name.clone())] }),
        }
    }
    models
}

/// Not a vision tower, nor statistics for quantizing.
fn is_language_model(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let file = name.rsplit('/').next().unwrap_or_default();
    file.ends_with(".gguf") && !file.starts_with("mmproj") && !file.contains("imatrix")
}

/// Stem, number of the part and of all parts.
fn taken_apart(name: &str) -> (&str, usize, usize) {
    let stem = &name[..name.len() - ".gguf".len()];
    let number = |text: &str| text.parse().ok().filter(|_| text.len() == 5);
    let split = || {
        let (rest, parts) = stem.rsplit_once("-of-")?;
        let (rest, part) = rest.rsplit_once('-')?;
        Some((rest, number(part)?, number(parts)?))
    };
    split().unwrap_or((stem, 1, 1))
}

impl Model {
    /// Whether its name, or that of its folder, is or ends with the word.
    fn is(&self, quant: &str) -> bool {
        let quant = quant.trim_end_matches(".gguf").to_ascii_lowercase();
        let ends = |text: &str| {
            let text = text.to_ascii_lowercase();
            text.strip_suffix(&quant).is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
        };
        self.stem.rsplit('/').take(2).any(ends)
    }

    /// What may be written behind the colon for it.
    fn label(&self) -> &str {
        let file = self.stem.rsplit('/').next().unwrap_or_default();
        file.rsplit(['-', '.']).next().unwrap_or(file)
    }

    /// Its parts in order, all of them.
    fn whole(&self) -> Result<Vec<String>, NoChoice> {
        let part = |number| self.names.iter().find(|(part, _)| *part == number).map(|(_, name)| name.clone());
        let missing = |number| NoChoice::PartMissing(format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.parts));
        (1..=self.parts).map(|number| part(number).ok_or_else(|| missing(number))).collect()
    }
}

/// Sorted, each once.
fn labels(models: &[Model]) -> Vec<String> {
    let mut labels: Vec<_> = models.iter().map(|model| model.label().to_owned()).collect();
    labels.sort();
    labels.dedup();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: &[&str] =
        &["m-Q8_0.gguf", "m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf", "m-IQ4_XS.gguf", "mmproj-m-f16.gguf", "README.md"];
    const SPLIT: &[&str] =
        &["Q8_0/m-00002-of-00002.gguf", "Q8_0/m-00001-of-00002.gguf", "m.BF16-00001-of-00002.gguf", "m.f16.gguf"];

    fn check(there: &[&str], quant: Option<&str>, expected: Result<&[&str], NoChoice>) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(choose(&owned(there), quant), expected.map(owned), "{quant:?} of {there:?}");
    }

    #[test]
    fn a_file_is_chosen_by_the_end_of_its_name() {
        check(MANY, None, Ok(&["m-Q4_K_M.gguf"]));
        check(MANY, Some("q8_0"), Ok(&["m-Q8_0.gguf"]));
        check(MANY, Some("UD-Q4_K_M"), Ok(&["m-UD-Q4_K_M.gguf"]));
        check(MANY, Some("m-IQ4_XS.gguf"), Ok(&["m-IQ4_XS.gguf"]));
        let there = ["IQ4_XS", "Q4_K_M", "Q8_0"].map(str::to_owned).to_vec();
        // Half a word is none: 4_XS is not IQ4_XS.
        check(MANY, Some("4_K_M"), Err(NoChoice::NoSuchQuant(there)));
        check(&["only.f16.gguf", "README.md"], None, Ok(&["only.f16.gguf"]));
        check(&["README.md"], None, Err(NoChoice::NoWeights));
        check(&["README.md"], Some("Q8_0"), Err(NoChoice::NoSuchQuant(Vec::new())));
    }

    #[test]
    fn parts_are_chosen_together() {
        check(SPLIT, Some("Q8_0"), Ok(&["Q8_0/m-00001-of-00002.gguf", "Q8_0/m-00002-of-00002.gguf"]));
        check(SPLIT, Some("f16"), Ok(&["m.f16.gguf"]));
        check(SPLIT, Some("bf16"), Err(NoChoice::PartMissing("m.BF16-00002-of-00002.gguf".into())));
        let there = ["BF16", "f16", "m"].map(str::to_owned).to_vec();
        check(SPLIT, None, Err(NoChoice::SeveralQuants(there)));
    }
}
