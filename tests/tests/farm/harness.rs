//! A farm to test: starts it, asks it, kills parts of it, and leaves nothing behind.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What takes seconds on a quiet machine may take so long on a busy one: the first workers of a run, which have libtorch to
/// read, once took more than a minute to join. What is waited for is no promise about time: those are measured where they
/// are tested.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// `zoetrope up` gives its workers 10 s to leave.
const DOWN_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at something that cannot be waited for: it is seen from outside.
const LOOK: Duration = Duration::from_millis(50);

/// What renders.
#[derive(Clone, Debug)]
pub enum Engine {
    /// No tensors: so many milliseconds for each denoising step.
    Emulated { step_ms: u64 },
    /// The same, and frames are painted, with so many milliseconds for each decode chunk.
    Painted { step_ms: u64, chunk_ms: u64 },
    /// The model that ships with the project.
    Toybox,
}

/// A farm on this machine, started with `zoetrope up`.
pub struct Farm {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    announced: Option<&'static str>,
    up: Option<Child>,
    http: reqwest::Client,
    /// Where it listens.
    pub url: String,
    /// The operator's key that it made.
    pub key: String,
}

impl Farm {
    /// Starts a farm with so many workers and waits until all of them are there.
    pub async fn start(engine: Engine, workers: usize) -> Farm {
        Farm::start_with(engine, workers, &[]).await
    }

    /// The same with further arguments of `zoetrope up`.
    pub async fn start_with(engine: Engine, workers: usize, more: &[&str]) -> Farm {
        Farm::start_in(tempfile::tempdir().expect("a temporary folder"), engine, workers, more)
            .await
    }

    /// The same with another farm's key of marks, so that the n-th clip of both carries the same mark.
    pub async fn start_like(other: &Farm, engine: Engine, workers: usize, more: &[&str]) -> Farm {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Path::new("data/watermark/mark.key");
        let copy = folder.path().join(place);
        std::fs::create_dir_all(copy.parent().expect("a folder")).expect("the folder");
        std::fs::copy(other.folder.path().join(place), copy).expect("the key");
        Farm::start_in(folder, engine, workers, more).await
    }

    async fn start_in(
        folder: tempfile::TempDir,
        engine: Engine,
        workers: usize,
        more: &[&str],
    ) -> Farm {
        let mut arguments = ["--workers", &workers.to_string(), "--listen", "127.0.0.1:0"]
            .map(str::to_owned)
            .to_vec();
        let times = match engine {
            // Clips are encoded once and used again: what is tested is the farm, not ffmpeg.
            Engine::Emulated { step_ms } => {
                Some(format!("step_ms = {step_ms}\nclip = \"cached\"\n"))
            }
            Engine::Painted { step_ms, chunk_ms } => {
                Some(format!("step_ms = {step_ms}\ndecode_chunk_ms = {chunk_ms}\n"))
            }
            Engine::Toybox => None,
        };
        if let Some(times) = times {
            let file = folder.path().join("emulated.toml");
            let text = format!("models = [\"toybox\"]\n{times}");
            std::fs::write(&file, text).expect("the emulation file");
            let file = file.display().to_string();
            arguments.extend(["--engine", "emulated", "--emulated", &file].map(str::to_owned));
        }
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let http = reqwest::Client::new();
        let (url, key) = Default::default();
        let mut farm = Farm { folder, arguments, announced: None, up: None, http, url, key };
        farm.go().await;
        eventually(PATIENCE, "all workers are there", async || {
            let known = farm.get("/farm/workers").await;
            known["data"].as_array().is_some_and(|known| known.len() >= workers)
        })
        .await;
        farm
    }

    /// Starts the coordinator, again after [`Farm::kill`].
    pub async fn go(&mut self) {
        let url = self.data().join("url");
        std::fs::remove_file(&url).ok();
        let log = std::fs::File::options().create(true).append(true).open(self.log());
        let log = log.expect("the log");
        let child = Command::new(program("zoetrope"))
            .arg("up")
            .arg("--data")
            .arg(self.data())
            .args(&self.arguments)
            .env_remove("ZOETROPE_URL")
            .env_remove("ZOETROPE_API_KEY")
            .env("ZOETROPE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn();
        self.up = Some(child.expect("zoetrope starts"));
        let began = Instant::now();
        loop {
            if let (Ok(url), Ok(key)) = (read(&url), read(&self.data().join("api-key"))) {
                (self.url, self.key) = (url, key);
                let ready = self.http.get(format!("{}/readyz", self.url)).send().await;
                if ready.is_ok_and(|ready| ready.status().is_success()) {
                    return;
                }
            }
            let up = self.up.as_mut().expect("it was started");
            if let Some(status) = up.try_wait().expect("it can be waited for") {
                panic!("zoetrope up ended ({status}):\n{}", self.log_tail());
            }
            assert!(began.elapsed() < PATIENCE, "the farm is not up:\n{}", self.log_tail());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A place for files of the test.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// All that the farm has said.
    pub fn log_text(&self) -> String {
        let bytes = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    /// The test expects errors in the log that say this.
    pub fn announce(&mut self, error: &'static str) {
        self.announced = Some(error);
    }

    /// `kill -9` of the coordinator. Its workers live on.
    pub fn kill(&mut self) {
        let mut up = self.up.take().expect("it runs");
        up.kill().expect("it can be killed");
        up.wait().expect("it can be waited for");
    }

    /// The process of a worker.
    pub fn worker_pid(&self, node: &str) -> u32 {
        let file = self.data().join("workers").join(node).join("pid");
        read(&file).expect("the pid file").parse().expect("a pid")
    }

    /// A request, with any key.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// Reads JSON; null if there is no answer.
    pub async fn get(&self, path: &str) -> Value {
        match self.request(reqwest::Method::GET, path).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Status and JSON of a POST.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.request(reqwest::Method::POST, path).json(body).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Submits a short clip and returns its id.
    pub async fn submit(&self, prompt: &str) -> String {
        let body = json!({"prompt": prompt, "seconds": "4", "size": "160x288", "seed": 7});
        let (status, video) = self.post("/v1/videos", &body).await;
        assert_eq!(status, 200, "{video}");
        video["id"].as_str().expect("an id").to_owned()
    }

    /// One job.
    pub async fn video(&self, id: &str) -> Value {
        self.get(&format!("/v1/videos/{id}")).await
    }

    /// Waits until a job has ended.
    pub async fn ended(&self, id: &str, within: Duration) -> Value {
        let mut last = Value::Null;
        let began = Instant::now();
        while began.elapsed() < within {
            last = self.video(id).await;
            if matches!(last["status"].as_str(), Some("completed" | "failed")) {
                return last;
            }
            tokio::time::sleep(LOOK).await;
        }
        panic!("{id} has not ended within {within:?}: {last}\n{}", self.log_tail());
    }

    /// The bytes of a variant of a clip.
    pub async fn content(&self, id: &str, variant: &str) -> Vec<u8> {
        let path = format!("/v1/videos/{id}/content?variant={variant}");
        let answer = self.request(reqwest::Method::GET, &path).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.bytes().await.expect("the bytes").to_vec()
    }

    /// The sum of a metric's series whose labels contain all of `labels`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let answer = self.request(reqwest::Method::GET, "/metrics").send().await;
        let text = answer.expect("an answer").text().await.expect("text");
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let own = rest.starts_with('{') || rest.starts_with(' ');
            (own && labels.iter().all(|label| rest.contains(label)))
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        text.lines().filter_map(of).sum()
    }

    /// The command line, with this farm's data folder.
    pub fn cli(&self, words: &[&str]) -> Output {
        self.verb(words).output().expect("zoetrope starts")
    }

    /// The same, with its standard output in this file.
    pub fn cli_into(&self, file: &str, words: &[&str]) -> Output {
        let file = std::fs::File::options().write(true).open(file).expect("opens");
        self.verb(words).stdout(file).output().expect("zoetrope starts")
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("zoetrope"));
        command.args(words).arg("--data").arg(self.data()).stdin(Stdio::null());
        command.env_remove("ZOETROPE_URL").env_remove("ZOETROPE_API_KEY");
        command
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if let Some(mut up) = self.up.take() {
            signal("TERM", up.id());
            let began = Instant::now();
            while began.elapsed() < DOWN_WITHIN && matches!(up.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK);
            }
            up.kill().ok();
            let ended = up.wait().expect("it can be waited for");
            let good = ended.success() || std::thread::panicking();
            assert!(good, "zoetrope up ended badly ({ended}):\n{}", self.log_tail());
        }
        let workers =
            std::fs::read_dir(self.data().join("workers")).into_iter().flatten().flatten();
        for worker in workers {
            if let Ok(pid) = read(&worker.path().join("pid")).map(|pid| pid.parse().unwrap_or(0))
                && pid > 1
                && command_line(pid).contains(&*self.data().to_string_lossy())
            {
                signal("KILL", pid);
            }
        }
        if std::thread::panicking() {
            eprintln!("the farm's log ends:\n{}", self.log_tail());
        } else {
            unannounced(&self.log_text(), self.announced.as_slice());
        }
    }
}

/// ERROR means that a person must act: a test announces those that it causes.
pub fn unannounced(log: &str, announced: &[&str]) {
    let errors: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" ERROR "))
        .filter(|line| !announced.iter().any(|expected| line.contains(expected)))
        .collect();
    assert!(errors.is_empty(), "the farm logged errors:\n{}", errors.join("\n"));
}

/// Waits until something holds that can only be seen from outside.
pub async fn eventually(within: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The wall clock, as the farm's records have it.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("it is past 1970").as_millis()).expect("in this age")
}

/// Sends a signal to a process.
pub fn signal(name: &str, pid: u32) {
    Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().ok();
}

/// A program of this project: built, or the test says how to build it.
pub fn program(name: &str) -> PathBuf {
    // The test binary lies in `target/PROFILE/deps`.
    let own = std::env::current_exe().expect("this program");
    let folder = own.parent().and_then(Path::parent).expect("a target folder");
    let program = folder.join(name);
    assert!(
        program.is_file(),
        "{} is not built: run `cargo build --bins` first (scripts/test does)",
        program.display()
    );
    program
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// Runs ffprobe and gives its JSON.
pub fn probe(file: &Path) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json"])
        .arg(file)
        .output()
        .expect("ffprobe starts (scripts/setup installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn read(file: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(file)?.trim().to_owned();
    if text.is_empty() { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(text) }
}

fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
