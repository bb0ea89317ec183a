//! One port's connections.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::observe::Answer;

/// From a path to an answer.
pub(super) type Answers = Rc<dyn Fn(&str) -> Answer>;

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last: Prometheus and load balancers simply open another one.
const CONNECTION: Duration = Duration::from_secs(60);
/// The longest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// Connections at once, of all ports together. Who is answered at once needs no long stay: when one
/// more comes, the one that has been here longest has to go.
const AT_ONCE: usize = 128;
/// After a failure to accept (out of files) wait this long: others must close first.
const BREATH: Duration = Duration::from_millis(20);

/// Everybody who is connected, the longest first.
#[derive(Default)]
pub(super) struct Callers(RefCell<VecDeque<AbortHandle>>);

impl Callers {
    fn make_room(&self) {
        let mut callers = self.0.borrow_mut();
        callers.retain(|caller| !caller.is_finished());
        while callers.len() >= AT_ONCE {
            if let Some(longest) = callers.pop_front() {
                longest.abort();
            }
        }
    }

    fn enter(&self, caller: AbortHandle) {
        self.0.borrow_mut().push_back(caller);
    }
}

/// Answers until it is aborted; its connections end with it.
pub(super) async fn accept(listener: TcpListener, answers: Rc<RefCell<Answers>>, callers: Rc<Callers>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                callers.make_room();
                callers.enter(connections.spawn_local(connection(stream, Rc::clone(&answers))));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(BREATH).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, answers: Rc<RefCell<Answers>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Rc::clone(&answers.borrow());
        let answer = answers(request.uri().path());
        std::future::ready(Ok::<_, Infallible>(response(answer)))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away in the middle, or sends what is no request, is its own affair.
    let _ = timeout(CONNECTION, connection).await;
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    }
    response
}
