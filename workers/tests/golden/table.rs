//! What the comparisons found, as the table of `docs/models.md`. The run leaves it in the build folder;
//! `scripts/models-table` puts it into the page.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::reference::Worst;

/// Rows so far, by model and form.
static ROWS: Mutex<BTreeMap<(String, String), Row>> = Mutex::new(BTreeMap::new());

struct Row {
    architecture: &'static str,
    ranks: Vec<usize>,
    worst: Worst,
}

/// Adds what one comparison found, and writes all rows.
pub fn record(model: &str, architecture: &'static str, form: &str, world_size: usize, worst: Worst) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let name = model.rsplit('/').next().unwrap_or(model);
    let new = || Row { architecture, ranks: Vec::new(), worst: Worst::default() };
    let row = rows.entry((name.into(), form.into())).or_insert_with(new);
    row.ranks.push(world_size);
    row.ranks.sort_unstable();
    row.worst.logit = row.worst.logit.max(worst.logit);
    row.worst.logprob = row.worst.logprob.max(worst.logprob);
    row.worst.tokens += worst.tokens;
    row.worst.equal += worst.equal;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models-table.md");
    std::fs::write(path, table(&rows)).expect("the build folder can be written");
}

fn table(rows: &BTreeMap<(String, String), Row>) -> String {
    let mut text = "| model | architecture | form | ranks | worst logit | worst log-probability | greedy tokens |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for ((model, form), Row { architecture, ranks, worst }) in rows {
        let ranks = ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let Worst { logit, logprob, tokens, equal } = worst;
        let _ = writeln!(
            text,
            "| `{model}` | {architecture} | {form} | {ranks} | {logit:.1e} | {logprob:.1e} | {equal} of {tokens} equal |"
        );
    }
    text
}

/// The page is only as good as its last making: every golden model has its row there.
#[test]
fn the_page_has_every_model() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
    let page = std::fs::read_to_string(page).expect("docs/models.md");
    for entry in std::fs::read_dir(crate::fixtures::golden("models")).expect("the golden models") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        assert!(page.contains(&format!("| `{name}` | ")), "docs/models.md lacks {name}: run scripts/models-table");
    }
}
