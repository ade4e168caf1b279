//! The encoder of one clip: an ffmpeg child process, and the thread that feeds it frame by frame.
//!
//! Two buffers go round between the gpu thread and this one, so at most two chunks are in memory and the gpu
//! decodes one while the other is encoded. A buffer that does not come back in time means a stuck encoder.
//! Called by `sink.rs`.

use super::FinishError;
use super::TempFolder;
use super::mark::FrameMarks;
use super::moderate::Moderation;
use super::program::{FinishSettings, Programs, Running, SHORT_LIMIT};
use super::stills::Stills;
use crate::beside::{Beside, Nothing, Waiting, receive};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use zoetrope_protocol::clip::{AUDIO_CHANNELS, FPS, SAMPLE_RATE};
use zoetrope_protocol::{RenderSpec, Size};

/// Chunks in memory.
const BUFFERS: usize = 2;
/// The encoder takes a chunk of the largest canvas in two seconds on two slow cores.
const FEED_LIMIT: Duration = Duration::from_secs(60);
/// After the last chunk was handed over: until all of it is marked and written, and what looks at its frames has room, which
/// takes `sight::LIMIT` at most.
const FED_LIMIT: Duration = Duration::from_secs(180);
/// After the last frame: what x264 still holds back (under a second of video), and writing the head.
const CLOSE_LIMIT: Duration = Duration::from_secs(90);
/// One that takes no frames any more is over, or soon.
const OVER_LIMIT: Duration = Duration::from_secs(5);
/// AAC frames of 1,024 samples last 21.3 ms at this rate. At the model's own 32 kHz they would last 32 ms,
/// and the end of the sound could miss the end of the picture by more than is allowed.
pub const AAC_RATE: u32 = 48_000;
/// Samples of an AAC frame.
pub const AAC_FRAME: u32 = 1_024;

/// Scales to cover and cuts, centred, if the delivered size differs.
pub fn cover_filter(canvas: Size, deliver: Size) -> String {
    let (width, height) = (deliver.width, deliver.height);
    // Players assume BT.709 for what is not labelled; ours says so, and is converted so.
    let matrix = "out_color_matrix=bt709:out_range=tv";
    if canvas == deliver {
        return format!("scale={matrix},format=yuv420p,setsar=1");
    }
    let cover = "force_original_aspect_ratio=increase:flags=lanczos+accurate_rnd";
    format!("scale={width}:{height}:{cover}:{matrix},crop={width}:{height},format=yuv420p,setsar=1")
}

/// The whole command line, so that a reader can try it by hand.
fn command(
    settings: &FinishSettings,
    spec: &RenderSpec,
    sound: Option<&Path>,
    clip: &Path,
) -> Command {
    let mut command = Command::new(&settings.programs.ffmpeg);
    let threads = settings.threads.to_string();
    let text = |number: u32| number.to_string();
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-framerate", &text(FPS)]);
    command.args(["-video_size", &spec.canvas.to_string(), "-i", "pipe:0"]);
    if let Some(sound) = sound {
        command.args([
            "-f",
            "f32le",
            "-ar",
            &text(SAMPLE_RATE),
            "-ac",
            &text(AUDIO_CHANNELS),
            "-i",
        ]);
        command.arg(sound);
        command.args(["-map", "0:v:0", "-map", "1:a:0"]);
        command.args([
            "-c:a",
            "aac",
            "-b:a",
            "192k",
            "-ar",
            &text(AAC_RATE),
            "-flags:a",
            "+bitexact",
        ]);
    } else {
        command.args(["-map", "0:v:0", "-an"]);
    }
    command.args(["-vf", &cover_filter(spec.canvas, spec.deliver), "-fps_mode", "cfr"]);
    command.args(["-c:v", "libx264", "-profile:v", "high", "-pix_fmt", "yuv420p"]);
    command.args(["-preset", &settings.preset, "-crf", &text(settings.crf)]);
    // A key frame every two seconds, for seeking.
    command.args(["-g", &text(2 * FPS), "-threads", &threads, "-filter_threads", &threads]);
    command.args(["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]);
    command.args(["-color_range", "tv", "-flags:v", "+bitexact"]);
    // No times and no version in the file: same frames, same bytes.
    command.args(["-map_metadata", "-1", "-fflags", "+bitexact"]);
    command.args(["-movflags", "+faststart", "-f", "mp4"]);
    command.arg(clip);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

/// Encodes one small frame with sound, as clips are: an ffmpeg that lacks an option is told at the start, and not after a
/// render. The files go into a folder of their own below `temp`.
///
/// # Errors
/// `Encoder` with what ffmpeg said, `Program`, `Disk`.
pub(super) fn try_out(programs: &Programs, temp: &Path) -> Result<(), FinishError> {
    let folder = TempFolder::new(temp)?;
    let settings = FinishSettings::new(programs.clone(), temp.into());
    let (canvas, deliver) = (Size { width: 64, height: 64 }, Size { width: 48, height: 80 });
    let spec = RenderSpec {
        model: String::new(),
        prompt: String::new(),
        canvas,
        deliver,
        frames: 1,
        seed: 0,
        steps: 1,
        audio: true,
    };
    let sound = folder.path.join("sound.f32");
    let samples = (SAMPLE_RATE / FPS * AUDIO_CHANNELS) as usize;
    let disk = |source| FinishError::Disk { doing: "trying the encoder", source };
    std::fs::write(&sound, vec![0; samples * 4]).map_err(disk)?;
    let clip = folder.path.join("clip.mp4");
    let mut running = Running::start(&mut command(&settings, &spec, Some(&sound), &clip))?;
    if let Some(mut stdin) = running.stdin() {
        // One that takes nothing says more when it ends.
        stdin.write_all(&vec![0; canvas.area() as usize * 3]).ok();
    }
    running.finish(SHORT_LIMIT)
}

struct Chunk {
    rgb: Vec<u8>,
}

/// What looks at the frames on their way to the encoder, in this order.
pub struct Eyes {
    /// Samples them as the model made them.
    pub moderation: Option<Moderation>,
    /// Marks them.
    pub marks: Option<FrameMarks>,
    /// Keeps some as pictures.
    pub stills: Stills,
}

type Fed = Result<Eyes, std::io::Error>;

/// An encoder at work.
pub struct Encoder {
    running: Running,
    full: Option<SyncSender<Chunk>>,
    empty: Receiver<Chunk>,
    feeder: Beside<Fed>,
}

impl Encoder {
    /// Starts ffmpeg and its feeder.
    ///
    /// # Errors
    /// `Encoder` if it cannot be started.
    pub fn start(
        settings: &FinishSettings,
        spec: &RenderSpec,
        sound: Option<&Path>,
        clip: &Path,
        eyes: Eyes,
    ) -> Result<Self, FinishError> {
        let mut running = Running::start(&mut command(settings, spec, sound, clip))?;
        let stdin = running.stdin();
        let (full, chunks) = sync_channel::<Chunk>(BUFFERS);
        let (back, empty) = sync_channel::<Chunk>(BUFFERS);
        for _ in 0..BUFFERS {
            back.send(Chunk { rgb: Vec::new() }).ok(); // it has room for all
        }
        let frame_bytes = spec.canvas.area() as usize * 3;
        let feed = move || -> Fed {
            let mut stdin = stdin.ok_or(std::io::ErrorKind::BrokenPipe)?;
            let mut eyes = eyes;
            while let Ok(mut chunk) = chunks.recv() {
                for frame in chunk.rgb.chunks_exact_mut(frame_bytes) {
                    if let Some(moderation) = &mut eyes.moderation {
                        moderation.see(frame);
                    }
                    if let Some(marks) = &mut eyes.marks {
                        marks.mark(frame);
                    }
                    stdin.write_all(frame)?;
                    eyes.stills.see(frame);
                }
                back.send(chunk).ok(); // the sink may be gone: then `recv` ends the loop
            }
            stdin.flush()?;
            Ok(eyes)
        };
        let feeder = Beside::start("encoder", feed).map_err(|source| FinishError::Disk {
            doing: "starting the encoder's thread",
            source,
        })?;
        Ok(Encoder { running, full: Some(full), empty, feeder })
    }

    /// Hands over frames of the canvas.
    ///
    /// # Errors
    /// `Encoder` if ffmpeg is gone or takes nothing, `Unwanted`.
    pub fn feed(&mut self, rgb: &[u8], wanted: &dyn Fn() -> bool) -> Result<(), FinishError> {
        let mut chunk = match receive(&self.empty, FEED_LIMIT, Waiting { told: &|| {}, wanted }) {
            Ok(chunk) => chunk,
            Err(Nothing::Unwanted) => return Err(FinishError::Unwanted),
            Err(Nothing::Late | Nothing::Died) => return Err(self.broken()),
        };
        chunk.rgb.clear();
        chunk.rgb.extend_from_slice(rgb);
        match self.full.as_ref().map(|full| full.send(chunk)) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.broken()),
        }
    }

    fn broken(&mut self) -> FinishError {
        match self.feeder.wait_within(OVER_LIMIT, Waiting::QUIETLY) {
            Err(Nothing::Late) => {
                let seconds = FEED_LIMIT.as_secs();
                FinishError::Encoder(format!("it took no frame for {seconds} s"))
            }
            _ => self.death(),
        }
    }

    /// How it ended that takes no frames any more.
    fn death(&mut self) -> FinishError {
        let early = || FinishError::Encoder("it ended early".into());
        self.running.finish(OVER_LIMIT).err().unwrap_or_else(early)
    }

    /// No more frames: waits until the file is closed.
    ///
    /// # Errors
    /// `Encoder` with what ffmpeg said, `Unwanted`.
    pub fn close(mut self, waiting: Waiting<'_>) -> Result<Eyes, FinishError> {
        drop(self.full.take());
        // Dropped with an error the child is killed, so a feeder that hangs at its pipe ends too.
        match self.feeder.wait_within(FED_LIMIT, waiting) {
            Ok(Ok(fed)) => {
                (waiting.told)();
                self.running.finish_while(CLOSE_LIMIT, waiting)?;
                Ok(fed)
            }
            Ok(Err(_)) => Err(self.death()),
            Err(Nothing::Unwanted) => Err(FinishError::Unwanted),
            Err(Nothing::Late) => {
                let seconds = FED_LIMIT.as_secs();
                Err(FinishError::Encoder(format!("it took no frame for {seconds} s")))
            }
            Err(Nothing::Died) => Err(FinishError::Encoder("its thread died".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canvas_of_the_right_size_is_not_scaled() {
        let canvas = Size { width: 288, height: 512 };
        assert!(!cover_filter(canvas, canvas).contains("crop"));
        let filter = cover_filter(canvas, Size { width: 720, height: 1280 });
        assert!(filter.starts_with("scale=720:1280:force_original_aspect_ratio=increase"));
        assert!(filter.contains("crop=720:1280"));
    }
}
