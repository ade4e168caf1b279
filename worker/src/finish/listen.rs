//! Listens to the sound of a clip while its frames are decoded and encoded, on a thread of its own.
//!
//! Decides nothing: the coordinator judges what was understood by its policy. A sound that was not listened to whole
//! is an error, and a clip without it is not finished. Called by `sink.rs`.

use super::FinishError;
use crate::beside::{Beside, Nothing, Waiting};
use std::sync::Arc;
use zoetrope_moderation::Listener;
use zoetrope_moderation::sound::{length_ms, mono};
use zoetrope_protocol::moderation::SoundRecord;

type Heard = Result<SoundRecord, String>;

/// The listening to one clip.
pub struct Listening(Beside<Heard>);

impl Listening {
    /// Begins with the whole sound of a clip, stereo.
    ///
    /// # Errors
    /// `Disk` if the system gives no thread.
    pub fn begin(listener: Arc<dyn Listener>, samples: Vec<f32>) -> Result<Listening, FinishError> {
        let thread = Beside::start("listen", move || -> Heard {
            crate::start::stand_back();
            let sound = mono(&samples);
            let speech = listener.listen(&sound).map_err(|error| error.to_string())?;
            Ok(SoundRecord { length_ms: length_ms(&sound), nets: listener.nets(), speech })
        });
        let thread = thread.map_err(|source| FinishError::Disk {
            doing: "starting the thread that listens",
            source,
        })?;
        Ok(Listening(thread))
    }

    /// Waits for what was heard.
    ///
    /// # Errors
    /// `Moderation` if it is not known what is said; `Unwanted`.
    pub fn finish(self, waiting: Waiting<'_>) -> Result<SoundRecord, FinishError> {
        match self.0.wait(waiting) {
            Ok(Ok(record)) => Ok(record),
            Ok(Err(reason)) => Err(FinishError::Moderation(reason)),
            Err(Nothing::Unwanted) => Err(FinishError::Unwanted),
            Err(_) => Err(FinishError::Moderation("the thread that listens died".into())),
        }
    }
}
