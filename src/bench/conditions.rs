//! Under which conditions figures came about: without them they say nothing.

use std::ffi::OsString;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    memory::{self, TreeMemory},
    target::Target,
};
use crate::collect_env;

/// What is told beside figures.
#[derive(Debug)]
pub struct Conditions {
    time: String,
    server: String,
    model: String,
    sequence_tokens_max: Option<u32>,
    own: bool,
    here: bool,
    serve_flags: Vec<String>,
    version: Option<String>,
    devices: Vec<String>,
    program: Value,
    machine: Value,
    memory: Option<TreeMemory>,
    asked: String,
}

impl Conditions {
    /// Of this server as it is now: ask after the load, when its memory is what it took.
    pub fn of(target: &Target, serve_words: &[OsString], asked: String) -> Self {
        let own = target.server.own_pid().is_some();
        Self {
            time: OffsetDateTime::now_utc().truncate_to_second().format(&Rfc3339).unwrap_or_default(),
            server: target.server.remote.url(""),
            model: target.model.clone(),
            sequence_tokens_max: target.sequence_tokens_max,
            own,
            here: target.server.remote.is_here(),
            serve_flags: serve_words.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            version: target.version.clone(),
            devices: target.devices.clone(),
            program: collect_env::program(),
            machine: collect_env::machine(),
            memory: target.pid.and_then(memory::of_tree),
            asked: format!("{}, {asked}", target.path()),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "time": self.time,
            "asked": self.asked,
            "server": {
                "url": self.server,
                "own": self.own,
                "on_this_machine": self.here,
                "flags": self.serve_flags,
                "version": self.version,
                "model": self.model,
                "max_model_len": self.sequence_tokens_max,
                "devices": self.devices,
                "memory": self.memory,
            },
            "client": self.program,
            "machine": self.machine,
        })
    }

    /// For people, a line each.
    pub fn text(&self) -> String {
        let server = match self.own {
            true => format!("its own, {}{}", self.build(), self.flags()),
            false => match &self.version {
                Some(version) => format!("{}, version {version}", self.server),
                None => self.server.clone(),
            },
        };
        let devices = match self.devices.as_slice() {
            [] => String::new(),
            devices => format!(" ({})", devices.join("; ")),
        };
        let machine = if self.here { "machine" } else { "client's machine" };
        let mut lines =
            vec![("asked", self.asked.clone()), ("server", server), ("model", format!("{}{devices}", self.model))];
        lines.push((machine, self.hardware()));
        if let Some(memory) = self.memory {
            let mib = memory.pss_bytes as f64 / f64::from(1 << 20);
            lines.push((
                "memory",
                format!("{mib:.0} MiB in {} processes, shared pages counted once (PSS)", memory.processes),
            ));
        }
        lines.into_iter().map(|(name, text)| format!("{name:<9} {text}\n")).collect()
    }

    /// For the head of a picture.
    pub fn title(&self) -> String {
        // A path says less than its end, and does not fit.
        let name = match self.model.starts_with('/') {
            true => self.model.rsplit('/').next().unwrap_or_default(),
            false => &self.model,
        };
        format!("{name} – {}", self.asked)
    }

    /// For the foot of a picture.
    pub fn caption(&self) -> String {
        let server = if self.own { self.build() } else { self.server.clone() };
        format!("{server}; {}; {}", self.hardware(), self.time)
    }

    fn build(&self) -> String {
        let of = |name: &str| self.program[name].as_str().unwrap_or("unknown").to_owned();
        format!("shardwire {}, {} build, commit {}", of("version"), of("build"), of("commit"))
    }

    fn flags(&self) -> String {
        match self.serve_flags.is_empty() {
            true => String::new(),
            false => format!(", {}", self.serve_flags.join(" ")),
        }
    }

    fn hardware(&self) -> String {
        let of = |name: &str| self.machine[name].as_str().unwrap_or("unknown").to_owned();
        format!(
            "{}, {} of {} cores, kernel {}, load average {} afterwards",
            of("model"),
            self.machine["cores_usable"],
            self.machine["cores_online"],
            of("kernel"),
            of("load").split(' ').next().unwrap_or_default()
        )
    }
}
