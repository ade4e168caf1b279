//! Stories: commands, and below `----` what the core answers. One file a promise, in `stories/`.
//!
//! A block is some commands, `----`, the answers, and an empty line. After every input the invariants are held, and
//! `restore` replaces the core by its own snapshot. `ZOETROPE_STORIES=write` writes the answers anew: read the
//! difference before you commit it.
//!
//! | command | meaning |
//! | --- | --- |
//! | `model 1 encode:1G denoise:8G` | a model and the memory of its stages |
//! | `tenant 1 weight=2 max=8` | a tenant |
//! | `epoch 2` | a new leader |
//! | `grace 2m` | how long verdicts are waited for |
//! | `submit j1 chunks=6 shards=3` | a job whose decode is cut |
//! | `submit j1 tenant=1 class=flex steps=4 expected=1s,8s,2s deadline=60s` | a job; all but its name can be left out; `learned=yes`: its times are measured |
//! | `join w1 a boot=1 session=1 vram=16G serves=1:encode,denoise held=j1/denoise@1.1 on=m` | worker 1 on node a of machine m |
//! | `stored w1 latents:3`, `finish w1 gpu=2s`, `fail w1 stalled`, `stall w1` | reports on what w1 runs; `of=j1/denoise@1.1` names another attempt |
//! | `lost w1`, `left w1`, `drain w1 step`, `cordon w1`, `uncordon w1` | workers |
//! | `feasible expected=1s deadline=9s coming=1s@5s,2s@9s` | whether that job would be accepted, beside others that were and are not there yet; and its estimate |
//! | `move j1`, `move j1 to=w2` | an operator's wish |
//! | `cancel j1`, `delete j1`, `block j1`, `published j1`, `unpublished j1 dependency_down`, `gone j1 latents:3` | jobs |
//! | `+5s` | time passes, with every wake-up on the way |
//! | `down 5s` | time passes, and nobody is there to be woken |
//! | `why j1`, `why_for_tenant j1`, `job j1`, `workers`, `position j1`, `counts`, `restore` | looks, changes nothing |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use zoetrope_protocol::clip::chunk_range;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Role, Stage};
use zoetrope_protocol::wire::{DrainKind, Held, Identity};
use zoetrope_sched::input::*;
use zoetrope_sched::output::GoneHow;
use zoetrope_sched::{Config, Core, DECISIONS, Input, Output, State};

/// The number of the decisions, and the digest of what the core answers to the inputs in `decisions.bin`: those of the
/// stories as they were when it was written. A test that fails here says that a journal would be replayed otherwise than it
/// was written: raise `DECISIONS`, unless no release was made since that was done last; then write the file anew by
/// `ZOETROPE_BLESS=1`, and here what the test tells.
const PINNED: (u32, &str) = (1, "d6d5141a5d1a122470e50efd5c2061e49e580ff01e70413adcc30e62d61296eb");

type Journal = Vec<(Millis, Input)>;

struct Story {
    core: Core,
    now: Millis,
    journal: Journal,
    told: String,
    decodes: BTreeMap<JobId, Decode>,
}

/// The words of a command: those without `=` in their order, the others by name.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<_>, Vec<_>) =
            line.split_whitespace().partition(|word| word.contains('='));
        let named = named.into_iter().filter_map(|word| word.split_once('=')).collect();
        Words { plain, named }
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.named.get(name).map_or(default, |text| text.parse().expect("a number"))
    }
}

fn millis(text: &str) -> Millis {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let (digits, unit) = units
        .into_iter()
        .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?.parse::<u64>().ok()?, ms)))
        .unwrap_or_else(|| panic!("{text} is no time"));
    Millis(digits * unit)
}

fn bytes(text: &str) -> u64 {
    let gib: u64 = text.strip_suffix('G').expect("memory in G").parse().expect("memory in G");
    gib << 30
}

fn stage(text: &str) -> Stage {
    Stage::ALL.into_iter().find(|stage| stage.word() == text).expect("a stage")
}

fn cause(text: &str) -> Cause {
    Cause::ALL.into_iter().find(|cause| cause.word() == text).expect("a cause")
}

fn job(text: &str) -> JobId {
    JobId(text.strip_prefix('j').expect("a job").parse().expect("a job"))
}

fn worker(text: &str) -> WorkerId {
    WorkerId(text.strip_prefix('w').expect("a worker").parse().expect("a worker"))
}

/// `j1/denoise@1.2`: epoch 1, attempt 2; `j1/decode:1@1.1`: the second of several decode shards.
fn held(text: &str) -> Held {
    let (shard, fence) = text.split_once('@').expect("an attempt");
    let (name, of) = shard.split_once('/').expect("a shard");
    let (of, index) = of.split_once(':').unwrap_or((of, "0"));
    let (epoch, attempt) = fence.split_once('.').expect("a fence");
    let epoch = Epoch(epoch.parse().expect("an epoch"));
    let attempt = AttemptNumber(attempt.parse().expect("an attempt"));
    let index = index.parse().expect("a number");
    let shard = ShardId { job: job(name), stage: stage(of), index };
    Held { shard, fence: Fence { epoch, attempt } }
}

fn role(text: &str) -> Role {
    match text.split_once(':') {
        Some(("latents", step)) => Role::Latents { step: step.parse().expect("a step") },
        Some(("segment", chunk)) => Role::Segment { chunk: chunk.parse().expect("a chunk") },
        _ => match text {
            "prompt" => Role::Prompt,
            "clip" => Role::Clip,
            "thumbnail" => Role::Thumbnail,
            "spritesheet" => Role::Spritesheet,
            _ => panic!("{text} is no role"),
        },
    }
}

fn made(job: JobId, role: Role) -> ArtifactRef {
    let artifact = ArtifactId::of(format!("{job} {role:?}").as_bytes());
    ArtifactRef { role, artifact, bytes: 1_000 }
}

fn show_held(held: Held) -> String {
    let Held { shard, fence } = held;
    let index = if shard.index > 0 { format!(":{}", shard.index) } else { String::new() };
    format!("j{}/{}{index}@{}.{}", shard.job.0, shard.stage, fence.epoch.0, fence.attempt.0)
}

fn show_role(artifact: &ArtifactRef) -> String {
    match artifact.role {
        Role::Latents { step } => format!("latents:{step}"),
        Role::Segment { chunk } => format!("segment:{chunk}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn show_all(artifacts: &[ArtifactRef]) -> String {
    let all: Vec<_> = artifacts.iter().map(show_role).collect();
    format!("[{}]", all.join(" "))
}

fn seconds(at: Millis) -> String {
    if at.0.is_multiple_of(1_000) { format!("{}s", at.0 / 1_000) } else { format!("{}ms", at.0) }
}

fn show(output: &Output) -> String {
    match output {
        Output::Welcome { worker, keep } => {
            let keep: Vec<_> = keep
                .iter()
                .map(|kept| {
                    let Fence { epoch, attempt } = kept.fence;
                    format!("{} as @{}.{}", show_held(kept.held), epoch.0, attempt.0)
                })
                .collect();
            format!("welcome w{} keep [{}]", worker.0, keep.join(" "))
        }
        Output::Assign { worker, shard, fence, inputs, hard_limit, .. } => {
            let held = show_held(Held { shard: *shard, fence: *fence });
            let (inputs, limit) = (show_all(inputs), seconds(*hard_limit));
            format!("assign w{} {held} from {inputs} within {limit}", worker.0)
        }
        Output::Stop { worker, held, when } => {
            format!("stop w{} {} {when:?}", worker.0, show_held(*held))
        }
        Output::Drain { worker, drain } => format!("drain w{} {drain:?}", worker.0),
        Output::Publish { job, fence, outputs } => {
            let attempt = format!("@{}.{}", fence.epoch.0, fence.attempt.0);
            format!("publish j{} {attempt} {}", job.0, show_all(outputs))
        }
        Output::JobMoved { job, state } => format!("moved j{} {state:?}", job.0),
        Output::StageBegan { job, stage, worker } => {
            format!("began j{} {stage} on w{}", job.0, worker.0)
        }
        Output::AttemptEnded { held, worker, cause, gpu } => {
            let how = cause.map_or("done", |cause| cause.word());
            format!("ended {} on w{}: {how}, gpu {}", show_held(*held), worker.0, seconds(*gpu))
        }
        Output::Forget { job, artifacts } => format!("forget j{} {}", job.0, show_all(artifacts)),
        Output::Quarantined { worker, model, stage, until } => {
            format!("quarantined w{} for {}/{stage} until {}", worker.0, model.0, seconds(*until))
        }
        Output::WorkerGone { worker, how } => match how {
            GoneHow::Lost(_) | GoneHow::Left => format!("gone w{}", worker.0),
            how => format!("gone w{}: {how:?}", worker.0),
        },
        Output::Slow { held, worker } => format!("slow w{} {}", worker.0, show_held(*held)),
        Output::Ignored { why } => format!("ignored: {why:?}"),
    }
}

impl Story {
    fn new() -> Self {
        Story {
            core: Core::new(Config::default()),
            now: Millis(0),
            journal: Vec::new(),
            told: String::new(),
            decodes: BTreeMap::new(),
        }
    }

    fn take(&mut self, input: Input) {
        let mut out = Vec::new();
        self.journal.push((self.now, input.clone()));
        self.core.handle(self.now, input, &mut out);
        for output in &out {
            writeln!(self.told, "{}", show(output)).expect("a string takes all");
        }
        if let Err(broken) = self.core.check() {
            panic!("{broken}\n{}", self.told);
        }
    }

    /// What the worker runs, or what `of=` says.
    fn held(&self, words: &Words) -> Option<Held> {
        if let Some(named) = words.named.get("of") {
            return Some(held(named));
        }
        let placed = self.core.worker(worker(words.plain[1]))?.running?;
        Some(Held { shard: placed.shard, fence: placed.fence })
    }

    fn outputs(&self, held: Held) -> Vec<ArtifactRef> {
        let job = held.shard.job;
        let roles = match held.shard.stage {
            Stage::Encode => vec![Role::Prompt],
            Stage::Denoise => vec![Role::Latents { step: 4 }],
            Stage::Decode => {
                let Decode { chunks, shards } = self.decodes.get(&job).copied().unwrap_or_default();
                let index = held.shard.index.into();
                let chunks = chunk_range(chunks.max(1).into(), index, shards.max(1).into());
                chunks.map(|chunk| Role::Segment { chunk }).collect()
            }
            Stage::Finish => vec![Role::Clip, Role::Thumbnail, Role::Spritesheet],
        };
        roles.into_iter().map(|role| made(job, role)).collect()
    }

    fn pass(&mut self, time: Millis) {
        let until = self.now.plus(time);
        while let Some(at) = self.core.next_wakeup().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            let before = self.told.len();
            self.take(Input::TimePassed);
            if self.told.len() > before {
                self.told.insert_str(before, &format!("at {}\n", seconds(self.now)));
            }
        }
        self.now = until;
    }

    fn command(&mut self, line: &str) {
        let words = Words::of(line);
        let first = words.plain[0];
        if let Some(time) = first.strip_prefix('+') {
            return self.pass(millis(time));
        }
        match first {
            "down" => self.now = self.now.plus(millis(words.plain[1])),
            "model" | "tenant" | "epoch" | "grace" | "submit" => self.set_up(&words),
            "feasible" => self.promise(&words),
            "join" => self.join(&words),
            "stored" | "finish" | "fail" | "stall" => self.report(&words),
            "lost" | "left" | "drain" | "cordon" | "uncordon" => self.about_worker(&words),
            "why" | "why_for_tenant" | "job" | "workers" | "position" | "given_up" | "counts"
            | "restore" => {
                self.look(&words);
            }
            _ => self.about_job(&words),
        }
    }

    fn set_up(&mut self, words: &Words) {
        let plain = &words.plain;
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let input = match plain[0] {
            "model" => {
                let chain = plain[2..].iter().map(|need| {
                    let (of, memory) = need.split_once(':').expect("stage:memory");
                    StageNeed { stage: stage(of), vram_bytes: bytes(memory) }
                });
                let model = ModelId(number(plain[1]) as u16);
                Input::ModelSet { model, name: format!("m{}", plain[1]), chain: chain.collect() }
            }
            "tenant" => {
                let weight = words.number("weight", 1) as u32;
                let running_max = words.number("max", 100) as u32;
                let policy = TenantPolicy { weight, running_max };
                Input::TenantSet { tenant: TenantId(number(plain[1]) as u32), policy }
            }
            "epoch" => Input::EpochBegan { epoch: Epoch(number(plain[1])) },
            "grace" => Input::VerdictGraceSet { grace: millis(plain[1]) },
            _ => {
                let (job, ask) = (job(plain[1]), self.ask(words));
                self.decodes.insert(job, ask.decode);
                Input::Submitted { job, ask }
            }
        };
        self.take(input);
    }

    /// Whether a job would be accepted, and what it would be told.
    fn promise(&mut self, words: &Words) {
        let ask = self.ask(words);
        let coming = words.named.get("coming").into_iter().flat_map(|all| all.split(','));
        let coming: Vec<Ask> = coming
            .map(|one| {
                let (expected, deadline) = one.split_once('@').expect("a time and a deadline");
                let deadline = Some(self.now.plus(millis(deadline)));
                Ask { expected: vec![millis(expected)], deadline, ..ask.clone() }
            })
            .collect();
        let feasible = self.core.feasible(self.now, &ask, &coming);
        let kept = if feasible { "feasible" } else { "infeasible" };
        let told = self.core.estimate(self.now, &ask).map_or("nobody knows when".to_owned(), |e| {
            format!("from {} to {}", seconds(e.start), seconds(e.end))
        });
        writeln!(self.told, "{kept}, {told}").expect("a string takes all");
    }

    fn ask(&self, words: &Words) -> Ask {
        let class = words.named.get("class").copied().unwrap_or("default");
        let expected = words.named.get("expected").copied().unwrap_or("1s,4s,1s");
        Ask {
            tenant: TenantId(words.number("tenant", 1) as u32),
            class: Class::ALL.into_iter().find(|c| c.word() == class).expect("a class"),
            model: ModelId(words.number("model", 1) as u16),
            steps: words.number("steps", 4) as u32,
            expected: expected.split(',').map(millis).collect(),
            deadline: words.named.get("deadline").map(|at| self.now.plus(millis(at))),
            learned: words.named.contains_key("learned"),
            decode: Decode {
                chunks: words.number("chunks", 0) as u16,
                shards: words.number("shards", 0) as u16,
            },
        }
    }

    fn join(&mut self, words: &Words) {
        let identity = Identity {
            node: words.plain[2].to_owned(),
            boot: words.number("boot", 1),
            session: words.number("session", 1),
        };
        let serves = words.named.get("serves").copied().unwrap_or("1:encode,denoise,decode,finish");
        let serves = serves.split('+').map(|model| {
            let (model, stages) = model.split_once(':').expect("model:stages");
            let model = ModelId(model.parse().expect("a number"));
            (model, stages.split(',').map(stage).collect())
        });
        let vram_bytes = bytes(words.named.get("vram").copied().unwrap_or("16G"));
        let machine = words.named.get("on").copied().unwrap_or_default().to_owned();
        let capacity = Capacity { vram_bytes, serves: serves.collect(), machine };
        let holds = words.named.get("held").map(|all| all.split(',').map(held).collect());
        let held = holds.unwrap_or_default();
        let worker = worker(words.plain[1]);
        self.take(Input::WorkerJoined { worker, identity, capacity, held });
    }

    fn report(&mut self, words: &Words) {
        let Some(held) = self.held(words) else {
            self.told.push_str("it runs nothing: a mistake in the story\n");
            return;
        };
        let worker = worker(words.plain[1]);
        let gpu = words.named.get("gpu").map_or(Millis(0), |gpu| millis(gpu));
        let input = match words.plain[0] {
            "stored" => {
                let artifact = made(held.shard.job, role(words.plain[2]));
                Input::ArtifactStored { worker, held, artifact }
            }
            "finish" => {
                let only = words.plain.get(2).map(|of| vec![made(held.shard.job, role(of))]);
                let outputs = only.unwrap_or_else(|| self.outputs(held));
                Input::ShardFinished { worker, held, outputs, gpu }
            }
            "fail" => Input::ShardFailed { worker, held, cause: cause(words.plain[2]), gpu },
            _ => Input::Stalled { worker, held },
        };
        self.take(input);
    }

    fn about_worker(&mut self, words: &Words) {
        let worker = worker(words.plain[1]);
        let input = match words.plain[0] {
            "lost" => Input::WorkerLost { worker, how: LostHow::Closed },
            "left" => Input::WorkerLeft { worker },
            "drain" => {
                let drain = match words.plain[2] {
                    "immediate" => DrainKind::Immediate,
                    "step" => DrainKind::Step,
                    "shard" => DrainKind::Shard,
                    within => DrainKind::Deadline(millis(within)),
                };
                Input::DrainAsked { worker, drain }
            }
            other => Input::CordonSet { worker, cordoned: other == "cordon" },
        };
        self.take(input);
    }

    fn about_job(&mut self, words: &Words) {
        let job = job(words.plain[1]);
        let input = match words.plain[0] {
            "cancel" => Input::EndAsked { job, why: EndWhy::Cancelled },
            "delete" => Input::EndAsked { job, why: EndWhy::Deleted },
            "block" => Input::EndAsked { job, why: EndWhy::Blocked },
            "published" => Input::Published { job },
            "unpublished" => Input::PublishFailed { job, cause: cause(words.plain[2]) },
            "move" => Input::MoveAsked { job, to: words.named.get("to").map(|to| worker(to)) },
            "gone" => Input::ArtifactGone { job, artifact: made(job, role(words.plain[2])) },
            other => panic!("{other} is no command"),
        };
        self.take(input);
    }

    fn look(&mut self, words: &Words) {
        let of = words.plain.get(1).map(|text| job(text));
        let text = match (words.plain[0], of) {
            ("restore", _) => {
                let bytes = codec::encode(self.core.snapshot()).expect("a state encodes");
                let state: State = codec::decode_trusted(&bytes).expect("a state decodes");
                self.core = Core::from_snapshot(state);
                let again = codec::encode(self.core.snapshot()).expect("a state encodes");
                assert_eq!(bytes, again, "a snapshot is what it restores");
                self.core.check().expect("a restored core is sound");
                return;
            }
            ("workers", _) => self.workers(),
            ("counts", _) => format!("{:?}\n", self.core.counts()),
            ("why" | "why_for_tenant", Some(job)) => {
                let why = match words.plain[0] {
                    "why" => self.core.why(self.now, job),
                    _ => self.core.why_for_tenant(self.now, job),
                };
                why.map_or_else(
                    || "unknown\n".to_owned(),
                    |why| why.to_string().replace(&job.to_string(), &format!("j{}", job.0)),
                )
            }
            // As whoever knows on what it waits looks ahead.
            ("given_up", Some(job)) => {
                let by = self.now.plus(Millis(2_000));
                let (last, vain) =
                    (self.core.is_last_try(job, by), self.core.waits_in_vain(job, by));
                format!("last try {last}, waits in vain {vain}\n")
            }
            ("position", Some(job)) => format!("{:?}\n", self.core.queue_position(job)),
            (_, Some(job)) => self.core.job(job).map_or_else(
                || "unknown\n".to_owned(),
                |view| {
                    let artifacts = show_all(&view.artifacts);
                    let publishing = if view.publishing { ", publishing" } else { "" };
                    format!("{:?} {}{publishing} {artifacts}\n", view.state, view.stage)
                },
            ),
            (other, None) => panic!("{other} what?"),
        };
        self.told.push_str(&text);
    }

    fn workers(&self) -> String {
        let mut text = String::new();
        for view in self.core.workers() {
            let runs = view.running.map_or("nothing".to_owned(), |placed| {
                show_held(Held { shard: placed.shard, fence: placed.fence })
            });
            let (id, node, state) = (view.worker.0, &view.identity.node, view.state);
            writeln!(text, "w{id} {node} {state} runs {runs}").expect("a string takes all");
        }
        text
    }
}

/// Tells a story and gives it back with the answers that the core gave, and the inputs.
fn tell(text: &str) -> (String, Journal) {
    let mut story = Story::new();
    let mut told = String::new();
    let mut in_answers = false;
    for line in text.lines() {
        if in_answers {
            in_answers = !line.is_empty();
            continue;
        }
        if line == "----" {
            told.push_str("----\n");
            told.push_str(&std::mem::take(&mut story.told));
            told.push('\n');
            in_answers = true;
            continue;
        }
        told.push_str(line);
        told.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            story.command(line);
        }
    }
    (told, story.journal)
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// All stories, by name.
fn paths() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tests().join("stories")).expect("the folder of stories");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a story").path()).collect();
    paths.sort();
    paths
}

/// Every story is told as it is written.
#[test]
fn stories() {
    let write = std::env::var("ZOETROPE_STORIES").is_ok_and(|word| word == "write");
    let paths = paths();
    let mut wrong = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a story");
        let (told, _) = tell(&text);
        if write {
            std::fs::write(path, &told).expect("a story can be written");
        } else if told != text || told.contains("a mistake in the story") {
            let at = text.lines().zip(told.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let line = |text: &str| text.lines().nth(at).unwrap_or("nothing").to_owned();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let (expected, answer) = (line(&text), line(&told));
            wrong.push(format!("{name}:{}: expected `{expected}`, was `{answer}`", at + 1));
        }
    }
    assert!(paths.len() >= 20, "stories are missing");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// No journal is replayed by other decisions than it was written under: whoever changes one raises their number.
#[test]
fn the_answers_to_fixed_journals_are_those_of_the_number() {
    let file = tests().join("decisions.bin");
    if std::env::var_os("ZOETROPE_BLESS").is_some() {
        let texts = paths().into_iter().map(|path| std::fs::read_to_string(path).expect("a story"));
        let journals: Vec<Journal> = texts.map(|text| tell(&text).1).collect();
        let bytes = codec::encode(&journals).expect("inputs encode");
        std::fs::write(&file, bytes).expect("the journals can be written");
    }
    let bytes = std::fs::read(&file).expect("the journals");
    let journals: Vec<Journal> = codec::decode_trusted(&bytes).expect("they stay readable");
    let mut out = Vec::new();
    for journal in journals {
        let mut core = Core::new(Config::default());
        for (now, input) in journal {
            core.handle(now, input, &mut out);
        }
    }
    let digest = ArtifactId::of(&codec::encode(&out).expect("outputs encode")).to_string();
    assert_eq!((DECISIONS, digest.as_str()), PINNED, "the core decides otherwise");
}
