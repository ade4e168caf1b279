//! Understands speech with Whisper, on a thread of its own beside the gpu thread, on the CPU.
//!
//! The network is loaded when somebody first speaks in a clip: most clips never do.

use crate::asked::{Alarm, Asked};
use crate::model::whisper::Whisper;
use std::path::PathBuf;
use std::time::Duration;
use zoetrope_moderation::nets::NetError;
use zoetrope_moderation::sound::{Recognizer, Words};

/// 30 s of sound take about 8 s on a core, and the network 1 s to load; on a busy machine, where this thread goes last, twenty
/// times that. Whoever waits for it tells the farm so meanwhile.
const LIMIT: Duration = Duration::from_secs(180);
/// Questions that wait: clips are finished one or two at a time.
const WAITING: usize = 4;

/// The way to the network.
pub struct Speech(Asked<Vec<f32>, Words>);

impl Speech {
    /// Starts the thread. `folder` is that of the network, whose files the caller has checked. `alarm` is rung if the thread dies.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(folder: PathBuf, alarm: &Alarm) -> Result<Speech, String> {
        let begin = move || {
            let (mut network, folder) = (None, folder.clone());
            Ok(move |sound: Vec<f32>| answer(&mut network, &folder, &sound))
        };
        Asked::start("speech", 1, WAITING, alarm, begin).map(Speech)
    }
}

fn answer(
    network: &mut Option<Whisper>,
    folder: &std::path::Path,
    sound: &[f32],
) -> Result<Words, String> {
    let network = match network {
        Some(network) => network,
        None => network.insert(Whisper::open(folder).map_err(|error| error.to_string())?),
    };
    let heard = network.hear(sound).map_err(|error| error.to_string())?;
    Ok(Words { text: heard.text, confidence: heard.confidence, no_speech: heard.no_speech })
}

impl Recognizer for Speech {
    fn words(&self, sound: &[f32]) -> Result<Words, NetError> {
        let answer = self.0.ask(sound.to_vec(), LIMIT);
        answer.map_err(|reason| NetError { net: "whisper", reason })
    }
}
