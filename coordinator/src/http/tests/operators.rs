//! The farm's own endpoints, health and metrics.

use crate::http::testing::{Answer, Stand, send};
use crate::jobs::rescan::POLICY_BYTES_MAX;
use serde_json::{Value, json};
use zoetrope_sched::output::JobState;

async fn operate(stand: &Stand, method: &str, path: &str, body: &str) -> Answer {
    let method = method.parse::<reqwest::Method>().unwrap();
    let request = stand.client.request(method, stand.url(path)).bearer_auth(&stand.operator);
    send(request.header("content-type", "application/json").body(body.to_owned())).await
}

#[tokio::test]
async fn tenants_are_kept_out() {
    let stand = Stand::new().await;
    for (method, path) in [
        ("GET", "/farm/workers"),
        ("GET", "/farm/jobs"),
        ("GET", "/farm/keys"),
        ("POST", "/farm/keys"),
        ("POST", "/farm/join_tokens"),
        ("POST", "/farm/workers/worker_1/drain"),
        // Only the question why a job waits is for all.
        ("DELETE", "/farm/keys/why"),
        ("GET", "/farm/jobs/why"),
        ("POST", "/farm/workers/why/why"),
    ] {
        assert_eq!(send(stand.request(method, path)).await.code(), (403, None), "{path}");
    }
}

#[tokio::test]
async fn workers_are_shown_drained_and_cordoned() {
    let stand = Stand::new().await;
    let workers = operate(&stand, "GET", "/farm/workers", "").await.json();
    assert_eq!(workers["data"][0]["node"], "node-a");
    for (body, status) in [
        (r#"{"kind":"immediate"}"#, 200),
        (r#"{"kind":"step"}"#, 200),
        (r#"{"kind":"shard"}"#, 200),
        (r#"{"kind":"deadline","seconds":30}"#, 200),
        ("", 200),
        (r#"{"kind":"deadline"}"#, 400),
        (r#"{"kind":"deadline","seconds":0}"#, 400),
        (r#"{"kind":"step","seconds":3}"#, 400),
        (r#"{"kind":"soon"}"#, 400),
        (r#"{"how":"soon"}"#, 400),
        (r#"{"with":["worker_1"]}"#, 200),
        (r#"{"with":[]}"#, 200),
        (r#"{"with":["worker_1","nobody"]}"#, 404),
        (r#"{"with":"worker_1"}"#, 400),
        (r#"{"with":[1]}"#, 400),
    ] {
        let answer = operate(&stand, "POST", "/farm/workers/node-a/drain", body).await;
        assert_eq!(answer.status, status, "{body}");
    }
    let unknown = operate(&stand, "POST", "/farm/workers/nobody/drain", "{}").await;
    assert_eq!(unknown.code(), (404, None));
    for verb in ["cordon", "uncordon"] {
        let path = format!("/farm/workers/worker_1/{verb}");
        let answer = operate(&stand, "POST", &path, "").await;
        assert_eq!(answer.json()["cordoned"], verb == "cordon");
    }
}

#[tokio::test]
async fn jobs_are_moved() {
    let stand = Stand::new().await;
    let running = stand.put(1, JobState::InProgress);
    let done = stand.put(2, JobState::Completed);
    for (id, body, status) in [
        (&running, "", 200),
        (&running, r#"{"to":"node-a"}"#, 200),
        (&running, r#"{"to":"node-z"}"#, 404),
        (&running, r#"{"to":7}"#, 400),
        (&running, r#"{"where":"node-a"}"#, 400),
        (&done, "", 409),
        (&format!("video_{:032x}", 9), "", 404),
    ] {
        let answer = operate(&stand, "POST", &format!("/farm/jobs/{id}/move"), body).await;
        assert_eq!(answer.status, status, "{id} {body}");
    }
    assert_eq!(
        send(stand.request("POST", &format!("/farm/jobs/{running}/move"))).await.status,
        403
    );
}

#[tokio::test]
async fn jobs_of_all_projects_are_listed_with_their_project() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::Queued);
    stand.table.lock().unwrap().jobs[0].view.spec.tenant.0 = 2;
    let jobs = operate(&stand, "GET", "/farm/jobs?limit=5", "").await.json();
    assert_eq!(jobs["data"][0]["id"], *id);
    assert_eq!(jobs["data"][0]["project"], "proj_2");
    assert_eq!(jobs["has_more"], false);
    let why = operate(&stand, "GET", &format!("/farm/jobs/{id}/why"), "").await.json();
    assert_eq!(why, json!({"why": "no worker is free"}));
    let own = stand.put(2, JobState::Queued);
    assert_eq!(stand.get(&format!("/farm/jobs/{own}/why")).await.status, 200);
    assert_eq!(stand.get(&format!("/farm/jobs/{id}/why")).await.code(), (404, None));
}

/// Operators see who did what of a job, and with which bytes; tenants do not.
#[tokio::test]
async fn a_job_is_shown_with_its_attempts_and_its_chain() {
    let stand = Stand::new().await;
    let id = stand.put(1, JobState::InProgress);
    let path = format!("/farm/jobs/{id}");
    let job = operate(&stand, "GET", &path, "").await.json();
    assert_eq!((&job["video"]["id"], &job["video"]["project"]), (&json!(id), &json!("proj_1")));
    let attempt = &job["attempts"][0];
    assert_eq!((&attempt["node"], &attempt["cause"]), (&json!("node-a"), &json!("worker_lost")));
    let latents = &job["artifacts"][0];
    assert_eq!((&latents["role"], &latents["number"]), (&json!("latents"), &json!(3)));
    assert_eq!(latents["sha256"], "07".repeat(32));
    assert_eq!(stand.get(&path).await.status, 403);
    let none = operate(&stand, "GET", &format!("/farm/jobs/video_{:032x}", 9), "").await;
    assert_eq!(none.status, 404);
}

#[tokio::test]
async fn tokens_and_keys_are_made() {
    let stand = Stand::new().await;
    let token = operate(&stand, "POST", "/farm/join_tokens", "").await.json();
    assert_eq!(token, json!({"token": "zt11x900000"}));
    let body = r#"{"uses":3,"ttl_seconds":60}"#;
    let token = operate(&stand, "POST", "/farm/join_tokens", body).await.json();
    assert_eq!(token, json!({"token": "zt13x60000"}));
    let body = r#"{"uses":0}"#;
    assert_eq!(operate(&stand, "POST", "/farm/join_tokens", body).await.code().0, 400);

    let body = r#"{"project":"new","role":"tenant","name":"theirs"}"#;
    let made = operate(&stand, "POST", "/farm/keys", body).await.json();
    assert_eq!(made["project"], "proj_3");
    let key = made["key"].as_str().unwrap();
    let get = || send(stand.client.get(stand.url("/v1/videos")).bearer_auth(key));
    assert_eq!(get().await.status, 200);
    let listed = operate(&stand, "GET", "/farm/keys", "").await.json();
    let rows = listed["data"].as_array().unwrap();
    assert_eq!(rows.last().unwrap()["name"], "theirs");
    assert!(rows.iter().all(|row| row.get("key").is_none() && row.get("sha256").is_none()));
    let path = format!("/farm/keys/{}", made["id"].as_str().unwrap());
    let gone = operate(&stand, "DELETE", &path, "").await;
    assert_eq!((gone.status, &gone.json()["deleted"]), (200, &Value::Bool(true)));
    assert_eq!(get().await.code().0, 401);
    assert_eq!(operate(&stand, "DELETE", &path, "").await.code(), (404, None));
    // Without an operator's key nobody could make another.
    let last = rows.iter().find(|row| row["role"] == "operator").unwrap();
    let path = format!("/farm/keys/{}", last["id"].as_str().unwrap());
    assert_eq!(operate(&stand, "DELETE", &path, "").await.code(), (409, None));
    assert_eq!(operate(&stand, "GET", "/farm/keys", "").await.status, 200);
    for body in [r#"{"project":"proj_99"}"#, r#"{"project":"mine"}"#, r#"{"role":"root"}"#] {
        assert_eq!(operate(&stand, "POST", "/farm/keys", body).await.code().0, 400, "{body}");
    }
}

#[tokio::test]
async fn health_and_metrics_need_no_key() {
    let stand = Stand::new().await;
    for (path, text) in
        [("/healthz", "ok\n"), ("/readyz", "ready\n"), ("/metrics", "zoetrope_up 1\n")]
    {
        let answer = send(stand.client.get(stand.url(path))).await;
        assert_eq!((answer.status, &answer.bytes[..]), (200, text.as_bytes()));
    }
    stand.get("/v1/videos/video_x").await;
    stand.get("/v1/nothing").await;
    let counted = stand.counted.0.lock().unwrap().clone();
    assert!(counted.contains(&("/v1/videos/{video_id}", "GET", 404)));
    assert!(counted.contains(&("other", "GET", 404)));
    assert!(counted.contains(&("/healthz", "GET", 200)));
}

/// Nobody needs a key for it, so it must not cost the farm anything, however many ask.
#[tokio::test]
async fn many_who_ask_whether_it_is_ready_are_one_question_to_the_farm() {
    let stand = Stand::new().await;
    stand.table.lock().unwrap().delay = std::time::Duration::from_millis(200);
    let ask = || send(stand.client.get(stand.url("/readyz")));
    let answers = futures::future::join_all((0..20).map(|_| ask())).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(ask().await.status, 200);
    assert_eq!(stand.table.lock().unwrap().asked_ready, 1);
}

#[tokio::test]
async fn a_rescan_is_begun_shown_and_ended() {
    let stand = Stand::new().await;
    assert_eq!(send(stand.request("POST", "/farm/rescan")).await.code(), (403, None));
    assert_eq!(operate(&stand, "GET", "/farm/rescan", "").await.status, 404);
    for (body, param) in [
        (r#"{"per_second":0}"#, "per_second"),
        (r#"{"per_second":2001}"#, "per_second"),
        (r#"{"dry_run":"yes"}"#, "dry_run"),
        (r#"{"policy":"name = 1"}"#, "rules"),
        (r#"{"rules":""}"#, "policy"),
        (r#"{"policy":"name = 1","rules":"","pairs":""}"#, "policy"),
    ] {
        let answer = operate(&stand, "POST", "/farm/rescan", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    let texts = [
        include_str!("../../../../configs/policy.toml"),
        include_str!("../../../../configs/policy/rules.toml"),
        include_str!("../../../../configs/policy/pairs.tsv"),
    ];
    // One byte too many for one record of the journal.
    let long = "#".repeat(POLICY_BYTES_MAX + 1 - texts[0].len() - texts[1].len());
    let body = json!({"policy": texts[0], "rules": texts[1], "pairs": long}).to_string();
    let refused = operate(&stand, "POST", "/farm/rescan", &body).await;
    let message = refused.json()["error"]["message"].to_string();
    assert!(refused.status == 400 && message.contains("at most 262144"), "{message}");
    let body = json!({"policy": texts[0], "rules": texts[1], "pairs": texts[2], "dry_run": true});
    let began = operate(&stand, "POST", "/farm/rescan", &body.to_string()).await.json();
    assert_eq!((&began["status"], &began["dry_run"]), (&json!("running"), &json!(true)));
    let second = operate(&stand, "POST", "/farm/rescan", "{}").await;
    assert_eq!((second.status, second.header("x-should-retry")), (409, Some("false")));
    let shown = operate(&stand, "GET", "/farm/rescan", "").await.json();
    assert_eq!((&shown["left"], &shown["pending"]), (&json!(7), &json!(2)));
    let ended = operate(&stand, "DELETE", "/farm/rescan", "").await.json();
    assert_eq!(ended["status"], "cancelled");
}
