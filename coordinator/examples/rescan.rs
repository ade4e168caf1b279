//! How fast what is stored is judged anew, by the moderation sidecar with a real store and the real nets:
//! `cargo run --release -p zoetrope-coordinator --example rescan -- NETS ROWS`. Called by `scripts/bench rescan`.
//!
//! Each row is a clip of 10 s with its record, and a prompt of its own; of many rows some share a record, for to write one
//! durably takes longer than to judge it. Once its words' scores are taken as they were kept, for other thresholds; once
//! they are read anew, for other pairs. Prints rows a second of both as JSON.

use anyhow::{Context, bail};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use zoetrope_coordinator::dispatch::DispatchMsg;
use zoetrope_coordinator::jobs::rescan::{Batch, PolicyTexts, RATE_MAX};
use zoetrope_coordinator::metrics::Metrics;
use zoetrope_coordinator::moderation::{
    Desk, ModerationActor, ModerationArguments, ModerationMsg, RescanItem,
};
use zoetrope_coordinator::store::{Reading, Store};
use zoetrope_moderation::Policy;
use zoetrope_moderation::judge::{self, Asked, Scores};
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Role};
use zoetrope_protocol::moderation::{Audience, FrameRecord, FrameScore, SAMPLE_EVERY, SoundRecord};

/// Frames of a clip.
const FRAMES: u32 = 240;
/// Records that are stored, at most.
const RECORDS_MAX: u32 = 20_000;
/// Rows whose words are read anew: that takes longer.
const ANEW: usize = 200;

/// Stands for the dispatch actor: passes on what the sidecar says.
struct Listens;

#[ractor::async_trait]
impl Actor for Listens {
    type Msg = DispatchMsg;
    type State = Sender<Option<Batch>>;
    type Arguments = Sender<Option<Batch>>;

    async fn pre_start(
        &self,
        _: ActorRef<DispatchMsg>,
        batches: Sender<Option<Batch>>,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(batches)
    }

    async fn handle(
        &self,
        _: ActorRef<DispatchMsg>,
        message: DispatchMsg,
        batches: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DispatchMsg::ModerationUp(_) => batches.send(None).await?,
            DispatchMsg::Rescanned { batch, .. } => batches.send(batch).await?,
            _ => {}
        }
        Ok(())
    }
}

struct Bench {
    sidecar: ActorRef<ModerationMsg>,
    dispatch: ActorRef<DispatchMsg>,
    batches: Receiver<Option<Batch>>,
}

impl Bench {
    /// Rows a second, with this policy: the first row is not counted, for it loads the nets.
    async fn run(
        &mut self,
        began: u64,
        policy: PolicyTexts,
        rows: &[RescanItem],
    ) -> anyhow::Result<f64> {
        let (first, rest) = rows.split_at(1);
        self.batch(began, &policy, first).await?;
        let clock = Instant::now();
        for rows in rest.chunks(RATE_MAX as usize) {
            self.batch(began, &policy, rows).await?;
        }
        Ok(rest.len() as f64 / clock.elapsed().as_secs_f64())
    }

    async fn batch(
        &mut self,
        began: u64,
        policy: &PolicyTexts,
        rows: &[RescanItem],
    ) -> anyhow::Result<()> {
        let (items, back) = (rows.to_vec(), self.dispatch.clone());
        let policy = Some(policy.clone());
        let message =
            ModerationMsg::Rescan { began: Millis(began), policy, items, through: None, back };
        self.sidecar.cast(message)?;
        let batch = self.batches.recv().await.flatten().context("nothing could be judged")?;
        if batch.passed as usize != rows.len() {
            bail!("{} of {} rows pass", batch.passed, rows.len());
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [nets, rows] = &words[..] else { bail!("usage: rescan NETS ROWS") };
    let text = include_str!("../../configs/policy.toml").to_owned();
    let rules = include_str!("../../configs/policy/rules.toml").to_owned();
    let pairs = include_str!("../../configs/policy/pairs.tsv").to_owned();
    let policy = Policy::of_texts(&text, &rules, &pairs)?;
    let folder = tempfile::tempdir()?;
    let store = Arc::new(Store::open(folder.path(), Duration::from_secs(3_600))?);
    let rows: u32 = rows.parse()?;
    let mut items = Vec::new();
    for n in 0..rows.min(RECORDS_MAX) {
        items.push(item(&store, &policy, n).await?);
    }
    for n in RECORDS_MAX..rows {
        let record = items[(n % RECORDS_MAX) as usize].record;
        items.push(RescanItem { record, ..row(&policy, n) });
    }
    let (said, batches) = channel(1);
    let (dispatch, _) = Actor::spawn(None, Listens, said).await?;
    let arguments = ModerationArguments {
        desk: Arc::new(Desk::new(policy)),
        models: Path::new(nets).to_owned(),
        store,
        metrics: Arc::new(Metrics::new(&[])),
        dispatch: dispatch.clone(),
    };
    let (sidecar, _) = Actor::spawn(None, ModerationActor, arguments).await?;
    let mut bench = Bench { sidecar, dispatch, batches };
    bench.batches.recv().await.context("the sidecar does not start")?;

    let thresholds = PolicyTexts {
        policy: text.replace("block = 0.75", "block = 0.74"),
        rules: rules.clone(),
        pairs: pairs.clone(),
    };
    let kept = bench.run(1, thresholds, &items).await?;
    let (fewer, _) = pairs.trim_end().rsplit_once('\n').context("pairs")?;
    let other = PolicyTexts { policy: text, rules, pairs: fewer.to_owned() };
    let anew = bench.run(2, other, &items[..items.len().min(ANEW)]).await?;
    println!("{}", serde_json::json!({ "kept_per_second": kept, "anew_per_second": anew }));
    Ok(())
}

/// A clip that is stored: harmless, with sound in which nobody speaks.
async fn item(store: &Arc<Store>, policy: &Policy, n: u32) -> anyhow::Result<RescanItem> {
    let indices = (0..FRAMES).step_by(SAMPLE_EVERY as usize).chain([FRAMES - 1]);
    let score = |frame| FrameScore { frame, hash: u64::from(n), ..FrameScore::default() };
    let clip = ArtifactId::of(&n.to_le_bytes());
    let record = FrameRecord {
        frames_digest: clip,
        frames: FRAMES,
        clip,
        nets: policy.frame_nets(),
        scores: indices.map(score).collect(),
        sound: Some(SoundRecord { length_ms: 10_000, nets: policy.sound_nets(), speech: vec![] }),
    };
    let bytes = codec::encode(&record)?;
    let artifact = ArtifactId::of(&bytes);
    let mut upload = store.put(artifact, bytes.len() as u64, Reading::Soon).await?;
    upload.write(bytes.clone().into()).await?;
    upload.finish().await?;
    let kept = ArtifactRef { role: Role::Scores, artifact, bytes: bytes.len() as u64 };
    let asked = Asked { clip, frames: FRAMES, audio: true };
    Ok(RescanItem { record: Some(Some((kept, asked))), ..row(policy, n) })
}

/// A job's words, and that they passed.
fn row(policy: &Policy, n: u32) -> RescanItem {
    RescanItem {
        job: JobId(u128::from(n)),
        created: Millis(u64::from(n)),
        audience: Audience::All,
        words: vec![format!(
            "a red ball number {n} bounces over a meadow by a lake in the morning light"
        )],
        input: Some(judge::text(policy, Audience::All, &Scores::new())),
        record: None,
        again: false,
    }
}
