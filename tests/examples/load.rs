//! Submits as fast as a farm takes it, and prints how fast that was: `load URL KEY CLIENTS SECONDS`.
//!
//! Each client holds one connection and sends its next job when the last one was acknowledged, so what is
//! measured is durable submits. Called by `scripts/bench`; runs against a farm of its own.

use std::time::{Duration, Instant};

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, key, clients, seconds] = words.as_slice() else {
        eprintln!("load URL KEY CLIENTS SECONDS");
        std::process::exit(2);
    };
    let clients: usize = clients.parse().expect("a number of clients");
    let time = Duration::from_secs(seconds.parse().expect("a number of seconds"));
    let began = Instant::now();
    let http =
        reqwest::Client::builder().pool_max_idle_per_host(clients).build().expect("a client");
    let tasks = (0..clients).map(|n| {
        let (http, url, key) = (http.clone(), format!("{url}/v1/videos"), key.clone());
        tokio::spawn(async move {
            let (mut times, mut refused) = (Vec::new(), 0u64);
            while began.elapsed() < time {
                let body = format!(r#"{{"prompt":"ball {n} {}","seconds":"4"}}"#, times.len());
                let sent = Instant::now();
                let post = http.post(&url).bearer_auth(&key).body(body);
                let answer = post.header("content-type", "application/json").send().await;
                match answer {
                    Ok(answer) if answer.status().is_success() => {
                        if answer.bytes().await.is_ok() {
                            times.push(sent.elapsed());
                        }
                    }
                    _ => refused += 1,
                }
            }
            (times, refused)
        })
    });
    let (mut times, mut refused) = (Vec::new(), 0);
    for ended in futures::future::join_all(tasks).await {
        let (own, no) = ended.expect("a client ends");
        times.extend(own);
        refused += no;
    }
    let took = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    println!(
        "{{\"submits\":{},\"refused\":{refused},\"per_second\":{:.1},\"p50_ms\":{:.2},\"p99_ms\":{:.2}}}",
        times.len(),
        times.len() as f64 / took,
        at(0.5),
        at(0.99)
    );
}
