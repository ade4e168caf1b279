//! A parser of `multipart/form-data` that is given bytes as they come and never holds more than a
//! part's head.
//!
//! Our own because the usual one buffers without a limit while a part's head has no end, and as
//! much of the body as the peer sends at once. Pure: bytes in, [`Event`]s out.

/// The longest head of one part, in bytes: a name of 64 characters and a file name of 255 fit many
/// times.
const HEAD_MAX: usize = 8 * 1024;
/// The longest boundary (RFC 2046).
const BOUNDARY_MAX: usize = 70;
/// Spaces that may stand behind a boundary.
const PADDING_MAX: usize = 64;

/// What the parser saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A part began.
    Part {
        /// Its name.
        name: &'a str,
        /// Whether it has a file name, and so is a file.
        file: bool,
    },
    /// The next bytes of it.
    Bytes(&'a [u8]),
    /// It ended.
    End,
}

/// A body that is no multipart body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Reads one body.
#[derive(Debug)]
pub struct Parser {
    /// CR LF `--` boundary.
    delimiter: Vec<u8>,
    /// Bytes that could not be decided yet: less than a head, or less than a delimiter.
    rest: Vec<u8>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Preamble,
    Delimiter,
    Head,
    Part,
    Epilogue,
}

/// The boundary that a content type names, if that is `multipart/form-data`.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = parameter(parameters, "boundary")?;
    (1..=BOUNDARY_MAX).contains(&value.len()).then_some(value)
}

impl Parser {
    /// A parser of a body with this boundary.
    pub fn new(boundary: &str) -> Parser {
        // The first delimiter may stand at the very start, as if a line had ended before it.
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Parser { delimiter, rest: b"\r\n".to_vec(), place: Place::Preamble }
    }

    /// Takes the next bytes and tells what is in them.
    ///
    /// # Errors
    /// `Malformed`, or what `tell` answers. No further bytes may be given after an error.
    pub fn push<E: From<Malformed>>(
        &mut self,
        bytes: &[u8],
        tell: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(used) = self.step(&rest[at..], tell)? {
            at += used;
        }
        rest.drain(..at);
        self.rest = rest;
        Ok(())
    }

    /// Says whether the body was whole.
    ///
    /// # Errors
    /// `Malformed` if the last boundary is missing.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.place == Place::Epilogue {
            return Ok(());
        }
        Err(Malformed("the multipart body ends before its last boundary"))
    }

    /// Uses up some bytes; none if more are needed.
    fn step<E: From<Malformed>>(
        &mut self,
        bytes: &[u8],
        tell: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Option<usize>, E> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self.place {
            Place::Epilogue => Ok(Some(bytes.len())),
            Place::Preamble => Ok(match find(bytes, &self.delimiter) {
                Some(at) => {
                    self.place = Place::Delimiter;
                    Some(at + self.delimiter.len())
                }
                None => self.sure(bytes),
            }),
            Place::Delimiter => Ok(self.delimiter_end(bytes)?),
            Place::Head => {
                // A head without any line is only its empty line.
                let end = if bytes.starts_with(b"\r\n") {
                    Some(2)
                } else {
                    find(bytes, b"\r\n\r\n").map(|at| at + 4)
                };
                match end {
                    Some(end) if end <= HEAD_MAX => {
                        let (name, file) = disposition(&bytes[..end])?;
                        tell(Event::Part { name: &name, file })?;
                        self.place = Place::Part;
                        Ok(Some(end))
                    }
                    None if bytes.len() <= HEAD_MAX => Ok(None),
                    _ => Err(Malformed("a part of the multipart body has too large a head").into()),
                }
            }
            Place::Part => self.part(bytes, tell),
        }
    }

    fn part<E: From<Malformed>>(
        &mut self,
        bytes: &[u8],
        tell: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<Option<usize>, E> {
        if let Some(at) = find(bytes, &self.delimiter) {
            tell_bytes(&bytes[..at], tell)?;
            tell(Event::End)?;
            self.place = Place::Delimiter;
            return Ok(Some(at + self.delimiter.len()));
        }
        let sure = self.sure(bytes);
        if let Some(sure) = sure {
            tell_bytes(&bytes[..sure], tell)?;
        }
        Ok(sure)
    }

    /// How many bytes are surely not part of a delimiter; none if that is none.
    fn sure(&self, bytes: &[u8]) -> Option<usize> {
        let most = self.delimiter.len() - 1;
        let tail = bytes.len().saturating_sub(most);
        let open = (tail..bytes.len()).find(|at| self.delimiter.starts_with(&bytes[*at..]));
        Some(open.unwrap_or(bytes.len())).filter(|sure| *sure > 0)
    }

    fn delimiter_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        if bytes.starts_with(b"--") {
            self.place = Place::Epilogue;
            return Ok(Some(2));
        }
        let padding = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        match &bytes[padding..] {
            _ if padding > PADDING_MAX => Err(Malformed("too much space behind a boundary")),
            [b'\r', b'\n', ..] => {
                self.place = Place::Head;
                Ok(Some(padding + 2))
            }
            [] | [b'\r'] => Ok(None),
            [b'-'] if padding == 0 => Ok(None),
            _ => Err(Malformed("a boundary of the multipart body is followed by other text")),
        }
    }
}

fn tell_bytes<E>(bytes: &[u8], tell: &mut impl FnMut(Event<'_>) -> Result<(), E>) -> Result<(), E> {
    if bytes.is_empty() { Ok(()) } else { tell(Event::Bytes(bytes)) }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| *b == wanted[0]) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Name and file mark of a part, from its head. File names count for nothing, so that they may be in any charset.
fn disposition(head: &[u8]) -> Result<(String, bool), Malformed> {
    // A character for each byte, which gives the bytes of the name back.
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let value = text
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("content-disposition"))
        .map(|(_, value)| value)
        .ok_or(Malformed("a part has no Content-Disposition"))?;
    let (kind, rest) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(Malformed("a part's Content-Disposition is not form-data"));
    }
    let name = parameter(rest, "name").ok_or(Malformed("a part has no name"))?;
    let name = String::from_utf8(name.chars().map(|c| c as u8).collect())
        .map_err(|_| Malformed("a part's name is not UTF-8"))?;
    let is_name = |key: &str| ["filename", "filename*"].iter().any(|k| key.eq_ignore_ascii_case(k));
    let file = parameters(rest).any(|(key, _)| is_name(key));
    Ok((name, file))
}

/// The value of one parameter.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let found = parameters(text).find(|(key, _)| key.eq_ignore_ascii_case(wanted));
    found.and_then(|(_, value)| value)
}

/// What is in `; key=value; key="value"`; without a value, and the last, where a quote is not closed.
fn parameters(mut text: &str) -> impl Iterator<Item = (&str, Option<String>)> {
    const SPACE: [char; 2] = [' ', '\t'];
    std::iter::from_fn(move || {
        let (key, rest) = text.trim_start_matches([' ', '\t', ';']).split_once('=')?;
        let (value, behind) = match rest.strip_prefix('"').map(unquote) {
            Some(Some((value, behind))) => (Some(value), behind),
            Some(None) => (None, ""),
            None => {
                let end = rest.find(';').unwrap_or(rest.len());
                // Not `trim`: a byte of a character may look like a space of another charset.
                (Some(rest[..end].trim_matches([' ', '\t', '\r', '\n']).to_owned()), &rest[end..])
            }
        };
        text = behind;
        Some((key.trim_matches(SPACE), value))
    })
}

/// The text up to the closing quote, and what is behind it. Clients write a quote as `%22` or `\"`; but a `\"` where the
/// next parameter begins, or nothing more comes, ends a path of Windows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let ends = |behind: &str| {
        let behind = behind.trim_start_matches([' ', '\t']);
        let key = behind.strip_prefix(';').and_then(|rest| rest.split_once('='));
        behind.is_empty() || key.is_some_and(|(key, _)| !key.contains('"'))
    };
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let value = value.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n");
                return Some((value, &text[at + 1..]));
            }
            '\\' if text[at + 1..].starts_with('"') && ends(&text[at + 2..]) => value.push('\\'),
            '\\' if characters.peek().is_some_and(|(_, next)| matches!(next, '"' | '\\')) => {
                value.extend(characters.next().map(|(_, next)| next));
            }
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Part = (String, bool, Vec<u8>);

    /// Parses a body that arrives in pieces of so many bytes.
    fn parse(body: &[u8], piece: usize) -> Result<Vec<Part>, Malformed> {
        let mut parser = Parser::new("b");
        let mut parts: Vec<Part> = Vec::new();
        let mut open = false;
        for bytes in body.chunks(piece) {
            parser.push(bytes, &mut |event| {
                match event {
                    Event::Part { name, file } => {
                        assert!(!open);
                        open = true;
                        parts.push((name.to_owned(), file, Vec::new()));
                    }
                    Event::Bytes(bytes) => parts.last_mut().unwrap().2.extend_from_slice(bytes),
                    Event::End => open = false,
                }
                Ok::<(), Malformed>(())
            })?;
        }
        parser.finish()?;
        assert!(!open);
        Ok(parts)
    }

    fn part(name: &str, file: bool, bytes: &[u8]) -> Part {
        (name.to_owned(), file, bytes.to_vec())
    }

    /// However the bytes are cut, the same parts come out.
    #[test]
    fn bodies_are_read_in_pieces_of_any_length() {
        let body = b"preamble\r\n--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n\
            a \r\n--c\r\n-- ball\r\n--b  \r\ncontent-disposition: form-data; name=x; filename=\"\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n\r\n\r\n--\r\n--b\r\n\
            Content-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--b--\r\nepilogue";
        let wanted = vec![
            part("prompt", false, b"a \r\n--c\r\n-- ball"),
            part("x", true, b"\r\n\r\n--"),
            part("empty", false, b""),
        ];
        for piece in 1..=body.len() {
            assert_eq!(parse(body, piece), Ok(wanted.clone()), "pieces of {piece}");
        }
        assert_eq!(parse(b"--b--", 1), Ok(vec![]));
        assert_eq!(parse(b"--b--\r\n", 7), Ok(vec![]));
    }

    #[test]
    fn names_are_read_as_clients_write_them() {
        for (head, name) in [
            ("name=\"metadata[k]\"", "metadata[k]"),
            ("name=\"a%22b\"", "a\"b"),
            ("name=\"a\\\"b\"", "a\"b"),
            ("name=\"a\\\\b\"", "a\\b"),
            ("name=\"a;b\"", "a;b"),
            ("NAME=a", "a"),
            ("filename=\"name=x\"; name=\"y\"", "y"),
            ("name=\"\u{fc}\"", "\u{fc}"),
        ] {
            let body =
                format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n1\r\n--b--\r\n");
            assert_eq!(parse(body.as_bytes(), 1000).unwrap()[0].0, name, "{head}");
        }
    }

    /// 1.4, rule 6: what a file is called is ignored.
    #[test]
    fn file_names_may_be_anything() {
        for head in [
            &b"name=\"a\"; filename=\"\xe9t\xe9.png\""[..],
            b"name=a; filename=\xe9\xa0",
            b"name=\"a\"; filename=\"C:\\x\\\"",
            b"filename=\"C:\\x\\\"; name=\"a\"",
            b"name=\"a\"; filename=\"x",
            b"name=\"a\"; filename=\"x\\\"y\\\"; z\"",
            b"name=\"a\"; filename*=UTF-8''%e9",
            b"name=\"a\"; FileName=\"\"",
        ] {
            let body =
                [b"--b\r\nContent-Disposition: form-data; ", head, b"\r\n\r\n1\r\n--b--"].concat();
            let head = String::from_utf8_lossy(head);
            assert_eq!(parse(&body, 1000), Ok(vec![part("a", true, b"1")]), "{head}");
        }
    }

    #[test]
    fn what_is_no_multipart_body_is_refused() {
        let head = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n";
        let latin = b"--b\r\nContent-Disposition: form-data; name=\"\xe9\"\r\n\r\n1\r\n--b--";
        assert!(parse(latin, 7).is_err());
        for body in [
            "--b\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--b--".to_owned(),
            "nothing at all".to_owned(),
            format!("{head}1"),
            format!("{head}1\r\n--b"),
            format!("{head}1\r\n--bb\r\n"),
            "--b\r\n\r\n1\r\n--b--".to_owned(),
            "--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--".to_owned(),
            "--b\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--b--".to_owned(),
            format!("--b\r\nX: {}\r\n\r\n1\r\n--b--", "x".repeat(HEAD_MAX)),
            format!("--b{}\r\n", " ".repeat(100)),
        ] {
            for piece in [1, 7, 100_000] {
                assert!(parse(body.as_bytes(), piece).is_err(), "{body:.100}");
            }
        }
    }

    /// A head without an end may not fill the memory.
    #[test]
    fn little_is_held() {
        let mut parser = Parser::new("b");
        let mut tell = |_: Event<'_>| Ok::<(), Malformed>(());
        parser
            .push(b"--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n", &mut tell)
            .unwrap();
        for _ in 0..100 {
            parser.push(&[b'\r'; 4096], &mut tell).unwrap();
            assert!(parser.rest.len() <= parser.delimiter.len());
        }
    }

    #[test]
    fn the_boundary_is_found_in_the_content_type() {
        let quoted = boundary("Multipart/Form-Data; charset=utf-8; boundary=\"a b\"");
        assert_eq!(quoted.as_deref(), Some("a b"));
        assert_eq!(boundary("multipart/form-data; boundary=x").as_deref(), Some("x"));
        for bad in ["multipart/form-data", "multipart/mixed; boundary=x", "application/json"] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }
}
