//! Whether the body of a request was read to its end when its answer is made. An answer that comes before says that it is
//! the last one of its connection: a client that went on would meet the end of it with its next request.

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Knows it, also where the body is gone.
#[derive(Clone, Debug)]
pub struct End(Arc<AtomicBool>);

impl End {
    /// The same body, and who knows its end.
    pub fn of(body: Body) -> (Body, End) {
        let end = End(Arc::new(AtomicBool::new(body.is_end_stream())));
        (Body::new(Watched { body, end: end.clone() }), end)
    }

    /// Whether it was reached.
    pub fn is_reached(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Watched {
    body: Body,
    end: End,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.end.0.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
