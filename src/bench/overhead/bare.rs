//! The least that a server of streams can do: a loop that writes events, in a process of its own.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitCode, Stdio},
};

use actix_web::{App, HttpResponse, HttpServer, web};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::serve;

/// An event as a completion's, with as much in it as ours have.
#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a>; 1],
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    text: &'a str,
    finish_reason: Option<&'a str>,
}

/// The loop's process. Dropping it ends it.
pub struct Bare {
    process: Child,
    /// Where it listens.
    pub url: String,
}

impl Bare {
    /// Starts it. Must be called on a thread that outlives it: the kernel ends it with the thread that started it.
    pub fn start() -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("shardwire").args(["bench", "event-loop"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut bare = Self { process: command.spawn()?, url: String::new() };
        let stdout = bare.process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut bare.url)?;
        bare.url = bare.url.trim().to_owned();
        if bare.url.is_empty() { Err(io::Error::other("its process ended at once")) } else { Ok(bare) }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process's life: listens until its standard input ends.
pub fn run() -> ExitCode {
    match actix_web::rt::System::new().block_on(listen()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shardwire bench: events can't be served: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn listen() -> io::Result<()> {
    // As many threads as ours has.
    let server = HttpServer::new(|| App::new().route("/{tokens}", web::post().to(stream)));
    let server = server.workers(serve::http_threads_default()).disable_signals().bind(("127.0.0.1", 0))?;
    println!("http://{}", server.addrs()[0]);
    io::stdout().flush()?;
    let server = server.run();
    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        // Nobody waits for it: its future only tells when it has stopped.
        drop(handle.stop(false));
    });
    server.await
}

/// So many events, each made when it is its turn, handed over a channel of one, so that each is its own write.
async fn stream(tokens: web::Path<usize>) -> HttpResponse {
    let (sender, events) = mpsc::channel(1);
    actix_web::rt::spawn(async move {
        for index in 1..=*tokens {
            if sender.send(event(index == *tokens)).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = sender.send(web::Bytes::from_static(b"data: [DONE]\n\n")).await;
    });
    let events = stream::unfold(events, |mut events| async move {
        let event = events.recv().await?;
        Some((Ok::<_, actix_web::Error>(event), events))
    });
    HttpResponse::Ok().content_type("text/event-stream").streaming(events)
}

fn event(is_last: bool) -> web::Bytes {
    let finish_reason = is_last.then_some("length");
    let choices = [Choice { index: 0, text: " hello", finish_reason }];
    let event = Event {
        id: "cmpl-0123456789abcdef0123456789abcdef",
        object: "text_completion",
        created: 1_700_000_000,
        model: "SmolLM2-135M-Instruct.Q4_1.gguf",
        choices,
    };
    let mut bytes = b"data: ".to_vec();
    serde_json::to_writer(&mut bytes, &event).expect("an event is plain data");
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}
