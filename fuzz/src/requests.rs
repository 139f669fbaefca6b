//! Requests over HTTP, through the server's own routes, up to the point where the engine would take them: it is draining, and
//! refuses all.

use std::{cell::LazyCell, rc::Rc};

use actix_web::{
    App,
    dev::ServiceResponse,
    http::{Method, StatusCode, Uri},
    rt::{System, SystemRunner},
    test::{TestRequest, call_service, init_service},
};
use futures_util::future::LocalBoxFuture;
use shardwire::{
    api,
    config::{Command, CommandLine},
    serve::{Plan, start_computing},
};

thread_local! {
    // Never dropped: a thread's last moments are too late to end a runtime.
    static SERVER: LazyCell<&'static Server> = LazyCell::new(|| Box::leak(Box::new(Server::start())));
}

/// A server without ports and without ranks.
struct Server {
    system: SystemRunner,
    answer: Box<dyn Fn(TestRequest) -> LocalBoxFuture<'static, ServiceResponse>>,
}

/// The input is `METHOD PATH`, a line break, and the body. No fault may be the server's own.
pub fn read(input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == b'\n');
    let line = parts.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let (Some((method, path)), Some(body)) = (line.split_once(' '), parts.next()) else { return };
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), path.parse::<Uri>()) else { return };
    let request = TestRequest::default().method(method).uri(&uri.to_string()).set_payload(body.to_vec());
    SERVER.with(|server| {
        let status = server.system.block_on((server.answer)(request)).status();
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    });
}

impl Server {
    fn start() -> Self {
        let system = System::new();
        let answer = system.block_on(async {
            // Logs can't be made there, so no rank is started.
            let model = crate::fixtures::model();
            let words = ["shardwire", "serve", "--device", "cpu", "--log-dir", "/dev/null", "--enable-logprob"];
            let more = ["--trust-request-chat-template".as_ref(), "--model".as_ref(), model.as_os_str()];
            let words = words.map(Into::into).into_iter().chain(more.map(Into::into));
            let Ok(CommandLine { command: Command::Serve(flags) }) = CommandLine::read(words) else {
                panic!("these are flags of serve");
            };
            let plan = Plan::of(&flags).expect("a golden model can be served");
            let (api, _) = start_computing(&flags, api::ApiKeys::default(), plan).expect("a thread can be started");
            api.admission.open();
            api.engine.drain();
            let app = Rc::new(init_service(App::new().app_data(api).configure(api::routes)).await);
            move |request: TestRequest| -> LocalBoxFuture<'static, ServiceResponse> {
                let app = app.clone();
                Box::pin(async move { call_service(&*app, request.to_request()).await })
            }
        });
        Self { system, answer: Box::new(answer) }
    }
}
