//! Reads a request's body into a tree of fields, within limits of size, time and memory.
//!
//! Files are hashed as they come and are not kept: no field of this release needs their bytes. Text
//! is kept, so it has a smaller limit.

use super::Door;
use super::envelope::ApiError;
use super::fields::Fields;
use super::multipart::{self, Event, Malformed, Parser};
use super::node::{FileFacts, Node, Values, join};
use super::pace::TooSlow;
use crate::room::{Place, Who};
use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

/// Parts of one multipart body: the most that any request can need is a few dozen.
const PARTS_MAX: usize = 1000;
/// Text above which a body needs one of the few places for large bodies, and a thread to parse it.
pub const LARGE_BYTES: u64 = 1 << 20;
/// Large bodies at once, until what was made of them is gone: with the limit of text, twice that while one is parsed, and
/// the tree of as many values as a body may have, 500 MB.
pub const LARGE_BODIES: usize = 4;
/// A project has one of so many: half of them.
pub const LARGE_SHARE: usize = 2;

/// Reads a body of either type; an empty one has no fields, whatever its type.
///
/// # Errors
/// 413, 415, 408, 503 where too many large bodies are being read, 400 if it cannot be parsed.
pub async fn read(
    door: &Door,
    who: Who,
    headers: &HeaderMap,
    body: Body,
) -> Result<Fields, ApiError> {
    let mut incoming = Incoming::of(door, headers, body)?;
    let held = Held { door, who, bytes: 0, place: None };
    let Some(first) = incoming.next().await? else { return Fields::of(Node::Map(Vec::new())) };
    coded(headers)?;
    let (kind, media) = kind(headers);
    if media.eq_ignore_ascii_case("application/json") {
        return json(incoming, held, first).await;
    }
    if media.eq_ignore_ascii_case(MULTIPART) {
        return form(incoming, held, first, &boundary(kind)?).await;
    }
    Err(ApiError::media_type(media))
}

/// The content type of a form.
const MULTIPART: &str = "multipart/form-data";

/// The content type of a body, and what of it is no parameter.
fn kind(headers: &HeaderMap) -> (&str, &str) {
    let kind = text_header(headers, header::CONTENT_TYPE.as_str()).unwrap_or("");
    (kind, kind.split(';').next().unwrap_or("").trim())
}

fn boundary(kind: &str) -> Result<String, ApiError> {
    multipart::boundary(kind).ok_or_else(|| {
        ApiError::unreadable("The content type of the multipart body has no usable boundary.")
    })
}

/// Refuses what is packed.
fn coded(headers: &HeaderMap) -> Result<(), ApiError> {
    let coding = text_header(headers, header::CONTENT_ENCODING.as_str()).unwrap_or("identity");
    match coding.eq_ignore_ascii_case("identity") {
        true => Ok(()),
        false => Err(ApiError::media_type(coding)),
    }
}

/// Writes the file of a multipart body to disk, which has no part but this one; gives its first `head_bytes`.
///
/// # Errors
/// As [`read`]; 400 if there is no such file, or another part.
pub async fn file(
    door: &Door,
    headers: &HeaderMap,
    body: Body,
    name: &str,
    to: &mut tokio::fs::File,
    head_bytes: usize,
) -> Result<FileFacts, ApiError> {
    let mut incoming = Incoming::of(door, headers, body)?;
    let Some(first) = incoming.next().await? else { return Err(ApiError::missing(name)) };
    coded(headers)?;
    let (kind, media) = kind(headers);
    if !media.eq_ignore_ascii_case(MULTIPART) {
        return Err(ApiError::no_form(media));
    }
    let mut parser = Parser::new(&boundary(kind)?);
    let (mut found, mut head, mut hash, mut bytes) = (false, Vec::new(), Sha256::new(), 0);
    let mut next = Some(first);
    while let Some(came) = next {
        let mut piece = Vec::new();
        parser.push(&came, &mut |event| -> Result<(), ApiError> {
            match event {
                Event::Part { name: of, .. } if of != name => return Err(ApiError::unknown(of)),
                Event::Part { file: false, .. } => {
                    return Err(ApiError::wrong_type(name, "a file", "a string"));
                }
                Event::Part { .. } if found => {
                    return Err(ApiError::wrong_type(name, "a file", "several values"));
                }
                Event::Part { .. } => found = true,
                Event::Bytes(new) => piece.extend_from_slice(new),
                Event::End => {}
            }
            Ok(())
        })?;
        let room = head_bytes - head.len();
        head.extend_from_slice(&piece[..room.min(piece.len())]);
        hash.update(&piece);
        bytes += piece.len() as u64;
        to.write_all(&piece).await.map_err(|error| {
            tracing::error!(%error, "a file could not be spooled");
            ApiError::internal()
        })?;
        next = incoming.next().await?;
    }
    parser.finish()?;
    if !found {
        return Err(ApiError::missing(name));
    }
    Ok(FileFacts { bytes, sha256: hash.finalize().into(), head })
}

/// A header's value, if it is text.
pub fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The bytes of a body, within the limits of size and time.
struct Incoming<'a> {
    stream: BodyDataStream,
    read: u64,
    door: &'a Door,
    deadline: Instant,
}

impl<'a> Incoming<'a> {
    /// A body whose declared length is within the limit.
    fn of(door: &'a Door, headers: &HeaderMap, body: Body) -> Result<Incoming<'a>, ApiError> {
        let limits = &door.state.limits;
        let declared = text_header(headers, header::CONTENT_LENGTH.as_str());
        if declared.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > limits.body_bytes) {
            return Err(ApiError::too_large(limits.body_bytes));
        }
        let deadline = Instant::now() + limits.body_timeout;
        Ok(Incoming { stream: body.into_data_stream(), read: 0, door, deadline })
    }

    /// The next bytes that are not empty.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let limits = &self.door.state.limits;
        loop {
            let next = timeout(limits.stall_timeout, self.stream.next());
            let Ok(Ok(next)) = timeout_at(self.deadline, next).await else {
                return Err(ApiError::too_slow());
            };
            let Some(bytes) = next else { return Ok(None) };
            // Whoever sent half a body is gone, or will not hear more than this.
            let bytes = bytes.map_err(|error| match TooSlow::caused(&error) {
                true => ApiError::too_slow(),
                false => ApiError::unreadable("The body is incomplete."),
            })?;
            self.read += bytes.len() as u64;
            if self.read > limits.body_bytes {
                return Err(ApiError::too_large(limits.body_bytes));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Counts text that is held in memory, and takes a place when that becomes much.
struct Held<'a> {
    door: &'a Door,
    who: Who,
    bytes: u64,
    place: Option<Place>,
}

impl Held<'_> {
    fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.bytes += bytes as u64;
        let limit = self.door.state.limits.text_bytes;
        if self.bytes > limit {
            return Err(ApiError::too_large(limit));
        }
        if self.bytes > LARGE_BYTES && self.place.is_none() {
            let place = self.door.large_bodies.take(self.who);
            self.place = Some(place.ok_or_else(|| ApiError::overloaded(5))?);
        }
        Ok(())
    }

    /// The fields of what was read, which keep the place that it took.
    async fn fields(
        self,
        parse: impl FnOnce() -> Result<Node, ApiError> + Send + 'static,
    ) -> Result<Fields, ApiError> {
        let make = || Fields::of(parse()?).map(Fields::hashed);
        let made = match self.place {
            None => make(),
            Some(_) => tokio::task::spawn_blocking(make).await.map_err(|_| ApiError::internal())?,
        };
        made.map(|fields| fields.placed(self.place))
    }
}

async fn json(
    mut incoming: Incoming<'_>,
    mut held: Held<'_>,
    first: Bytes,
) -> Result<Fields, ApiError> {
    let mut text = Vec::new();
    let mut next = Some(first);
    while let Some(bytes) = next {
        held.add(bytes.len())?;
        text.extend_from_slice(&bytes);
        next = incoming.next().await?;
    }
    held.fields(move || {
        // Spaces alone are an empty body too.
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Node::Map(Vec::new()));
        }
        let values = Values::new();
        values.parse(&text).map_err(|error| match values.are_spent() {
            true => ApiError::many_values(),
            // The parser's words name a place in the caller's own text; they carry nothing of ours.
            false => ApiError::unreadable(format!("The body is not valid JSON: {error}.")),
        })
    })
    .await
}

async fn form(
    mut incoming: Incoming<'_>,
    held: Held<'_>,
    first: Bytes,
    boundary: &str,
) -> Result<Fields, ApiError> {
    let mut parts = Parts { held, done: Vec::new(), open: None };
    let mut parser = Parser::new(boundary);
    let mut next = Some(first);
    while let Some(bytes) = next {
        parser.push(&bytes, &mut |event| parts.take(event))?;
        next = incoming.next().await?;
    }
    parser.finish()?;
    let Parts { held, done, .. } = parts;
    held.fields(move || Ok(join(done))).await
}

struct Parts<'a> {
    held: Held<'a>,
    done: Vec<(String, Node)>,
    open: Option<(String, Open)>,
}

enum Open {
    Text(Vec<u8>),
    File { bytes: u64, hash: Sha256, head: Vec<u8> },
}

impl Parts<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), ApiError> {
        match (event, &mut self.open) {
            (Event::Part { name, file }, _) => {
                if self.done.len() >= PARTS_MAX {
                    let message = format!("The body has more than {PARTS_MAX} parts.");
                    return Err(ApiError::unreadable(message));
                }
                let open = if file {
                    Open::File { bytes: 0, hash: Sha256::new(), head: Vec::new() }
                } else {
                    Open::Text(Vec::new())
                };
                self.held.add(name.len())?;
                self.open = Some((name.to_owned(), open));
            }
            (Event::Bytes(new), Some((_, Open::Text(text)))) => {
                self.held.add(new.len())?;
                text.extend_from_slice(new);
            }
            (Event::Bytes(new), Some((_, Open::File { bytes, hash, head }))) => {
                *bytes += new.len() as u64;
                hash.update(new);
                let room = FileFacts::HEAD - head.len();
                head.extend_from_slice(&new[..room.min(new.len())]);
            }
            (Event::End, open) => {
                if let Some((name, part)) = open.take() {
                    let node = part.node(&name)?;
                    self.done.push((name, node));
                }
            }
            // The parser tells bytes only inside of a part.
            (Event::Bytes(_), None) => {}
        }
        Ok(())
    }
}

impl Open {
    fn node(self, name: &str) -> Result<Node, ApiError> {
        match self {
            Open::Text(text) => String::from_utf8(text)
                .map(Node::Form)
                .map_err(|_| ApiError::unreadable(format!("The part '{name}' is not UTF-8 text."))),
            Open::File { bytes, hash, head } => {
                Ok(Node::File(FileFacts { bytes, sha256: hash.finalize().into(), head }))
            }
        }
    }
}

impl From<Malformed> for ApiError {
    fn from(why: Malformed) -> Self {
        ApiError::unreadable(format!("The body cannot be read: {why}."))
    }
}
