//! The ports.

use std::{io, net::SocketAddr, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    middleware::from_fn,
    rt, web,
};

use crate::{
    api::{Api, guarded, metrics_route, routes},
    config::ServeFlags,
};

/// Idle connections are kept this long: longer than usual proxies do, so that it's they who close.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send its headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 2048;

/// A server that listens.
pub struct Listening {
    host: String,
    port: u16,
    handle: ServerHandle,
}

impl Listening {
    /// To stop it with.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// The ready line. Programs wait for it, so it goes to standard output, in one write, and nothing else does.
    pub fn announce(&self, details: &str) {
        println!("Shardwire is ready: http://{}:{} ({details})", self.host, self.port);
    }
}

/// Opens the ports and answers on them.
pub fn bind(flags: &ServeFlags, api: web::Data<Api>) -> Result<Listening, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = flags.workers.map_or((cores / 4).max(1), usize::from);
    let shared = api.clone();
    let server = HttpServer::new(move || App::new().app_data(shared.clone()).wrap(from_fn(guarded)).configure(routes))
        .workers(threads)
        .backlog(BACKLOG)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIMEOUT)
        // A client that has closed its half is gone: its sequences are cancelled.
        .h1_allow_half_closed(false)
        .shutdown_timeout(1)
        .disable_signals()
        .bind((flags.host.as_str(), flags.port))
        .map_err(|error| refusal(&flags.host, flags.port, "--port", &error))?;
    let port = server.addrs().first().map_or(flags.port, SocketAddr::port);
    if let Some(metrics_port) = flags.metrics_port.filter(|&other| other != port) {
        rt::spawn(bind_metrics(&flags.host, metrics_port, api)?);
    }
    let running = server.run();
    let handle = running.handle();
    rt::spawn(running);
    Ok(Listening { host: shown_host(&flags.host), port, handle })
}

fn bind_metrics(host: &str, port: u16, api: web::Data<Api>) -> Result<Server, String> {
    let server = HttpServer::new(move || App::new().app_data(api.clone()).configure(metrics_route))
        .workers(1)
        .disable_signals()
        .bind((host, port))
        .map_err(|error| refusal(host, port, "--metrics-port", &error))?;
    Ok(server.run())
}

fn refusal(host: &str, port: u16, flag: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} is in use already; choose another with {flag}"),
        _ => format!("can't listen at {host}:{port} ({flag}): {error}"),
    }
}

/// IPv6 addresses stand in brackets in a URL.
fn shown_host(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
