//! Connections: accepted up to a limit, and ended when their peer is too slow, or when another needs the place of one
//! that waits for its peer.
//!
//! HTTP/1.1 alone: TLS and HTTP/2 are the business of a proxy in front. A peer may be slow in three
//! places: the head of a request (timed here), its body (timed where it is read), and the answer
//! ([`Writing`]).

use super::envelope::ApiError;
use super::pace::Window;
use super::places::{Places, Seat};
use super::unread::End;
use super::{Door, DoorLimits, DoorState, route};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// How long a connection that we end may still send: closing it with unread bytes would take the
/// answer from a client that is still busy with its request.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes of answers that a peer must take within [`DoorLimits::stall_timeout`], 30 s: 4 KiB/s, as pace.rs asks of who
/// sends. An answer holds a place as long as it is being taken.
const TAKEN_BYTES: u64 = 120 << 10;
/// Lines in the head of a request. Proxies in a row and the SDKs add some dozens; all together have 400 KiB at most.
const HEADERS_MAX: usize = 500;
/// The pause after a failed accept: the usual cause is a lack of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown` is ready, then lets requests in hand finish, for a limited time.
///
/// # Errors
/// None now: those of single connections end these alone.
pub async fn serve(
    listener: TcpListener,
    state: DoorState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let limits = state.limits.clone();
    serve_router(listener, limits, route::router(Door::new(state)), shutdown).await
}

/// The same, with any routes.
pub async fn serve_router(
    listener: TcpListener,
    limits: DoorLimits,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let places = Places::new(limits.connections);
    let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // One that was accepted waits here while all others have a request in hand; the next ones wait in
                    // the kernel.
                    let seat = Arc::new(places.seat().await);
                    let connection = Connection {
                        router: router.clone(),
                        head_timeout: limits.head_timeout,
                        stall_timeout: limits.stall_timeout,
                        stopping: stopping.clone(),
                    };
                    tasks.spawn(connection.run(stream, Peer(peer.ip()), seat));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    drop(listener);
    stopping.cancel();
    tasks.close();
    if timeout(limits.drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "requests were given up at shutdown");
    }
    Ok(())
}

/// Who sent a request: the other end of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

struct Connection {
    router: Router,
    head_timeout: Duration,
    stall_timeout: Duration,
    stopping: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, peer: Peer, seat: Arc<Seat>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone at once");
            return;
        }
        let router = self.router;
        let of_requests = seat.clone();
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            let (router, seat) = (router.clone(), of_requests.clone());
            // Pinned, because the connection is asked by reference.
            Box::pin(async move {
                // The place was given away in this very moment: nothing of the request was done.
                if !seat.busy() {
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
                }
                let answering = Answering(seat);
                request.extensions_mut().insert(peer);
                let response = answer(router, request).await;
                Ok(response.map(|body| hold(body, answering)))
            })
        });
        let io = TokioIo::new(Writing::new(stream, self.stall_timeout, seat.clone()));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_headers(HEADERS_MAX)
            .serve_connection(io, service);
        let mut told = false;
        let ended = loop {
            let serving = std::future::poll_fn(|context| connection.poll_without_shutdown(context));
            tokio::select! {
                ended = serving => break ended,
                () = seat.given_away() => {
                    tracing::debug!("a connection without a request made room for another");
                    return;
                }
                () = self.stopping.cancelled(), if !told => {
                    told = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        match ended {
            Err(error) => tracing::debug!(%error, "a connection broke"),
            Ok(()) if !told => {
                seat.idle();
                tokio::select! {
                    () = linger(connection.into_parts().io.into_inner().stream) => {}
                    () = seat.given_away() => {}
                }
            }
            Ok(()) => {}
        }
    }
}

/// The answer, with what its connection makes of it.
async fn answer(router: Router, request: hyper::Request<hyper::body::Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let (body, end) = End::of(Body::new(body));
    // RFC 9112, 3.2: one, and none only from clients of HTTP/1.0.
    let hosts = head.headers.get_all(header::HOST).iter().count();
    let mut response = match hosts {
        0 if head.version >= Version::HTTP_11 => no_host(),
        0 | 1 => {
            let Ok(response) = router.oneshot(hyper::Request::from_parts(head, body)).await;
            response
        }
        _ => no_host(),
    };
    let status = response.status();
    let headers = response.headers_mut();
    if status == StatusCode::NOT_MODIFIED {
        // The framework writes the length of what it sends, which is not that of the file.
        headers.remove(header::CONTENT_LENGTH);
    }
    if !end.is_reached() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn no_host() -> Response {
    let message = "The request must have a header 'Host', and no more than one.";
    let mut response = ApiError::unreadable(message).into_response();
    route::put(response.headers_mut(), "x-request-id", &route::request_id());
    response
}

/// Says that nothing more comes, and reads on for a while.
async fn linger(mut stream: TcpStream) {
    let reading = async {
        stream.shutdown().await?;
        let mut dropped = vec![0; 16 * 1024];
        while stream.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever happens now, the answer is out as far as we can see to it.
    if !matches!(timeout(LINGER, reading).await, Ok(Ok(()))) {
        tracing::debug!("a connection was closed before its peer closed it");
    }
}

/// Dropped when the last byte of an answer was made.
struct Answering(Arc<Seat>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The same body, with what is held until the last byte of it was made.
pub fn hold<T: Send + Unpin + 'static>(body: Body, with: T) -> Body {
    Body::new(Held { body, _with: with })
}

/// The body of an answer, and what is held as long as it is being sent.
struct Held<T> {
    body: Body,
    _with: T,
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose peer must take what is written at a least rate. Only the time in which we wait for it counts.
struct Writing {
    stream: TcpStream,
    window: Window,
    /// Since when we wait.
    since: Option<Instant>,
    patience: Pin<Box<Sleep>>,
    seat: Arc<Seat>,
}

impl Writing {
    fn new(stream: TcpStream, limit: Duration, seat: Arc<Seat>) -> Writing {
        let window = Window::new(limit, TAKEN_BYTES);
        Writing { stream, window, since: None, patience: Box::pin(sleep(limit)), seat }
    }

    /// Fails when the peer has taken too little for too long.
    fn watch<T: Copy>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        bytes: impl FnOnce(T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = written {
            let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            self.window.moved(written.as_ref().map_or(0, |taken| bytes(*taken)) as u64, waited);
            return Poll::Ready(written);
        }
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            self.patience.as_mut().reset(now + self.window.left);
        }
        match self.patience.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Writing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Writing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written, |taken| taken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // hyper flushes when it has written all that it holds: an answer that was made is now the kernel's.
        if flushed.is_ready() {
            self.seat.flushed();
        }
        self.watch(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, written, |taken| taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: who takes an answer in drips that are never far apart is given up as one who takes nothing.
    #[tokio::test]
    async fn a_reader_has_a_least_rate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let seat = Arc::new(Places::new(1).seat().await);
        let limit = Duration::from_millis(300);
        let mut writing = Writing::new(stream, limit, seat);
        let began = Instant::now();
        // Each drip comes after a wait, and long before the limit.
        let mut drip = async |bytes: usize| {
            let wait = std::future::poll_fn(|context| writing.watch(context, Poll::Pending, |n| n));
            match timeout(Duration::from_millis(20), wait).await {
                Ok(broken) => broken.map(|_: usize| ()),
                Err(_) => std::future::poll_fn(|context| {
                    writing.watch(context, Poll::Ready(Ok(bytes)), |n| n)
                })
                .await
                .map(|_| ()),
            }
        };
        for _ in 0..30 {
            drip(TAKEN_BYTES as usize / 3).await.expect("fast enough");
        }
        assert!(began.elapsed() > limit);
        let mut drips = 0;
        let ended = loop {
            match drip(1).await {
                Ok(()) => drips += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(drips <= 15, "{drips}");
    }
}
