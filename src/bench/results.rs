//! The files that results go to.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::{
    Halt,
    conditions::Conditions,
    figures::ms,
    levels::Level,
    load::{Ended, Sample},
};

/// Refuses what can't be written before anything is measured.
pub fn check_writable(paths: [Option<&Path>; 2]) -> Result<(), Halt> {
    for path in paths.into_iter().flatten() {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let why = match (path.is_dir(), folder.is_dir()) {
            (true, _) => "this is a folder",
            (_, false) => "its folder does not exist",
            _ => continue,
        };
        return Err(Halt::Refused(format!("{}: {why}", path.display())));
    }
    Ok(())
}

/// Writes a file; the error is one line for people.
pub fn write(path: &Path, text: &str) -> Result<(), Halt> {
    fs::write(path, text).map_err(|error| Halt::Refused(format!("{}: {error}", path.display())))
}

/// All that was measured, with the times of every request.
pub fn of_levels(command: &str, conditions: &Conditions, levels: &[Level], ended: &Ended) -> Value {
    json!({
        "command": command,
        "ended": ended_name(ended),
        "conditions": conditions.json(),
        "levels": levels.iter().map(level).collect::<Vec<_>>(),
    })
}

/// How it ended, for programs.
pub fn ended_name(ended: &Ended) -> &'static str {
    match ended {
        Ended::Whole => "whole",
        Ended::Interrupted => "interrupted",
        Ended::ServerGone => "server_gone",
    }
}

fn level(level: &Level) -> Value {
    let round = |(figures, samples): &(_, Vec<Sample>)| json!({"figures": figures, "requests": samples.iter().map(sample).collect::<Vec<_>>()});
    json!({
        "max_concurrency": level.plan.open_max,
        "request_rate": level.plan.rate.map(|rate| rate.per_s),
        "burstiness": level.plan.rate.map(|rate| rate.burstiness),
        "figures": level.figures,
        "rounds": level.rounds.iter().map(round).collect::<Vec<_>>(),
    })
}

/// One request.
pub fn sample(sample: &Sample) -> Value {
    let answer = match &sample.outcome {
        Ok(answer) => answer,
        Err(why) => return json!({"start_ms": ms(sample.start), "error": why}),
    };
    json!({
        "start_ms": ms(sample.start),
        "error": null,
        "input_tokens": sample.input_tokens(),
        "output_tokens": answer.tokens(),
        "ttft_ms": ms(answer.first),
        "tpot_ms": answer.per_token().map(ms),
        "e2e_ms": ms(answer.end),
        "itl_ms": answer.gaps.iter().map(|&gap| ms(gap)).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_cannot_be_written_are_refused_early() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| matches!(check_writable([None, Some(path)]), Err(Halt::Refused(_)));
        assert!(refused(folder.path()) && refused(&folder.path().join("no/file")));
        assert!(!refused(&folder.path().join("file")) && !refused(Path::new("file")));
    }
}
