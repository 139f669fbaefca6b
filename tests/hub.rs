//! Models by their names on Hugging Face's hub, through the real binary and against a stand-in for the hub.

mod server;
mod stand_in_hub;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use server::{Server, golden, wait_for};
use stand_in_hub::{Hub, Repo, Trick, etag};

const TINY: &str = "baidu/tiny";
const WEIGHTS: &str = "model.safetensors";
/// Variables of whoever runs the tests that would change what the binary does.
const VARIABLES: &[&str] = &[
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "FD_MODEL_CACHE",
    "FD_MODEL_SOURCE",
    "SSL_CERT_FILE",
    "XDG_CACHE_HOME",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
];

fn tiny() -> Repo {
    Repo::of_folder(TINY, "main", 'a', &golden("models/ernie45"))
}

/// A machine with an empty cache, which reaches this hub.
struct Machine {
    home: tempfile::TempDir,
    endpoint: String,
}

impl Machine {
    fn of(hub: &Hub) -> Self {
        Self { home: tempfile::tempdir().expect("a temporary folder"), endpoint: hub.endpoint.clone() }
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardwire"));
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        command.env("HOME", self.home.path()).env("HF_HOME", self.home.path().join("hf"));
        command.env("HF_ENDPOINT", &self.endpoint).envs(variables.iter().copied()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
        self.command(arguments, variables).spawn().expect("the binary starts")
    }

    /// Exit code, standard output without its last newline, standard error.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
        end_of(self.start(arguments, variables))
    }

    /// `shardwire fetch` that must succeed: the path that it prints.
    fn fetch(&self, arguments: &[&str]) -> PathBuf {
        let (code, out, error) = self.run(&[&["fetch"], arguments].concat(), &[]);
        assert_eq!(code, 0, "{error}");
        PathBuf::from(out)
    }

    /// `shardwire fetch` that must be refused with one line.
    fn refused(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let (code, out, error) = self.run(&[&["fetch"], arguments].concat(), variables);
        assert_eq!((code, &*out), (2, ""), "{error}");
        let lines: Vec<_> = error.lines().filter(|line| line.starts_with("shardwire: ")).collect();
        assert!(lines.len() == 1 && error.ends_with(&format!("{}\n", lines[0])), "{error}");
        lines[0].to_owned()
    }

    /// Waits until so much of the tiny model's weights is there; where.
    fn wait_for_partial(&self, bytes: u64) -> PathBuf {
        let content = fs::read(golden("models/ernie45").join(WEIGHTS)).unwrap();
        let partial = self.model(TINY).join("blobs").join(format!("{}.incomplete", etag(WEIGHTS, &content)));
        let grown = || fs::metadata(&partial).ok().filter(|file| file.len() == bytes).map(drop);
        wait_for("the partial file", grown);
        partial
    }

    fn model(&self, name: &str) -> PathBuf {
        self.home.path().join("hf/hub").join(format!("models--{}", name.replace('/', "--")))
    }
}

fn end_of(mut child: Child) -> (i32, String, String) {
    wait_for("the command's end", || child.try_wait().expect("the child is ours"));
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 output");
    (output.status.code().unwrap_or(-1), text(output.stdout).trim_end().to_owned(), text(output.stderr))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn assert_is_golden(fetched: &Path) {
    let expected = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names_in(fetched), expected);
    for name in expected {
        let same = fs::read(fetched.join(name)).unwrap() == fs::read(golden("models/ernie45").join(name)).unwrap();
        assert!(same, "{name} is another");
    }
}

#[test]
fn a_model_is_fetched_once_and_then_there() {
    let hub = Hub::start(vec![tiny()]);
    let machine = Machine::of(&hub);
    let (code, path, error) = machine.run(&["fetch", TINY], &[("HF_TOKEN", "hf_secret")]);
    assert_eq!(code, 0, "{error}");
    assert!(error.starts_with("Fetching baidu/tiny: 7 files, ") && error.ends_with("complete.\n"), "{error}");

    let model = machine.model(TINY);
    assert_eq!(PathBuf::from(&path), model.join("snapshots").join("a".repeat(40)));
    assert_is_golden(Path::new(&path));
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), "a".repeat(40));
    let blob = fs::read_link(Path::new(&path).join(WEIGHTS)).unwrap();
    let content = fs::read(golden("models/ernie45").join(WEIGHTS)).unwrap();
    assert_eq!(blob, Path::new("../../blobs").join(etag(WEIGHTS, &content)));
    assert_eq!(names_in(&model.join("blobs")).len(), 7, "nothing else is left there");

    // The token is for the hub, not for the host to which it sends large files.
    let told = |elsewhere| hub.seen().into_iter().filter(move |seen| seen.elsewhere == elsewhere);
    assert!(told(false).all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(told(true).count() == 1 && told(true).all(|seen| seen.authorization.is_none()));

    // Again: only the branch is looked up. Offline: nothing is.
    let before = hub.seen().len();
    assert_eq!(machine.fetch(&[TINY]), PathBuf::from(&path));
    assert_eq!(hub.seen().len(), before + 1);
    let (code, out, error) = machine.run(&["fetch", TINY], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!((code, out, &*error), (0, path.clone(), ""));
    assert_eq!(hub.seen().len(), before + 1);

    // Where there is no network, what is there is taken, and that is told.
    let (code, out, error) = machine.run(&["fetch", TINY], &[("HF_ENDPOINT", &closed_port())]);
    assert_eq!((code, out), (0, path));
    assert!(error.contains("the copy in the cache is taken"), "{error}");
}

/// An address at which nobody listens.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

#[test]
fn a_connection_that_breaks_is_continued() {
    let hub = Hub::start(vec![tiny()]);
    hub.play(WEIGHTS, Some(Trick::Cut { after: 150_000, times: 2 }));
    assert_is_golden(&Machine::of(&hub).fetch(&[TINY]));
    assert_eq!(hub.ranges(WEIGHTS), ["", "bytes=150000-", "bytes=300000-"]);
}

#[test]
fn a_connection_that_breaks_too_often_is_given_up_and_continued_later() {
    let hub = Hub::start(vec![tiny()]);
    hub.play(WEIGHTS, Some(Trick::Cut { after: 10_000, times: 5 }));
    let machine = Machine::of(&hub);
    let error = machine.refused(&[TINY], &[]);
    assert!(error.contains(WEIGHTS) && error.contains("goes on there"), "{error}");
    assert!(!machine.model(TINY).join("refs/main").exists(), "what is incomplete has no name");
    assert!(machine.refused(&[TINY], &[("HF_HUB_OFFLINE", "1")]).contains("offline"));
    assert_is_golden(&machine.fetch(&[TINY]));
    assert_eq!(hub.ranges(WEIGHTS).last().map(String::as_str), Some("bytes=50000-"));
}

#[test]
fn a_killed_download_is_continued_even_by_a_hub_without_ranges() {
    let hub = Hub::start(vec![tiny()]);
    let machine = Machine::of(&hub);
    for (after, trick) in [(200_000, None), (300_000, Some(Trick::NoRange))] {
        let _ = fs::remove_dir_all(machine.model(TINY));
        hub.play(WEIGHTS, Some(Trick::Hold { after }));
        let mut child = machine.start(&["fetch", TINY], &[]);
        let partial = machine.wait_for_partial(after as u64);
        child.kill().expect("the child is ours");
        child.wait().expect("it ends");
        hub.play(WEIGHTS, trick);
        assert_is_golden(&machine.fetch(&[TINY]));
        assert_eq!(hub.ranges(WEIGHTS).last(), Some(&format!("bytes={after}-")));
        assert!(!partial.exists());
    }
}

#[test]
fn an_interrupt_ends_a_download_in_order() {
    let hub = Hub::start(vec![tiny()]);
    let machine = Machine::of(&hub);
    let file = |name: &str| machine.home.path().join(name).to_str().expect("UTF-8").to_owned();
    let (input, output, log) = (file("in.jsonl"), file("out.jsonl"), file("log"));
    fs::write(&input, "").unwrap();
    let own = ["--model", TINY, "--log-dir", &log];
    let batch = ["run-batch", "-i", &input, "-o", &output];
    let cases = [
        (vec!["fetch", TINY], 130),
        ([&["serve", "--port", "0"], &own[..]].concat(), 0),
        ([&["complete", "--quick", "x"], &own[..]].concat(), 130),
        ([&batch[..], &own].concat(), 130),
    ];
    hub.play(WEIGHTS, Some(Trick::Hold { after: 1000 }));
    let mut expected_bytes = 0;
    for (arguments, expected) in cases {
        let mut child = machine.start(&arguments, &[]);
        expected_bytes += 1000;
        machine.wait_for_partial(expected_bytes);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it lives");
        let status = wait_for("its end", || child.try_wait().expect("the child is ours"));
        assert_eq!(status.code(), Some(expected), "{arguments:?}");
    }
    hub.play(WEIGHTS, None);
    assert_is_golden(&machine.fetch(&[TINY]));
    assert_eq!(hub.ranges(WEIGHTS).last(), Some(&format!("bytes={expected_bytes}-")));
}

#[test]
fn two_downloads_at_once_share_the_work() {
    let hub = Hub::start(vec![tiny()]);
    let machine = Machine::of(&hub);
    hub.play(WEIGHTS, Some(Trick::Hold { after: 1000 }));
    let first = machine.start(&["fetch", TINY], &[]);
    wait_for("the first one's request", || hub.seen().into_iter().find(|seen| seen.elsewhere));
    let mut second = machine.start(&["fetch", TINY], &[]);
    let mut said = String::new();
    let mut stderr = second.stderr.take().expect("piped");
    while !said.contains("another process is fetching it; waiting") {
        let mut byte = [0];
        assert_eq!(stderr.read(&mut byte).expect("stderr is read"), 1, "no word of waiting in {said}");
        said.push(byte[0].into());
    }
    hub.release();
    let ((first_code, path, error), (second_code, same, _)) = (end_of(first), end_of(second));
    assert_eq!((first_code, second_code), (0, 0), "{error}{said}");
    assert_eq!(path, same);
    assert_is_golden(Path::new(&path));
    assert_eq!(hub.seen().iter().filter(|seen| seen.elsewhere).count(), 1);
}

#[test]
fn a_wrong_content_is_refused_and_not_kept() {
    let hub = Hub::start(vec![tiny()]);
    let machine = Machine::of(&hub);
    hub.play(WEIGHTS, Some(Trick::Spoil));
    let error = machine.refused(&[TINY], &[]);
    let content = fs::read(golden("models/ernie45").join(WEIGHTS)).unwrap();
    let blob = etag(WEIGHTS, &content);
    assert!(error.contains("SHA-256") && error.contains(&blob), "{error}");
    // Other files were stopped, and are gone on with; this one begins anew.
    assert!(!names_in(&machine.model(TINY).join("blobs")).contains(&format!("{blob}.incomplete")));
    hub.play(WEIGHTS, None);
    assert_is_golden(&machine.fetch(&[TINY]));
}

#[test]
fn what_cannot_be_had_is_told_in_one_line() {
    let gated = Repo { name: "o/gated".into(), gated: true, ..tiny() };
    let huge = Repo { name: "o/huge".into(), claimed_bytes: Some(1 << 60), ..tiny() };
    let torch = Repo::of("o/torch", "main", 'c', vec![("pytorch_model.bin".into(), vec![0])]);
    let hub = Hub::start(vec![tiny(), gated, huge, torch]);
    let machine = Machine::of(&hub);
    let closed = closed_port();
    let check = |arguments: &[&str], variables: &[(&str, &str)], parts: &[&str]| {
        let error = machine.refused(arguments, variables);
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error}"));
    };
    check(&["models/missing"], &[], &["no such folder or file here", "no model of that name", "HF_TOKEN"]);
    check(&["/models/missing"], &[], &["no such folder or file", "OWNER/NAME"]);
    check(&["o/gated"], &[], &["gated", "accept its licence on", "HF_TOKEN"]);
    check(&["o/torch"], &[], &["model.safetensors"]);
    check(&["o/huge"], &[], &["needs 1152921504.6 GB more", "are free"]);
    check(&[TINY, "--revision", "v9"], &[], &["no revision v9"]);
    check(&[TINY, "--revision", "../x"], &[], &["--revision ../x"]);
    check(&[TINY], &[("HF_ENDPOINT", &closed)], &[&closed, "HF_ENDPOINT", "copy the folder"]);
    check(&[TINY], &[("HF_HUB_OFFLINE", "1")], &["offline", "has no main of it"]);
    check(&[TINY], &[("FD_MODEL_SOURCE", "AISTUDIO")], &["FD_MODEL_SOURCE=AISTUDIO is not supported"]);
    check(&[TINY, "--download-dir", "/dev/null/cache"], &[], &["/dev/null/cache", "Not a directory"]);
    // Who has accepted the licence may.
    let (code, _, error) = machine.run(&["fetch", "o/gated"], &[("HF_TOKEN", "hf_x")]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn a_revision_and_a_folder_are_chosen() {
    let older = Repo { revision: "v1".into(), commit: "b".repeat(40), ..tiny() };
    let hub = Hub::start(vec![tiny(), older]);
    let machine = Machine::of(&hub);
    let folder = machine.home.path().join("elsewhere");
    let download_dir = ["--download-dir", folder.to_str().expect("UTF-8")];
    for (revision, digit) in [("v1", "b"), ("master", "a"), (&*"b".repeat(40), "b")] {
        let path = machine.fetch(&[&[TINY, "--revision", revision], &download_dir[..]].concat());
        assert_eq!(path, folder.join("models--baidu--tiny/snapshots").join(digit.repeat(40)));
        assert_is_golden(&path);
    }
    assert_eq!(hub.ranges(WEIGHTS).len(), 1, "both revisions have the same weights");
    let (code, out, _) = machine.run(&[&["fetch", TINY, "--revision", "v1"], &download_dir[..]].concat(), &[]);
    assert!(code == 0 && out.ends_with(&"b".repeat(40)));
}

#[test]
fn a_mirror_that_lists_names_only_is_asked_for_the_rest() {
    let hub = Hub::start(vec![Repo { bare: true, ..tiny() }]);
    let machine = Machine::of(&hub);
    hub.play(WEIGHTS, Some(Trick::Spoil));
    assert!(machine.refused(&[TINY], &[]).contains("SHA-256"), "the checksum is known from the file's headers");
    hub.play(WEIGHTS, None);
    assert_is_golden(&machine.fetch(&[TINY]));
}

#[test]
fn weights_in_several_files_are_complete_or_refused() {
    let hub = Hub::start(vec![Repo::of_folder("o/split", "main", 'd', &golden("models/llama_basic"))]);
    let machine = Machine::of(&hub);
    let path = machine.fetch(&["o/split"]);
    assert_eq!(names_in(&path).iter().filter(|name| name.ends_with(".safetensors")).count(), 3);
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(machine.run(&["fetch", "o/split"], &offline).0, 0);
    fs::remove_file(path.join("model-00002-of-00003.safetensors")).unwrap();
    assert!(machine.refused(&["o/split"], &offline).contains("lacks model-00002-of-00003.safetensors"));
}

#[test]
fn a_gguf_file_is_chosen_by_its_kind() {
    let file = |name: &str| (name.to_owned(), name.as_bytes().to_vec());
    let parts = ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"];
    let names = ["m-Q8_0.gguf", "m-IQ4_XS.gguf", "mmproj-m.gguf", parts[0], parts[1]];
    let hub = Hub::start(vec![Repo::of("o/m-GGUF", "main", 'e', names.map(file).to_vec())]);
    let machine = Machine::of(&hub);
    let error = machine.refused(&["o/m-GGUF"], &[]);
    assert!(error.contains("BF16, IQ4_XS, Q8_0"), "{error}");
    assert!(machine.refused(&["o/m-GGUF:Q2_K"], &[]).contains("BF16, IQ4_XS, Q8_0"));
    let snapshot = machine.model("o/m-GGUF").join("snapshots").join("e".repeat(40));
    for (quant, name) in [("q8_0", "m-Q8_0.gguf"), ("BF16", parts[0])] {
        let path = machine.fetch(&[&format!("o/m-GGUF:{quant}")]);
        assert_eq!(path, snapshot.join(name));
        assert_eq!(fs::read_to_string(&path).unwrap(), name);
    }
    assert!(snapshot.join(parts[1]).exists() && !snapshot.join("m-IQ4_XS.gguf").exists());
    // Offline, the choice is among what is there.
    let (code, out, _) = machine.run(&["fetch", "o/m-GGUF:Q8_0"], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!((code, PathBuf::from(out)), (0, snapshot.join("m-Q8_0.gguf")));
}

#[test]
fn servers_serve_models_of_the_hub() {
    let hub = Hub::start(vec![tiny()]);
    let machine = Machine::of(&hub);
    let cache = machine.home.path().join("hub");
    let arguments = ["--model", TINY, "--download-dir", cache.to_str().expect("UTF-8")];
    let server = Server::start_with(&arguments, &[("HF_ENDPOINT", &hub.endpoint)]);
    let answer = server.ok("/v1/completions", &json!({"model": TINY, "prompt": "The sky is", "max_tokens": 4}));
    assert_eq!((&answer["model"], answer["usage"]["completion_tokens"].as_u64()), (&json!(TINY), Some(4)));
    drop(server);

    // A command with a server of its own fetches where it is seen.
    let logs = machine.home.path().join("log");
    let quick = ["complete", "--model", TINY, "--quick", "The sky is", "--max-tokens", "4", "--log-dir"];
    let (code, _, error) = machine.run(&[&quick[..], &[logs.to_str().expect("UTF-8")]].concat(), &[]);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("Fetching baidu/tiny: complete."), "{error}");
}
