//! A stand-in for Hugging Face's hub, on this machine: what `hf-hub` and our downloads ask of it, and what goes wrong there.
//! Large files are sent from another host, as the hub does.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A repository at one commit.
#[derive(Clone, Default)]
pub struct Repo {
    /// `owner/name`.
    pub name: String,
    /// The branch or tag that stands for the commit.
    pub revision: String,
    pub commit: String,
    pub files: Vec<(String, Vec<u8>)>,
    /// The listing has names only, as some mirrors' have.
    pub bare: bool,
    /// Files are for those who accepted a licence.
    pub gated: bool,
    /// What the listing says of the size of each large file instead of the truth.
    pub claimed_bytes: Option<u64>,
}

impl Repo {
    /// The files in the folder, at the commit of forty times `digit` to which `revision` leads.
    pub fn of_folder(name: &str, revision: &str, digit: char, folder: &Path) -> Self {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
        let read = |path: &Path| std::fs::read(path).expect("a file");
        let named = |entry: std::fs::DirEntry| (entry.file_name().into_string().expect("UTF-8"), read(&entry.path()));
        Self::of(name, revision, digit, entries.map(named).collect())
    }

    /// These files.
    pub fn of(name: &str, revision: &str, digit: char, files: Vec<(String, Vec<u8>)>) -> Self {
        let commit = digit.to_string().repeat(40);
        Self { name: name.into(), revision: revision.into(), commit, files, ..Self::default() }
    }
}

/// What goes wrong with a file.
#[derive(Clone, Copy)]
pub enum Trick {
    /// So many connections end after so many bytes of their body.
    Cut { after: usize, times: u32 },
    /// Connections bring so many bytes and then nothing until `release`.
    Hold { after: usize },
    /// A byte is another.
    Spoil,
    /// All of it is sent, whatever was asked for.
    NoRange,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    /// Came to the host of large files.
    pub elsewhere: bool,
}

/// The running stand-in; its threads end with the test's process.
pub struct Hub {
    /// What HF_ENDPOINT should say.
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    repos: Vec<Repo>,
    elsewhere: String,
    seen: Mutex<Vec<Seen>>,
    tricks: Mutex<HashMap<String, Trick>>,
    released: Mutex<bool>,
    release: Condvar,
}

impl Hub {
    /// Listens on free ports.
    pub fn start(repos: Vec<Repo>) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let elsewhere = TcpListener::bind("127.0.0.2:0").expect("a free port");
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("bound"));
        let endpoint = address(&hub);
        let state = Arc::new(State {
            repos,
            elsewhere: address(&elsewhere),
            seen: Mutex::default(),
            tricks: Mutex::default(),
            released: Mutex::new(false),
            release: Condvar::new(),
        });
        listen(hub, state.clone(), false);
        listen(elsewhere, state.clone(), true);
        Self { endpoint, state }
    }

    /// From now on this goes wrong with the file, or nothing.
    pub fn play(&self, file: &str, trick: Option<Trick>) {
        let mut tricks = self.state.tricks.lock().expect("no panic");
        match trick {
            Some(trick) => drop(tricks.insert(file.into(), trick)),
            None => drop(tricks.remove(file)),
        }
    }

    /// Lets held connections go on.
    pub fn release(&self) {
        *self.state.released.lock().expect("no panic") = true;
        self.state.release.notify_all();
    }

    /// All requests until now.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no panic").clone()
    }

    /// Ranges of the GETs of the file's content, in order; an empty text where none was asked for.
    pub fn ranges(&self, file: &str) -> Vec<String> {
        let is_it = |seen: &Seen| seen.method == "GET" && !seen.elsewhere && seen.path.ends_with(&format!("/{file}"));
        self.seen().into_iter().filter(is_it).map(|seen| seen.range.unwrap_or_default()).collect()
    }
}

fn listen(listener: TcpListener, state: Arc<State>, elsewhere: bool) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            thread::spawn(move || drop(state.answer(stream, elsewhere)));
        }
    });
}

/// Status, headers and body of an answer.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

impl State {
    /// One request of one connection.
    fn answer(&self, mut stream: TcpStream, elsewhere: bool) -> std::io::Result<()> {
        let Some(seen) = read_request(&stream, elsewhere)? else { return Ok(()) };
        self.seen.lock().expect("no panic").push(seen.clone());
        let path = seen.path.split('?').next().unwrap_or_default();
        let with_facts = seen.path.contains("blobs=true");
        let (answer, file) = match path.strip_prefix("/api/models/").and_then(|rest| rest.split_once("/revision/")) {
            Some((name, revision)) => (self.listing(name, revision, with_facts), None),
            None => self.file(&seen, path),
        };
        let (status, headers, body) = answer;
        write!(stream, "HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: {}\r\n", body.len())?;
        headers.iter().try_for_each(|(name, value)| write!(stream, "{name}: {value}\r\n"))?;
        stream.write_all(b"\r\n")?;
        if seen.method != "HEAD" {
            self.send(&mut stream, &body, file.as_deref())?;
        }
        stream.shutdown(Shutdown::Write)
    }

    fn listing(&self, name: &str, revision: &str, with_facts: bool) -> Answer {
        let Some(any) = self.repos.iter().find(|repo| repo.name == name) else {
            return refusal(401, "RepoNotFound");
        };
        let leads_to =
            |repo: &&Repo| repo.name == any.name && [&repo.revision, &repo.commit].contains(&&revision.to_owned());
        let Some(repo) = self.repos.iter().find(leads_to) else { return refusal(404, "RevisionNotFound") };
        let sibling = |(name, content): &(String, Vec<u8>)| {
            if !with_facts || repo.bare {
                return json!({"rfilename": name});
            }
            let bytes = repo.claimed_bytes.unwrap_or(content.len() as u64);
            let mut sibling = json!({"rfilename": name, "size": content.len(), "blobId": etag(name, content)});
            if is_large(name) {
                sibling["lfs"] = json!({"sha256": sha256(content), "size": bytes, "pointerSize": 130});
            }
            sibling
        };
        let siblings: Vec<Value> = repo.files.iter().map(sibling).collect();
        let body = json!({"id": name, "sha": repo.commit, "siblings": siblings, "private": false}).to_string();
        (200, vec![("content-type", "application/json".into())], body.into())
    }

    /// The answer, and the file whose content is sent.
    fn file(&self, seen: &Seen, path: &str) -> (Answer, Option<String>) {
        let found = self.repos.iter().find_map(|repo| {
            let prefix = format!("/{}/resolve/{}/", repo.name, repo.commit);
            let name = path.strip_prefix(&prefix)?;
            repo.files.iter().find(|(other, _)| other == name).map(|file| (repo, file))
        });
        let Some((repo, (name, content))) = found else { return (refusal(404, "EntryNotFound"), None) };
        if repo.gated && !seen.elsewhere && seen.authorization.is_none() {
            return (refusal(401, "GatedRepo"), None);
        }
        let mut headers = vec![("x-repo-commit", repo.commit.clone()), ("accept-ranges", "bytes".into())];
        if is_large(name) && !seen.elsewhere {
            headers.push(("location", format!("{}{path}", self.elsewhere)));
            headers.push(("x-linked-etag", format!("\"{}\"", sha256(content))));
            headers.push(("x-linked-size", content.len().to_string()));
            headers.push(("etag", "\"of the redirect\"".into()));
            return ((302, headers, Vec::new()), None);
        }
        headers.push(("etag", format!("\"{}\"", etag(name, content))));
        let ignores_ranges = matches!(self.trick(name), Some(Trick::NoRange));
        let from = seen.range.as_ref().filter(|_| !ignores_ranges).map(|range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().expect("an open range")
        });
        let status = if from.is_some() { 206 } else { 200 };
        if let Some(from) = from {
            let last = content.len() - 1;
            headers.push(("content-range", format!("bytes {from}-{last}/{}", content.len())));
        }
        ((status, headers, content[from.unwrap_or(0)..].to_vec()), Some(name.clone()))
    }

    fn trick(&self, name: &str) -> Option<Trick> {
        self.tricks.lock().expect("no panic").get(name).copied()
    }

    fn send(&self, stream: &mut TcpStream, body: &[u8], file: Option<&str>) -> std::io::Result<()> {
        match file.and_then(|name| self.trick(name)) {
            Some(Trick::Cut { after, times: times @ 1.. }) if after < body.len() => {
                let rest = Trick::Cut { after, times: times - 1 };
                self.tricks.lock().expect("no panic").insert(file.unwrap_or_default().into(), rest);
                stream.write_all(&body[..after])
            }
            Some(Trick::Hold { after }) if after < body.len() => {
                stream.write_all(&body[..after])?;
                let released = self.released.lock().expect("no panic");
                drop(self.release.wait_while(released, |released| !*released));
                stream.write_all(&body[after..])
            }
            Some(Trick::Spoil) => {
                let mut spoiled = body.to_vec();
                spoiled[0] ^= 1;
                stream.write_all(&spoiled)
            }
            _ => stream.write_all(body),
        }
    }
}

fn read_request(stream: &TcpStream, elsewhere: bool) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen { method, path, range: None, authorization: None, elsewhere };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => seen.range = Some(value.into()),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                seen.authorization = Some(value.into())
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(Some(seen))
}

fn refusal(status: u16, code: &str) -> Answer {
    let headers = vec![("x-error-code", code.to_owned()), ("x-error-message", format!("The hub says {code}"))];
    (status, headers, b"{}".to_vec())
}

/// What the hub keeps in its large file storage.
pub fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// The name of a content: SHA-256 of large ones, else as short as git's.
pub fn etag(name: &str, content: &[u8]) -> String {
    let sha256 = sha256(content);
    if is_large(name) { sha256 } else { sha256[..40].to_owned() }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
