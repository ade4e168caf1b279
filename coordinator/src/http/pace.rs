//! A body that must keep coming: whoever sends too slowly is given up, because a request holds its place for as long
//! as its body is read.
//!
//! Only the time in which we wait for the sender counts, not that in which we work on what it sent.

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that must come within [`DoorLimits::pace_timeout`](super::DoorLimits::pace_timeout), 10 s: 4 KiB/s, half of
/// what the slowest mobile networks carry. A body of one byte each 30 s is given up after 10 s instead of after the
/// 600 s of a whole body; and to hold 128 places (a project's share) for these 600 s takes 512 KiB/s.
const PACE_BYTES: u64 = 40 << 10;

/// The sender was too slow.
#[derive(Clone, Copy, Debug)]
pub struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body comes too slowly")
    }
}

impl std::error::Error for TooSlow {}

impl TooSlow {
    /// Whether this is why a body broke off.
    pub fn caused(error: &axum::Error) -> bool {
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if error.is::<TooSlow>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// What a peer has to send or to take, and what is left of the time for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    whole: Duration,
    least: u64,
    /// How long it may still keep us waiting.
    pub left: Duration,
    bytes: u64,
}

impl Window {
    /// So many bytes in a time.
    pub fn new(whole: Duration, least: u64) -> Window {
        Window { whole, least, left: whole, bytes: 0 }
    }

    /// So many came or went when we had waited so long.
    pub fn moved(&mut self, bytes: u64, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
        self.bytes += bytes;
        if self.bytes >= self.least {
            *self = Window::new(self.whole, self.least);
        }
    }
}

/// The body.
pub struct Paced {
    body: Body,
    window: Window,
    /// Since when we wait.
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Paced {
    /// The same body, which fails with [`TooSlow`] when too little came in a window of this length.
    pub fn over(body: Body, window: Duration) -> Body {
        let timer = Box::pin(sleep(window));
        Body::new(Paced { body, window: Window::new(window, PACE_BYTES), since: None, timer })
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let bytes = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => 0,
            };
            let waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            self.window.moved(bytes as u64, waited);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            let end = now + self.window.left;
            self.timer.as_mut().reset(end);
        }
        match self.timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(TooSlow.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_window_begins_anew_when_enough_came() {
        let mut window = Window::new(10 * SECOND, PACE_BYTES);
        window.moved(1, 4 * SECOND);
        window.moved(PACE_BYTES - 2, 5 * SECOND);
        assert_eq!(window.left, SECOND, "drips buy no time");
        window.moved(1, SECOND);
        assert_eq!(window, Window::new(10 * SECOND, PACE_BYTES));
        window.moved(1, 60 * SECOND);
        assert_eq!(window.left, Duration::ZERO);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_says_why_it_broke_off() {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let body = Paced::over(Body::from_stream(never), Duration::ZERO);
        let broken = axum::body::to_bytes(body, 10).await.unwrap_err();
        assert!(TooSlow::caused(&broken));
        let other = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
        let body = Paced::over(Body::from_stream(other), Duration::ZERO);
        assert!(!TooSlow::caused(&axum::body::to_bytes(body, 10).await.unwrap_err()));
        let whole = Paced::over(Body::from("text"), Duration::ZERO);
        assert_eq!(axum::body::to_bytes(whole, 10).await.unwrap(), "text");
    }
}
