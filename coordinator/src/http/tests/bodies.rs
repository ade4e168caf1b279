//! 1.4: bodies as clients really send them, and as they should not.

use crate::http::DoorLimits;
use crate::http::testing::{Stand, send};
use reqwest::multipart::{Form, Part};

#[tokio::test]
async fn both_kinds_of_body_make_the_same_video() {
    let stand = Stand::new().await;
    let json = stand
        .create(
            r#"{"prompt":"a ball","seconds":"4","seed":7,"metadata":{"k":"v"},"size":"720x1280"}"#,
        )
        .await;
    let form = stand
        .create_form(&[
            ("prompt", "a ball"),
            ("seconds", "4"),
            ("seed", "7"),
            ("metadata[k]", "v"),
            ("size", "720x1280"),
        ])
        .await;
    let text = stand
        .create_form(&[
            ("prompt", "a ball"),
            ("seconds", "4"),
            ("seed", "7"),
            ("metadata", r#"{"k":"v"}"#),
            ("size", "720x1280"),
        ])
        .await;
    let video = |answer: crate::http::testing::Answer| {
        assert_eq!(answer.status, 200, "{:?}", answer.bytes);
        let mut video = answer.json();
        video["id"].take();
        video
    };
    let wanted = video(json);
    assert_eq!(wanted["metadata"]["k"], "v");
    assert_eq!(wanted, video(form));
    assert_eq!(wanted, video(text));
}

/// Each row: content type, body, status, code.
#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let stand = Stand::new().await;
    let deep = format!(r#"{{"prompt":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let missing = Some("missing_required_parameter");
    let multipart = "multipart/form-data; boundary=b";
    let cut = "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\na";
    let latin: &[u8] =
        b"--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n\xff\r\n--b--\r\n";
    let nameless: &[u8] = b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--";
    let long = [b'x'; 9000];
    let disposition = "\r\nContent-Disposition: form-data; name=";
    let prompt = format!("--b{disposition}\"prompt\"\r\n\r\na\r\n--b{disposition}");
    let both = format!(
        "{prompt}metadata\r\n\r\n{{}}\r\n--b{disposition}\"metadata[k]\"\r\n\r\nv\r\n--b--"
    );
    // An empty file of a form in a browser is a file.
    let nothing = format!("{prompt}\"input_reference\"; filename=\"\"\r\n\r\n\r\n--b--");
    let (both, nothing) = (both.as_bytes(), nothing.as_bytes());
    for (kind, body, status, code) in [
        ("application/json", &b""[..], 400, missing),
        ("application/json", b"  \n", 400, missing),
        ("application/json; charset=utf-8", b"{}", 400, missing),
        ("", b"", 400, missing),
        (multipart, b"", 400, missing),
        (multipart, b"--b--\r\n", 400, missing),
        ("text/plain", b"", 400, missing),
        ("application/json", b"{", 400, None),
        ("application/json", b"[]", 400, None),
        ("application/json", b"\"x\"", 400, None),
        ("application/json", b"{\"prompt\":\"\xff\"}", 400, None),
        ("application/json", deep.as_bytes(), 400, None),
        ("application/json", b"{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, Some("invalid_type")),
        (multipart, cut.as_bytes(), 400, None),
        (multipart, latin, 400, None),
        (multipart, nameless, 400, None),
        (multipart, &[&b"--b\r\n"[..], &long, b"\r\n\r\na\r\n--b--"].concat(), 400, None),
        (multipart, b"--b\nContent-Disposition: form-data; name=\"prompt\"\n\na\n--b--", 400, None),
        ("multipart/form-data; boundary=\"\"", b"--b--", 400, None),
        (multipart, b"{\"prompt\":\"a\"}", 400, None),
        ("application/json", b"--b--", 400, None),
        ("application/json", b"{\"prompt\":\"a\"} {}", 400, None),
        ("application/json", b"{\"prompt\":\"\\ud800\"}", 400, None),
        ("application/json", b"\xef\xbb\xbf{}", 400, None),
        (multipart, both, 400, Some("invalid_value")),
        (multipart, nothing, 400, Some("invalid_input_media")),
        ("multipart/form-data", b"--b--", 400, None),
        ("text/plain", b"x", 415, None),
        ("", b"x", 415, None),
        ("application/x-www-form-urlencoded", b"prompt=x", 415, None),
    ] {
        let mut request = stand.request("POST", "/v1/videos").body(body.to_vec());
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let answer = send(request).await;
        let wanted = (status, code.map(str::to_owned));
        assert_eq!(answer.code(), wanted, "{kind}: {:?}", &body[..body.len().min(60)]);
    }
    let zipped = stand.post("x").header("content-encoding", "gzip");
    assert_eq!(send(zipped).await.code(), (415, None));
    // A string is never absent for what it says.
    let null = stand.create_form(&[("prompt", "a"), ("seconds", "null")]).await;
    assert_eq!(null.code(), (400, Some("invalid_value".to_owned())));
    let twice = stand.create_form(&[("prompt", "a"), ("prompt", "b")]).await;
    assert_eq!(twice.code(), (400, Some("invalid_type".to_owned())));
}

/// A part with a file name is a file, whatever it says of its type.
#[tokio::test]
async fn files_are_known_by_their_first_bytes() {
    let stand = Stand::new().await;
    let create = |bytes: &'static [u8]| {
        let part = Part::bytes(bytes).file_name("upload").mime_str("application/octet-stream");
        let form = Form::new().text("prompt", "a ball").part("input_reference", part.unwrap());
        send(stand.request("POST", "/v1/videos").multipart(form))
    };
    for picture in [&b"\x89PNG\r\n\x1a\nrest"[..], b"\xff\xd8\xff\xe0", b"RIFF1234WEBPVP8 "] {
        let answer = create(picture).await;
        assert_eq!(answer.code(), (400, Some("unsupported_parameter".to_owned())));
    }
    let answer = create(b"GIF89a").await;
    assert_eq!(answer.code(), (400, Some("invalid_input_media".to_owned())));
    assert_eq!(answer.json()["error"]["param"], "input_reference");
    let prompt = Form::new().part("prompt", Part::bytes(&b"x"[..]).file_name("upload"));
    let answer = send(stand.request("POST", "/v1/videos").multipart(prompt)).await;
    assert_eq!(answer.code(), (400, Some("invalid_type".to_owned())));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_while_it_comes() {
    let limits = DoorLimits { body_bytes: 3 << 20, text_bytes: 1 << 20, ..DoorLimits::default() };
    let stand = Stand::with(limits).await;
    let too_large = (413, Some("request_too_large".to_owned()));
    // Declared, streamed without a length, and as a file.
    let declared = stand.create(&"x".repeat(4 << 20)).await;
    assert_eq!(declared.code(), too_large);
    let pieces = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10]));
    let streamed = stand
        .request("POST", "/v1/videos")
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
    assert_eq!(send(streamed).await.code(), too_large);
    let part = Part::bytes(vec![0; 4 << 20]).file_name("upload");
    let form = Form::new().text("prompt", "a ball").part("input_reference", part);
    assert_eq!(send(stand.request("POST", "/v1/videos").multipart(form)).await.code(), too_large);
    // A file may be larger than all text may be.
    let part = Part::bytes(vec![0; 2 << 20]).file_name("upload");
    let form = Form::new().text("prompt", "a ball").part("input_reference", part);
    let answer = send(stand.request("POST", "/v1/videos").multipart(form)).await;
    assert_eq!(answer.code(), (400, Some("invalid_input_media".to_owned())));
    assert_eq!(stand.create(r#"{"prompt":"ball"}"#).await.status, 200);
}

/// A project that sends large bodies slowly leaves places for those of others.
#[tokio::test]
async fn a_project_has_half_of_the_places_for_large_bodies() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stand = Stand::new().await;
    let mut begun = Vec::new();
    let mut piece = vec![b' '; 2 << 20];
    piece[0] = b'{';
    for key in [&stand.key, &stand.key, &stand.key, &stand.stranger] {
        let mut stream = tokio::net::TcpStream::connect(stand.address).await.unwrap();
        let head = format!(
            "POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: 8388608\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&piece).await.unwrap();
        begun.push(stream);
    }
    // One of the project's three has no place, and none of the other's.
    let mut refused = Vec::new();
    let (stranger, own) = begun.split_last_mut().unwrap();
    for stream in own {
        let mut answer = vec![0; 12];
        let wait = std::time::Duration::from_millis(500);
        if tokio::time::timeout(wait, stream.read_exact(&mut answer)).await.is_ok() {
            refused.push(String::from_utf8_lossy(&answer[9..]).into_owned());
        }
    }
    assert_eq!(refused, ["503"]);
    let rest = vec![b' '; (6 << 20) - 1];
    stranger.write_all(&rest).await.unwrap();
    stranger.write_all(b"}").await.unwrap();
    let mut answer = vec![0; 12];
    stranger.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer[9..], b"400", "it was read: it has no prompt");
}

/// Promise: a body of many small values takes no memory beyond its share, whichever way they come.
#[tokio::test]
async fn too_many_values_are_refused() {
    let stand = Stand::new().await;
    let zeros = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
    // The object and the array are values too, and so is the prompt.
    let json = |count| format!(r#"{{"prompt":"ball","shots":{}}}"#, zeros(count));
    let message = "The body has more than 100000 values.";
    for answer in [
        stand.create(&json(99_998)).await,
        stand.create(&json(1 << 20)).await,
        stand.create_form(&[("prompt", "ball"), ("shots", &zeros(100_000))]).await,
    ] {
        assert_eq!(answer.code(), (400, None));
        assert_eq!(answer.json()["error"]["message"], message);
    }
    let fewer = stand.create(&json(99_997)).await;
    assert_eq!(fewer.code(), (400, Some("unsupported_parameter".to_owned())));
}

/// Promise: the place of a large body is taken as long as what was made of it lives.
#[tokio::test]
async fn the_fields_of_a_large_body_keep_its_place() {
    let room = crate::room::Room::new(1, 1, 0);
    let take = || room.take(crate::room::Who::Guest);
    let fields = crate::http::fields::Fields::nested(String::new(), Vec::new()).placed(take());
    let place = fields.place();
    drop(fields);
    assert!(take().is_none());
    drop(place);
    assert!(take().is_some());
}

#[tokio::test]
async fn too_many_parts_are_refused() {
    let stand = Stand::new().await;
    let parts: Vec<(String, String)> =
        (0..1001).map(|n| (format!("metadata[k{n}]"), "v".to_owned())).collect();
    let parts: Vec<(&str, &str)> = parts.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(stand.create_form(&parts).await.code(), (400, None));
    let fewer = stand.create_form(&parts[..100]).await;
    assert_eq!(fewer.code().0, 400);
}

/// Promise: a check takes one file and nothing else, and says what is wrong with any other body.
#[tokio::test]
async fn a_check_of_a_file_says_what_is_wrong_with_its_body() {
    let limits = DoorLimits { body_bytes: 1 << 20, ..DoorLimits::default() };
    let stand = Stand::with(limits).await;
    let check = || stand.request("POST", "/v1/content_provenance_checks");
    let part = |bytes: &'static [u8]| Part::bytes(bytes).file_name("upload");
    let form = |form: Form| send(check().multipart(form));
    let too_large = check()
        .header("content-type", "multipart/form-data; boundary=b")
        .body(vec![b' '; (1 << 20) + 1]);
    for (answer, status, code, param) in [
        (form(Form::new().text("file", "hello")).await, 400, "invalid_type", Some("file")),
        (form(Form::new()).await, 400, "missing_required_parameter", Some("file")),
        (send(check()).await, 400, "missing_required_parameter", Some("file")),
        (
            form(Form::new().part("file", part(b"x")).text("purpose", "y")).await,
            400,
            "unknown_parameter",
            Some("purpose"),
        ),
        (form(Form::new().part("fiel", part(b"x"))).await, 400, "unknown_parameter", Some("fiel")),
        (
            form(Form::new().part("file", part(b"x")).part("file", part(b"y"))).await,
            400,
            "invalid_type",
            Some("file"),
        ),
        (
            form(Form::new().part("file", part(b"a text"))).await,
            400,
            "invalid_input_media",
            Some("file"),
        ),
        (form(Form::new().part("file", part(b""))).await, 400, "invalid_input_media", Some("file")),
        (send(too_large).await, 413, "request_too_large", None),
    ] {
        assert_eq!(answer.code(), (status, Some(code.to_owned())), "{:?}", answer.json());
        assert_eq!(answer.json()["error"]["param"].as_str(), param, "{:?}", answer.json());
    }
    let json = check().header("content-type", "application/json").body("{\"file\":\"x\"}");
    let answer = send(json).await;
    assert_eq!(answer.code(), (415, None));
    let message = "Unsupported content type: 'application/json'. Send 'multipart/form-data'.";
    assert_eq!(answer.json()["error"]["message"], message);
    let unbounded = check().header("content-type", "multipart/form-data").body("--b--");
    assert_eq!(send(unbounded).await.code(), (400, None));
}
