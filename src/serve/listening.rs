//! The ports.

use std::{
    io::{self, Write},
    net::TcpListener,
    time::Duration,
};

use actix_web::{App, HttpServer, dev::ServerHandle, middleware::from_fn, rt, web};
use rustls::ServerConfig;

use super::{certificate, descriptors};
use crate::{
    api::{Api, cors::CorsPolicy, guarded, metrics_route, named, reworded, routes},
    config::ServeFlags,
};

/// Idle connections are kept this long: longer than usual proxies do, so that it's they who close.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send its headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted. Beyond the standard library's 128, clients that come at once would be left
/// to try again after a second; the system cuts it to its own most (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// A client that takes nothing of what is sent to it for so long, milliseconds, is gone: its connection ends, and its
/// requests with it. Networks that lose a client's answers for minutes are forgiven.
const TAKES_NOTHING_MS: u32 = 600_000;

/// The ports, taken and not answered on yet. Connections that come meanwhile wait.
pub struct Ports {
    main: TcpListener,
    metrics: Option<TcpListener>,
    tls: Option<ServerConfig>,
    connections_max: usize,
    host: String,
    port: u16,
}

impl Ports {
    /// Takes them; refuses what is taken already, and a certificate that can't be shown.
    pub fn take(flags: &ServeFlags) -> Result<Self, String> {
        let tls = certificate::tls(flags)?;
        let connections_max = descriptors::connections_max()?;
        let host = flags.host.as_str();
        let main = listen(host, flags.port, "--port")?;
        let port = main.local_addr().map_or(flags.port, |address| address.port());
        let metrics_port = flags.metrics_port.filter(|&other| other != port);
        let metrics = metrics_port.map(|port| listen(host, port, "--metrics-port")).transpose()?;
        Ok(Self { main, metrics, tls, connections_max, host: shown_host(host), port })
    }

    /// Answers on them, in the background.
    pub fn answer(self, api: web::Data<Api>, threads: usize, cors: CorsPolicy) -> io::Result<Listening> {
        if let Some(metrics) = self.metrics {
            let api = api.clone();
            let server = HttpServer::new(move || App::new().app_data(api.clone()).configure(metrics_route));
            let server = server.workers(1).disable_signals();
            let server = match self.tls.clone() {
                Some(tls) => server.listen_rustls_0_23(metrics, tls),
                None => server.listen(metrics),
            };
            rt::spawn(server?.run());
        }
        // The last that is wrapped around is the outermost: refusals too have a name, and pages may read them.
        let app = move || {
            let app = App::new().app_data(api.clone()).configure(routes);
            app.wrap(from_fn(guarded)).wrap(from_fn(reworded)).wrap(cors.middleware()).wrap(from_fn(named))
        };
        let server = HttpServer::new(app)
            .workers(threads)
            .keep_alive(KEEP_ALIVE)
            // Events are small and not answered: the system would keep the second of two back until the client has
            // acknowledged the first, which clients put off by 40 ms.
            .tcp_nodelay(true)
            .client_request_timeout(HEAD_TIMEOUT)
            // Those beyond wait until one of these ends.
            .max_connections((self.connections_max / threads).max(1))
            // A client that has closed its half is gone: its sequences are cancelled.
            .h1_allow_half_closed(false)
            .shutdown_timeout(1)
            .disable_signals();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let server = match self.tls {
            Some(tls) => server.listen_rustls_0_23(self.main, tls),
            None => server.listen(self.main),
        };
        let server = server?.run();
        let handle = server.handle();
        rt::spawn(server);
        Ok(Listening { url: format!("{scheme}://{}:{}", self.host, self.port), handle })
    }
}

/// A server that answers.
pub struct Listening {
    url: String,
    handle: ServerHandle,
}

impl Listening {
    /// To stop it with.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// The ready line. Programs wait for it, so it goes to standard output, in one write, and nothing else does.
    pub fn announce(&self, details: &str) {
        let line = format!("Shardwire is ready: {} ({details})\n", self.url);
        let mut out = io::stdout().lock();
        // Whoever closed our standard output doesn't wait for this.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

fn listen(host: &str, port: u16, flag: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind((host, port)).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} is in use already; choose another with {flag}"),
        _ => format!("can't listen at {host}:{port} ({flag}): {error}"),
    })?;
    // It listens already; to be told once more only makes the queue longer.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| format!("can't listen at {host}:{port}: {error}"))?;
    // Accepted connections inherit it.
    rustix::net::sockopt::set_tcp_user_timeout(&listener, TAKES_NOTHING_MS)
        .map_err(|error| format!("can't listen at {host}:{port}: {error}"))?;
    Ok(listener)
}

/// IPv6 addresses stand in brackets in a URL.
fn shown_host(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn connections_end_that_take_nothing() {
        let listener = listen("127.0.0.1", 0, "--port").expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (accepted, _) = listener.accept().expect("a connection");
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(accepted), Ok(TAKES_NOTHING_MS));
    }
}
