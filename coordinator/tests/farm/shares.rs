//! Promise: a share link shows a clip to whoever has its address, until it is revoked, used up or past its time, and
//! never a clip that is gone or that was judged for others.

use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use zoetrope_coordinator::farm::FarmMsg;
use zoetrope_coordinator::http;
use zoetrope_coordinator::keys::{Project, Role};
use zoetrope_protocol::id::{JobId, TenantId};
use zoetrope_protocol::moderation::Audience;
use zoetrope_sched::output::JobState;

/// A farm with its real HTTP door.
struct Open {
    farm: TestFarm,
    url: String,
    key: String,
    client: reqwest::Client,
    stop: CancellationToken,
}

impl Open {
    async fn door(farm: TestFarm) -> Open {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let stop = CancellationToken::new();
        let door = farm.running.door(&farm.config);
        tokio::spawn(http::serve(listener, door, stop.clone().cancelled_owned()));
        let keys = &farm.running.keys;
        let made = keys.create(Project::Known(TenantId(1)), Role::Tenant, "test");
        let key = match made {
            Ok(made) => made.text,
            // The first project is made with the first key.
            Err(_) => keys.create(Project::New, Role::Operator, "test").expect("a key").text,
        };
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Open { farm, url, key, client: client.expect("a client"), stop }
    }

    async fn restart(self) -> Open {
        self.stop.cancel();
        Open::door(self.farm.restart().await).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn share(&self, job: u128, body: Value) -> Value {
        let (status, share) = self.ask(Method::POST, &links(job), Some(&body)).await;
        assert_eq!(status, 200, "{share}");
        share
    }

    /// The address of a link, at the port that the door has now.
    fn address(&self, share: &Value) -> String {
        let url = share["url"].as_str().expect("a url");
        let path = url.find("/share/").expect("a path");
        format!("{}{}", self.url, &url[path..])
    }

    async fn follow(&self, share: &Value, range: Option<&str>) -> reqwest::Response {
        let request = self.client.get(self.address(share));
        let request = match range {
            Some(range) => request.header("range", range),
            None => request,
        };
        request.send().await.expect("an answer")
    }

    async fn complete(&self, worker: &mut Worker, job: u128, audience: Audience) {
        let submit = |reply| FarmMsg::Submit(Box::new(submission(job)), audience, reply);
        self.farm.farm().ask(submit).await.expect("answers").expect("admitted");
        for _ in 0..3 {
            let order = worker.order().await;
            worker.carry_out(&order).await;
        }
        self.farm.until(JobId(job), |view| view.state == JobState::Completed).await;
    }
}

fn links(job: u128) -> String {
    format!("/v1/videos/{}/share_links", JobId(job))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_shows_the_clip_without_a_key_until_it_is_revoked() {
    let open = Open::door(TestFarm::start().await).await;
    let mut worker = Worker::fresh(&open.farm, "gpu-0").await;
    let early = open.ask(Method::POST, &links(1), Some(&json!({}))).await;
    assert_eq!(early.0, 404);
    open.complete(&mut worker, 1, Audience::All).await;
    let (_, video) = open.ask(Method::GET, &format!("/v1/videos/{}", JobId(1)), None).await;
    let share = open.share(1, json!({"variants": ["video", "thumbnail"]})).await;
    assert_eq!(share["object"], "video.share_link");
    assert_eq!(share["expires_at"], video["expires_at"], "it never outlives the asset");
    assert!(share["url"].as_str().expect("a url").starts_with(&open.url), "{share}");

    let clip = open.follow(&share, None).await;
    assert_eq!(clip.status(), 200);
    assert_eq!(clip.headers()["content-type"], "video/mp4");
    let etag = clip.headers()["etag"].clone();
    let bytes = clip.bytes().await.expect("the bytes");
    let part = open.follow(&share, Some("bytes=5-14")).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.expect("the bytes"), bytes[5..15]);
    let same = open.client.get(open.address(&share)).header("if-none-match", etag);
    assert_eq!(same.send().await.expect("an answer").status(), StatusCode::NOT_MODIFIED);
    let head = open.client.head(open.address(&share)).send().await.expect("an answer");
    assert_eq!(head.headers()["content-length"], bytes.len().to_string().as_str());
    let other = |word: &str| format!("{}&variant={word}", open.address(&share));
    for (word, status) in [("thumbnail", 200), ("spritesheet", 404), ("gif", 400)] {
        let answer = open.client.get(other(word)).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{word}");
    }
    // Another id, another time, another signature, none: all are told the same.
    let address = open.address(&share);
    let signature = address.split("signature=").nth(1).expect("a signature");
    let swapped: String = signature.chars().rev().collect();
    let second = open.share(1, json!({})).await;
    let ids = [&share, &second].map(|share| share["id"].as_str().expect("an id"));
    for forged in [
        address.replace(ids[0], ids[1]),
        address.replace("expires=", "expires=9"),
        address.replace(signature, &swapped),
        address.replace("&signature=", "&s="),
        format!("{}/share/share_1", open.url),
    ] {
        assert_ne!(forged, address);
        let answer = open.client.get(&forged).send().await.expect("an answer");
        assert_eq!(answer.status(), 404, "{forged}");
    }
    // Within a second they go by their ids.
    let mut ids = [&share, &second];
    ids.sort_by_key(|share| (share["created_at"].as_u64(), share["id"].as_str()));
    let ids = ids.map(|share| share["id"].as_str().expect("an id"));
    let (_, list) = open.ask(Method::GET, &links(1), None).await;
    assert_eq!((&list["data"][0]["id"], &list["has_more"]), (&json!(ids[1]), &json!(false)));
    assert_eq!(list["data"][1]["id"], ids[0]);
    // It is paged as the list of videos is.
    for (query, page, more) in [
        ("limit=1".to_owned(), vec![ids[1]], true),
        ("limit=1&order=asc".to_owned(), vec![ids[0]], true),
        (format!("after={}", ids[1]), vec![ids[0]], false),
        (format!("after={}", ids[0]), vec![], false),
        ("limit=0".to_owned(), vec![], false),
    ] {
        let (_, list) = open.ask(Method::GET, &format!("{}?{query}", links(1)), None).await;
        let rows = list["data"].as_array().expect("rows").iter();
        let rows: Vec<&str> = rows.map(|row| row["id"].as_str().expect("an id")).collect();
        assert_eq!((rows, &list["has_more"]), (page, &json!(more)), "{query}");
    }
    for query in ["limit=101", "order=up", "after=share_1"] {
        let (status, _) = open.ask(Method::GET, &format!("{}?{query}", links(1)), None).await;
        assert_eq!(status, 400, "{query}");
    }

    // All of it survives a restart; so does a revocation.
    let open = open.restart().await;
    assert_eq!(open.follow(&share, None).await.bytes().await.expect("the bytes"), bytes);
    let path = format!("{}/{}", links(1), share["id"].as_str().expect("an id"));
    let (status, revoked) = open.ask(Method::DELETE, &path, None).await;
    assert_eq!(status, 200);
    assert!(revoked["revoked_at"].is_u64(), "{revoked}");
    assert_eq!(open.follow(&share, None).await.status(), 404);
    assert_eq!(
        open.ask(Method::DELETE, &path, None).await,
        (200, revoked.clone()),
        "the same again"
    );
    let open = open.restart().await;
    assert_eq!(open.follow(&share, None).await.status(), 404);

    // A deleted video takes its links along.
    let share = open.share(1, json!({})).await;
    assert_eq!(open.follow(&share, None).await.status(), 200);
    let (status, _) = open.ask(Method::DELETE, &format!("/v1/videos/{}", JobId(1)), None).await;
    assert_eq!(status, 200);
    assert_eq!(open.follow(&share, None).await.status(), 404);
    assert_eq!(open.ask(Method::GET, &links(1), None).await.0, 404);
    open.farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_downloads_are_allowed_whoever_asks_at_once_and_after_a_restart() {
    let open = Open::door(TestFarm::start().await).await;
    let mut worker = Worker::fresh(&open.farm, "gpu-0").await;
    open.complete(&mut worker, 1, Audience::All).await;
    let share = open.share(1, json!({"max_downloads": 3})).await;
    let head = open.client.head(open.address(&share)).send().await.expect("an answer");
    assert_eq!(head.status(), 200, "asking about it is no download");
    let answers = join_all((0..8).map(|_| open.follow(&share, None))).await;
    let given = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(given, 3);
    assert_eq!(open.follow(&share, Some("bytes=1-3")).await.status(), 206, "a part of the last");
    assert_eq!(open.follow(&share, Some("bytes=0-3")).await.status(), 206, "its beginning too");
    // Without a part it is a new download, and asking about it is answered as asking for it.
    let used_up = open.follow(&share, None).await;
    assert_eq!(used_up.status(), 404);
    let head = open.client.head(open.address(&share)).send().await.expect("an answer");
    assert_eq!(head.status(), 404);
    let etag = answers.iter().find_map(|answer| answer.headers().get("etag")).expect("a tag");
    let same = open.client.get(open.address(&share)).header("if-none-match", etag);
    assert_eq!(same.send().await.expect("an answer").status(), 404);
    // What was begun is read on by who began it, and by nobody else.
    let elsewhere = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    let elsewhere = elsewhere.local_address(Some([127, 0, 0, 2].into())).build().expect("a client");
    let rest = elsewhere.get(open.address(&share)).header("range", "bytes=1-");
    assert_eq!(rest.send().await.expect("an answer").status(), 404);
    assert_eq!(open.follow(&share, Some("bytes=1-")).await.status(), 206);
    let open = open.restart().await;
    assert_eq!(open.follow(&share, None).await.status(), 404);
    let (_, list) = open.ask(Method::GET, &links(1), None).await;
    assert_eq!(list["data"][0]["downloads"], 3);
    open.farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_that_looks_at_the_first_bytes_before_it_reads_makes_one_download() {
    let open = Open::door(TestFarm::start().await).await;
    let mut worker = Worker::fresh(&open.farm, "gpu-0").await;
    open.complete(&mut worker, 1, Audience::All).await;
    let share = open.share(1, json!({"max_downloads": 1})).await;
    for range in ["bytes=0-1", "bytes=0-3", "bytes=0-", "bytes=2-", "bytes=0-1"] {
        let part = open.follow(&share, Some(range)).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
    }
    let (_, list) = open.ask(Method::GET, &links(1), None).await;
    assert_eq!(list["data"][0]["downloads"], 1);
    open.farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teens_link_never_reaches_a_clip_that_was_judged_for_grown_ups_alone() {
    let open = Open::door(TestFarm::start().await).await;
    let mut worker = Worker::fresh(&open.farm, "gpu-0").await;
    for (job, judged) in [(1, Audience::Adult), (2, Audience::Teen), (3, Audience::All)] {
        open.complete(&mut worker, job, judged).await;
        for link in Audience::ALL {
            let body = json!({"audience": link.word()});
            let (status, share) = open.ask(Method::POST, &links(job), Some(&body)).await;
            if judged <= link {
                assert_eq!((status, &share["audience"]), (200, &json!(link.word())), "{share}");
                assert_eq!(open.follow(&share, None).await.status(), 200);
            } else {
                assert_eq!(
                    (status, &share["error"]["param"]),
                    (400, &json!("audience")),
                    "{share}"
                );
            }
        }
        let share = open.share(job, json!({})).await;
        assert_eq!(share["audience"], judged.word());
    }
    open.farm.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_the_field_and_a_repeated_wish_makes_one_link() {
    let open = Open::door(TestFarm::start().await).await;
    let mut worker = Worker::fresh(&open.farm, "gpu-0").await;
    open.complete(&mut worker, 1, Audience::All).await;
    for (body, code, param) in [
        (json!({"variants": []}), "invalid_value", "variants"),
        (json!({"variants": ["gif"]}), "invalid_value", "variants"),
        (json!({"variants": [1]}), "invalid_type", "variants"),
        (json!({"max_downloads": 0}), "invalid_value", "max_downloads"),
        (json!({"audience": "dogs"}), "invalid_value", "audience"),
        (
            json!({"expires_after": {"anchor": "created_at", "seconds": 1}}),
            "invalid_value",
            "expires_after.seconds",
        ),
        (json!({"max_download": 1}), "unknown_parameter", "max_download"),
    ] {
        let (status, answer) = open.ask(Method::POST, &links(1), Some(&body)).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (400, &json!(code), &json!(param)),
            "{body}"
        );
    }
    // Longer than the clip is there: cut to its life.
    let long = json!({"expires_after": {"anchor": "created_at", "seconds": 2_592_000}});
    let (_, video) = open.ask(Method::GET, &format!("/v1/videos/{}", JobId(1)), None).await;
    assert_eq!(open.share(1, long).await["expires_at"], video["expires_at"]);

    let post = |body: Value| {
        let request = open.client.post(format!("{}{}", open.url, links(1)));
        request.bearer_auth(&open.key).header("idempotency-key", "k").json(&body).send()
    };
    let first = post(json!({"max_downloads": 2})).await.expect("an answer");
    let first = first.bytes().await.expect("the bytes");
    let again = post(json!({"max_downloads": 2})).await.expect("an answer");
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.bytes().await.expect("the bytes"), first);
    // The same address, whichever name of the farm it is asked by.
    let request = open.client.post(format!("{}{}", open.url, links(1))).header("host", "b.example");
    let request = request.bearer_auth(&open.key).header("idempotency-key", "k");
    let again = request.json(&json!({"max_downloads": 2})).send().await.expect("an answer");
    assert_eq!(again.bytes().await.expect("the bytes"), first);
    for other in [json!({"max_downloads": 3}), json!({"max_downloads": 0}), json!({"no": 1})] {
        assert_eq!(post(other).await.expect("an answer").status(), 422);
    }
    // The first answer is the answer, whatever became of the link.
    let link: Value = serde_json::from_slice(&first).expect("JSON");
    assert_eq!(open.follow(&link, None).await.status(), 200);
    let path = format!("{}/{}", links(1), link["id"].as_str().expect("an id"));
    let (_, revoked) = open.ask(Method::DELETE, &path, None).await;
    assert_eq!(revoked["downloads"], 1);
    let again = post(json!({"max_downloads": 2})).await.expect("an answer");
    assert_eq!(again.bytes().await.expect("the bytes"), first);

    // Another project knows nothing of it.
    let stranger =
        open.farm.running.keys.create(Project::New, Role::Tenant, "other").expect("a key");
    let request = open.client.get(format!("{}{}", open.url, links(1))).bearer_auth(&stranger.text);
    assert_eq!(request.send().await.expect("an answer").status(), 404);
    let request = open.client.get(format!("{}{}", open.url, links(1)));
    assert_eq!(request.send().await.expect("an answer").status(), 401);
    open.farm.running.stop().await;
}
