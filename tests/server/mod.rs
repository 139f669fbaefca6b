//! The real binary under test: `shardwire serve` on a free port with a log folder of its own, ended with the test.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod cases;
#[path = "../fixtures/mod.rs"]
mod fixtures;

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

pub use fixtures::{golden, smollm2};

/// How long a test waits for a condition before it fails.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Waits until `condition` gives something; fails the test after [`LIMIT`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running server.
pub struct Server {
    child: Child,
    base: String,
    logs: tempfile::TempDir,
}

impl Server {
    /// Starts `shardwire serve` with `arguments` and waits for the ready line.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// The same with further environment variables.
    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardwire"));
        command.envs(variables.iter().copied());
        Self::start_by(command, tempfile::tempdir().expect("a temporary folder"), arguments)
    }

    /// The same after some words of a shell, for instance `ulimit -n 400`.
    pub fn start_after(shell: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"{shell} && exec "$0" "$@""#), env!("CARGO_BIN_EXE_shardwire")]);
        Self::start_by(command, tempfile::tempdir().expect("a temporary folder"), arguments)
    }

    /// The same by a command that runs the binary, with logs in this folder.
    pub fn start_by(command: Command, logs: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut server = Self::begin_by(command, logs, arguments);
        let mut line = String::new();
        let stdout = server.child.stdout.as_mut().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout is read");
        let base = line.strip_prefix("Shardwire is ready: ").and_then(|rest| rest.split_whitespace().next());
        server.base = base.unwrap_or_else(|| panic!("no ready line, but {line:?}")).to_owned();
        server
    }

    /// A start that nobody waits for: it may fail. Until then the server has no address.
    pub fn begin_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardwire"));
        command.envs(variables.iter().copied());
        Self::begin_by(command, tempfile::tempdir().expect("a temporary folder"), arguments)
    }

    fn begin_by(mut command: Command, logs: tempfile::TempDir, arguments: &[&str]) -> Self {
        let child = command
            .args(["serve", "--host", "127.0.0.1", "--port", "0", "--log-dir"])
            .arg(logs.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(File::create(logs.path().join("stderr")).expect("a file for stderr"))
            .spawn()
            .expect("the binary starts");
        Self { child, base: String::new(), logs }
    }

    /// Starts a server of a golden model.
    pub fn of_golden(model: &str, arguments: &[&str]) -> Self {
        let path = golden(model);
        let mut all = vec!["--model", path.to_str().expect("UTF-8 path")];
        all.extend(arguments);
        Self::start(&all)
    }

    /// The address of `path`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What a log file of this server holds.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(name)).unwrap_or_default()
    }

    /// GET: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut response = agent().get(self.url(path)).call().expect("the server answers");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("a text body"))
    }

    /// GET of a JSON body.
    pub fn get_json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).1).expect("a JSON body")
    }

    /// POST of a JSON body: status and JSON body.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_text(path, &body.to_string())
    }

    /// POST of any body as JSON.
    pub fn post_text(&self, path: &str, body: &str) -> (u16, Value) {
        let mut response = agent()
            .post(self.url(path))
            .header("content-type", "application/json")
            .send(body)
            .expect("the server answers");
        let text = response.body_mut().read_to_string().expect("a text body");
        let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
        (response.status().as_u16(), value)
    }

    /// POST of any bytes: status and body.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> (u16, String) {
        self.try_post(path, body).expect("the server answers")
    }

    /// The same of a server that may not live to answer it.
    pub fn try_post(&self, path: &str, body: &[u8]) -> Result<(u16, String), ureq::Error> {
        let mut response = agent().post(self.url(path)).header("content-type", "application/json").send(body)?;
        Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
    }

    /// DELETE: status and JSON body.
    pub fn delete(&self, path: &str) -> (u16, Value) {
        let mut response = agent().delete(self.url(path)).call().expect("the server answers");
        let text = response.body_mut().read_to_string().expect("a text body");
        (response.status().as_u16(), serde_json::from_str(&text).expect("a JSON body"))
    }

    /// POST without a body: the status.
    pub fn post_status(&self, path: &str) -> u16 {
        agent().post(self.url(path)).send_empty().expect("the server answers").status().as_u16()
    }

    /// POST that must succeed.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{body} → {answer}");
        answer
    }

    /// POST with `stream: true`: all events but the last, which must be `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let events: Vec<String> = self.open_stream(path, body).collect();
        let (done, chunks) = events.split_last().expect("a stream has events");
        assert_eq!(done, "[DONE]", "the last event of {events:?}");
        chunks.iter().map(|c| serde_json::from_str(c).unwrap_or_else(|_| panic!("not JSON: {c}"))).collect()
    }

    /// POST with `stream: true`: its events' data as they come; dropping it closes the connection.
    pub fn open_stream(&self, path: &str, body: &Value) -> impl Iterator<Item = String> + use<> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = agent()
            .post(self.url(path))
            .header("content-type", "application/json")
            .send(body.to_string())
            .expect("the server answers");
        assert_eq!(response.status().as_u16(), 200, "status of the stream of {body}");
        let reader = BufReader::new(response.into_body().into_reader());
        reader.lines().map_while(Result::ok).filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
    }

    /// One sample of /metrics by its full name, labels included; vLLM's `model_name` may be left out where it stands alone.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").1;
        let is_it = |rest: &str| match rest.strip_prefix("{model_name=\"") {
            Some(label) => label.split_once("\"} ").is_some_and(|(model, _)| !model.contains('"')),
            None => rest.starts_with(' '),
        };
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(is_it));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// Sends a signal, for instance `TERM`.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), signal).expect("the server lives");
    }

    /// Waits for the end of the server.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the server's end", || self.child.try_wait().expect("the child is ours"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers die with it; a test of orderly ends calls `signal` and `wait` itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.logs.path()).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                eprintln!("--- {}\n{text}", entry.file_name().display());
            }
        }
    }
}

/// Runs `shardwire` to its end: exit code, stdout, stderr.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_shardwire"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let status = wait_for("the command's end", || child.try_wait().expect("the child is ours"));
    let text = |pipe: Option<&mut dyn Read>| {
        let mut text = String::new();
        pipe.expect("piped").read_to_string(&mut text).expect("UTF-8 output");
        text
    };
    let out = text(child.stdout.as_mut().map(|p| p as &mut dyn Read));
    let err = text(child.stderr.as_mut().map(|p| p as &mut dyn Read));
    (status.code().unwrap_or(-1), out, err)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT)).build().into()
}
