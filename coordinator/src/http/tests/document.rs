//! `openapi.json` against the routes and against live answers.

use super::super::create;
use super::super::openapi::DOCUMENT;
use super::super::provenance;
use super::super::route::ROUTES;
use crate::http::testing::{Answer, Stand, send};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use zoetrope_provenance::{State, Verdict};
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

#[test]
fn the_document_has_the_routes_and_no_others() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routed: BTreeSet<_> =
        ROUTES.iter().map(|r| (r.method.to_owned(), r.path.to_owned())).collect();
    assert_eq!(described, routed);
}

#[test]
fn the_document_has_the_fields_of_create_and_no_others() {
    let document = document();
    let create = document["components"]["schemas"]["CreateVideo"]["properties"].clone();
    let described: BTreeSet<&str> =
        create.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, BTreeSet::from(create::FIELDS));
}

#[test]
fn every_post_of_the_document_takes_an_idempotency_key() {
    let key = json!({"$ref": "#/components/parameters/IdempotencyKey"});
    for (path, methods) in document()["paths"].as_object().unwrap() {
        let Some(post) = methods.get("post") else { continue };
        assert!(post["parameters"].as_array().is_some_and(|all| all.contains(&key)), "{path}");
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(document: &Value, node: &Value) {
        if let Some(target) = node.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(&target[1..]).is_some(), "{target}");
        }
        let children: Vec<&Value> = match node {
            Value::Object(object) => object.values().collect(),
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        children.into_iter().for_each(|child| walk(document, child));
    }
    walk(&document(), &document());
}

/// 5.1: answers may gain fields at any time; 1.4, rule 9: a misspelt field of a request is refused.
#[test]
fn requests_are_closed_and_answers_are_open() {
    fn schemas<'a>(document: &'a Value, node: &'a Value, found: &mut Vec<&'a Value>) {
        if let Some(target) = node.get("$ref").and_then(Value::as_str) {
            schemas(document, document.pointer(&target[1..]).unwrap(), found);
        }
        if node.get("properties").is_some_and(Value::is_object) {
            found.push(node);
        }
        let children: Vec<&Value> = match node {
            Value::Object(object) => object.values().collect(),
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        children.into_iter().for_each(|child| schemas(document, child, found));
    }
    let document = document();
    let is_closed = |schema: &&Value| schema["additionalProperties"] == false;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let mut answers = Vec::new();
            schemas(&document, &operation["responses"], &mut answers);
            assert!(!answers.iter().any(is_closed), "{method} {path}");
            let mut bodies = Vec::new();
            schemas(&document, &operation["requestBody"], &mut bodies);
            assert!(bodies.first().is_none_or(is_closed), "{method} {path}");
        }
    }
}

/// What is wrong with a value: enough of JSON Schema for this document. Answers may gain keys, but what is answered now is
/// described.
fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        return faults(document, document.pointer(&target[1..]).unwrap(), value, at);
    }
    let mut found = Vec::new();
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    };
    if !types.is_empty() && !types.iter().any(is) {
        found.push(format!("{at}: {value} is not {types:?}"));
    }
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        found.push(format!("{at}: {value} is not allowed"));
    }
    if let Some(object) = value.as_object() {
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                found.push(format!("{at}: {key} is missing"));
            }
        }
        for (key, value) in object {
            let known =
                schema["properties"].get(key).or_else(|| schema.get("additionalProperties"));
            match known {
                Some(schema) => {
                    found.extend(faults(document, schema, value, &format!("{at}/{key}")));
                }
                None if schema["properties"].is_object() => {
                    found.push(format!("{at}: {key} is not described"));
                }
                None => {}
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(document, &schema["items"], item, &format!("{at}/{index}")));
    }
    found
}

/// Compares an answer with what the document says of it.
fn hold(document: &Value, method: &str, path: &str, answer: &Answer) {
    let responses = &document["paths"][path][method]["responses"];
    let response = match &responses[answer.status.to_string()] {
        Value::Null => &responses["default"],
        response => response,
    };
    let kind = answer.header("content-type").unwrap_or("").split(';').next().unwrap_or("");
    let schema = &response["content"][kind]["schema"];
    assert!(schema.is_object(), "{method} {path} answers {} {kind}", answer.status);
    if kind == "application/json" {
        let found = faults(document, schema, &answer.json(), "");
        assert!(found.is_empty(), "{method} {path}: {found:#?}");
    }
}

#[tokio::test]
async fn live_answers_are_as_described() {
    let stand = Stand::judging().await;
    let served = send(stand.client.get(stand.url("/openapi.json"))).await;
    let document = served.json();
    assert_eq!(document["openapi"], "3.1.0");
    let check = async |method: &str, template: &str, path: &str, body: Value| {
        let http = method.to_uppercase().parse::<reqwest::Method>().unwrap();
        let mut request = stand.client.request(http, stand.url(path)).bearer_auth(&stand.operator);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = send(request).await;
        hold(&document, method, template, &answer);
        answer
    };
    let none = Value::Null;
    let one = "/v1/videos/{video_id}";
    let states = [
        JobState::Queued,
        JobState::InProgress,
        JobState::Completed,
        JobState::Failed(FailWhy::DeadlineExceeded),
        JobState::Failed(FailWhy::Ended(EndWhy::Cancelled)),
    ];
    for (number, state) in (1..).zip(states) {
        let id = stand.put(number, state);
        check("get", one, &format!("/v1/videos/{id}"), none.clone()).await;
        let content = format!("/v1/videos/{id}/content");
        check("get", "/v1/videos/{video_id}/content", &content, none.clone()).await;
    }
    let videos = "/v1/videos";
    check("get", videos, "/v1/videos?limit=3", none.clone()).await;
    check("get", videos, "/v1/videos?limit=0", none.clone()).await;
    check("get", videos, "/v1/videos?limit=-1", none.clone()).await;
    let made =
        check("post", videos, videos, json!({"prompt": "a cat", "metadata": {"a": "b"}})).await;
    assert_eq!(made.json()["warnings"].as_array().unwrap().len(), 1);
    check("post", videos, videos, json!({})).await;
    let path = format!("/v1/videos/{}/cancel", made.id());
    check("post", "/v1/videos/{video_id}/cancel", &path, none.clone()).await;
    check("delete", one, &format!("/v1/videos/{}", made.id()), none.clone()).await;
    check("delete", one, "/v1/videos/video_x", none.clone()).await;
    for path in ["/v1/models", "/healthz", "/readyz", "/metrics", "/farm/workers", "/farm/jobs"] {
        check("get", path, path, none.clone()).await;
    }
    for name in ["toybox", "sora-2", "x"] {
        check("get", "/v1/models/{model}", &format!("/v1/models/{name}"), none.clone()).await;
    }
    for verb in ["drain", "cordon", "uncordon"] {
        let template = format!("/farm/workers/{{worker}}/{verb}");
        check("post", &template, &format!("/farm/workers/worker_1/{verb}"), none.clone()).await;
    }
    let to = format!("/farm/jobs/video_{:032x}/move", 1);
    check("post", "/farm/jobs/{video_id}/move", &to, none.clone()).await;
    for number in [1, 999] {
        let path = format!("/farm/jobs/video_{number:032x}");
        check("get", "/farm/jobs/{video_id}", &path, none.clone()).await;
    }
    let template = "/v1/videos/{video_id}/share_links";
    let links = format!("/v1/videos/video_{:032x}/share_links", 3);
    for body in [json!({}), json!({"max_downloads": 2}), json!({"max_downloads": 0})] {
        check("post", template, &links, body).await;
    }
    let listed = check("get", template, &links, none.clone()).await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let link = listed["first_id"].as_str().unwrap();
    let one_link = "/v1/videos/{video_id}/share_links/{share_id}";
    check("delete", one_link, &format!("{links}/{link}"), none.clone()).await;
    let open = "/share/{share_id}";
    check("get", open, &format!("/share/{link}?expires=1&signature=x"), none.clone()).await;
    // Nobody here can look into a file.
    let checks = "/v1/content_provenance_checks";
    check("post", checks, checks, none.clone()).await;
    let moderations = "/v1/moderations";
    for input in [json!("a red ball"), json!(["a", "b"]), json!([{"type": "text", "text": "a"}])] {
        let answer = check("post", moderations, moderations, json!({ "input": input })).await;
        assert_eq!(answer.status, 200, "{input}");
    }
    check("post", moderations, moderations, json!({"input": []})).await;
    let rescan = "/farm/rescan";
    check("get", rescan, rescan, none.clone()).await;
    for (method, body) in [("post", json!({})), ("get", none.clone()), ("delete", none.clone())] {
        check(method, rescan, rescan, body).await;
    }
    let why = "/farm/jobs/{video_id}/why";
    let path = format!("/farm/jobs/video_{:032x}/why", 1);
    check("get", why, &path, none.clone()).await;
    check("post", "/farm/join_tokens", "/farm/join_tokens", json!({})).await;
    let key = check("post", "/farm/keys", "/farm/keys", json!({"name": "x"})).await;
    check("get", "/farm/keys", "/farm/keys", none.clone()).await;
    check("delete", "/farm/keys/{key_id}", &format!("/farm/keys/{}", key.id()), none).await;
}

#[test]
fn what_a_file_says_of_its_origin_is_as_described() {
    let document = document();
    let check = "/components/schemas/ContentProvenanceCheck/properties/results/items";
    let schema = document.pointer(check).unwrap();
    let said = provenance::c2pa(&Verdict {
        state: State::Trusted,
        issuer: Some("Zoetrope".to_owned()),
        signed_at: None,
        render: Some(json!({"created_at": 1_773_220_330, "model": "toybox"})),
        claim: None,
        failures: Vec::new(),
        manifest: None,
    });
    assert_eq!(said["generated_at"], "2026-03-11T09:12:10Z", "as the SDKs read it");
    assert!(faults(&document, schema, &said, "").is_empty(), "{said}");
    for key in said.as_object().unwrap().keys() {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

/// The checker finds what is wrong, so its silence above means something.
#[test]
fn the_checker_sees_faults() {
    let document = document();
    let schema = json!({"$ref": "#/components/schemas/DeletedVideo"});
    let right = json!({"id": "video_1", "object": "video.deleted", "deleted": true});
    assert!(faults(&document, &schema, &right, "").is_empty());
    for wrong in [
        json!([]),
        json!({"id": "video_1", "object": "video.deleted"}),
        json!({"id": 1, "object": "video.deleted", "deleted": true}),
        json!({"id": "video_1", "object": "video", "deleted": true}),
        json!({"id": "video_1", "object": "video.deleted", "deleted": true, "more": 1}),
    ] {
        assert_eq!(faults(&document, &schema, &wrong, "").len(), 1, "{wrong}");
    }
}
