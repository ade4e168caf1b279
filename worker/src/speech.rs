//! The thread that understands speech: it owns the tensors of Whisper, and nothing of them leaves it.
//!
//! One long-lived thread beside the gpu thread, on the CPU. The network is loaded when somebody first speaks in a
//! clip: most clips never do. Whoever asks waits, for a limited time. Knows no clip and judges nothing.

use crate::model::whisper::Whisper;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use zoetrope_moderation::nets::NetError;
use zoetrope_moderation::sound::{Recognizer, Words};

/// 30 s of sound take about 8 s on a core, and the network 1 s to load; ten times that for a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// Questions that wait: clips are finished one or two at a time.
const WAITING: usize = 4;

type Answer = Result<Words, String>;
type Question = (Vec<f32>, SyncSender<Answer>);

/// The way to the thread.
pub struct Speech {
    questions: SyncSender<Question>,
}

impl Speech {
    /// Starts the thread. `folder` is that of the network, whose files the caller has checked.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(folder: PathBuf) -> std::io::Result<Speech> {
        let (questions, receiver) = sync_channel::<Question>(WAITING);
        std::thread::Builder::new().name("speech".into()).spawn(move || {
            // For the life of the thread.
            let _inference = tch::no_grad_guard();
            let mut network = None;
            while let Ok((sound, back)) = receiver.recv() {
                // Who asked may have given up.
                back.send(answer(&mut network, &folder, &sound)).ok();
            }
        })?;
        Ok(Speech { questions })
    }
}

fn answer(network: &mut Option<Whisper>, folder: &std::path::Path, sound: &[f32]) -> Answer {
    let network = match network {
        Some(network) => network,
        None => network.insert(Whisper::open(folder).map_err(|error| error.to_string())?),
    };
    let heard = network.hear(sound).map_err(|error| error.to_string())?;
    Ok(Words { text: heard.text, confidence: heard.confidence, no_speech: heard.no_speech })
}

impl Recognizer for Speech {
    fn words(&self, sound: &[f32]) -> Result<Words, NetError> {
        let failed = |reason: &str| NetError { net: "whisper", reason: reason.to_owned() };
        let (back, answer) = sync_channel(1);
        let question = (sound.to_vec(), back);
        self.questions.try_send(question).map_err(|_| failed("too many clips wait for it"))?;
        let answer = answer.recv_timeout(LIMIT).map_err(|_| failed("it did not answer in time"))?;
        answer.map_err(|reason| failed(&reason))
    }
}
