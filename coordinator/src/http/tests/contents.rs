//! Content: variants, ranges, conditions, and what is not there.

use crate::http::testing::{Answer, CLIP, NOW, Stand, send};
use zoetrope_protocol::id::{ArtifactId, Millis};
use zoetrope_sched::output::{FailWhy, JobState};

fn body(answer: &Answer) -> &[u8] {
    &answer.bytes
}

#[tokio::test]
async fn each_variant_has_its_type_and_whatever_is_accepted_it_is_sent() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Completed);
    for (query, kind) in [
        ("", "video/mp4"),
        ("?variant=video", "video/mp4"),
        ("?variant=thumbnail", "image/webp"),
        ("?variant=spritesheet", "image/jpeg"),
    ] {
        let path = format!("/v1/videos/{id}/content{query}");
        let answer = send(stand.request("GET", &path).header("accept", "application/binary")).await;
        assert_eq!((answer.status, body(&answer)), (200, CLIP));
        assert_eq!(answer.header("content-type"), Some(kind));
        assert_eq!(answer.header("content-length"), Some("20"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        let etag = format!("\"{}\"", ArtifactId::of(CLIP));
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
    }
    let odd = stand.get(&format!("/v1/videos/{id}/content?variant=gif")).await;
    assert_eq!(odd.code(), (400, Some("invalid_value".to_owned())));
    assert_eq!(odd.json()["error"]["param"], "variant");
}

#[tokio::test]
async fn parts_can_be_had() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Completed);
    let path = format!("/v1/videos/{id}/content");
    let get = |range: &'static str| send(stand.request("GET", &path).header("range", range));
    for (range, from, to) in
        [("bytes=0-0", 0, 1), ("bytes=5-13", 5, 14), ("bytes=15-", 15, 20), ("bytes=-3", 17, 20)]
    {
        let part = get(range).await;
        assert_eq!((part.status, body(&part)), (206, &CLIP[from..to]), "{range}");
        let said = format!("bytes {from}-{}/20", to - 1);
        assert_eq!(part.header("content-range"), Some(said.as_str()));
        assert_eq!(part.header("content-length"), Some((to - from).to_string().as_str()));
    }
    let none = get("bytes=20-").await;
    assert_eq!(none.code(), (416, None));
    assert_eq!(none.header("content-range"), Some("bytes */20"));
    assert_eq!(get("bytes=0-1,4-5").await.status, 200);
}

#[tokio::test]
async fn conditions_hold() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Completed);
    let path = format!("/v1/videos/{id}/content");
    let etag = format!("\"{}\"", ArtifactId::of(CLIP));
    for tags in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let same = send(stand.request("GET", &path).header("if-none-match", tags)).await;
        assert_eq!((same.status, body(&same)), (304, &b""[..]));
        assert_eq!(same.header("etag"), Some(etag.as_str()));
    }
    let other = stand.request("GET", &path).header("if-none-match", "\"x\"");
    assert_eq!(send(other).await.status, 200);
    let head = stand.request("HEAD", &path).header("if-none-match", etag.clone());
    let head = send(head).await;
    assert_eq!((head.status, head.header("content-length")), (304, None));
    for (tags, status) in [
        (etag.clone(), 200),
        ("*".to_owned(), 200),
        (format!("\"x\", {etag}"), 200),
        (format!("W/{etag}"), 412),
        ("\"x\"".to_owned(), 412),
        (String::new(), 412),
    ] {
        for method in ["GET", "HEAD"] {
            let request = stand.request(method, &path).header("if-match", tags.clone());
            // It comes before the other condition.
            let request =
                if status == 412 { request.header("if-none-match", "*") } else { request };
            assert_eq!(send(request).await.status, status, "{method} {tags}");
        }
    }
    let ranged = |tag: &str| {
        let request = stand.request("GET", &path).header("range", "bytes=0-3");
        send(request.header("if-range", tag.to_owned()))
    };
    assert_eq!(ranged(&etag).await.status, 206);
    assert_eq!(ranged("\"x\"").await.status, 200);
}

#[tokio::test]
async fn head_says_the_same_without_the_bytes() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Completed);
    let path = format!("/v1/videos/{id}/content");
    // RFC 9110, 14.2: a range is for GET alone.
    for range in [None, Some("bytes=0-3"), Some("bytes=90-")] {
        let request = stand.request("HEAD", &path);
        let request = range.into_iter().fold(request, |asked, range| asked.header("range", range));
        let head = send(request).await;
        assert_eq!((head.status, body(&head)), (200, &b""[..]));
        assert_eq!(head.header("content-length"), Some("20"));
        assert_eq!(head.header("content-type"), Some("video/mp4"));
        assert_eq!(head.header("content-range"), None);
    }
}

#[tokio::test]
async fn what_is_not_there_says_why() {
    let stand = Stand::new().await;
    let ready = "Video is not ready yet, use GET /v1/videos/{video_id} to check status.";
    for (number, state) in [
        (1, JobState::Queued),
        (2, JobState::InProgress),
        (3, JobState::Failed(FailWhy::DeadlineExceeded)),
    ] {
        let id = stand.put(number, state);
        let answer = stand.get(&format!("/v1/videos/{id}/content")).await;
        assert_eq!(answer.code(), (404, Some("video_not_ready".to_owned())));
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(message == ready, number < 3, "{message}");
    }
    let id = stand.put(4, JobState::Completed);
    stand.table.lock().unwrap().jobs[3].view.expires = Some(NOW.minus(Millis(1)));
    let answer = stand.get(&format!("/v1/videos/{id}/content")).await;
    assert_eq!(answer.code(), (404, Some("video_expired".to_owned())));
    assert_eq!(stand.get(&format!("/v1/videos/{id}")).await.json()["status"], "completed");
    assert_eq!(stand.get("/v1/videos/video_x/content").await.code(), (404, None));
}

#[tokio::test]
async fn a_broken_store_is_our_fault_and_nothing_of_it_is_told() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Completed);
    stand.table.lock().unwrap().broken_store = true;
    let answer = stand.get(&format!("/v1/videos/{id}/content")).await;
    assert_eq!(answer.code(), (500, None));
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert!(!answer.json().to_string().contains("gone"));
}
