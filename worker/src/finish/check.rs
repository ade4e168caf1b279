//! Reading a finished clip back, and holding it against what was asked for.
//!
//! The file itself is asked, not the encoder's promise. Called by `sink.rs`.

use super::FinishError;
use super::encoder::AAC_FRAME;
use super::program::{Programs, SHORT_LIMIT, answer};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;
use zoetrope_protocol::clip::FPS;
use zoetrope_protocol::{RenderSpec, Size};

/// The end of the sound may miss the end of the picture by one audio frame of 1,024 samples at 48 kHz.
pub const AV_GAP_MICROS_MAX: u32 = 21_333;

/// What was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// Of the picture.
    pub size: Size,
    /// In the file.
    pub frames: u32,
    /// 0 without sound.
    pub av_gap_micros: u32,
}

#[derive(Deserialize)]
struct Probe {
    #[serde(default)]
    streams: Vec<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: String,
    codec_name: Option<String>,
    pix_fmt: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    avg_frame_rate: Option<String>,
    sample_rate: Option<String>,
    start_time: Option<String>,
    duration: Option<String>,
    nb_read_packets: Option<String>,
}

impl Stream {
    fn micros(text: Option<&String>) -> Option<u64> {
        let seconds: f64 = text?.parse().ok()?;
        (0.0..1e6).contains(&seconds).then(|| (seconds * 1e6).round() as u64)
    }

    fn packets(&self) -> Option<u64> {
        self.nb_read_packets.as_ref()?.parse().ok()
    }
}

/// Reads a clip back and checks it.
///
/// # Errors
/// `Check`: what differs. `Encoder` if ffprobe fails.
pub fn read_back(
    programs: &Programs,
    clip: &Path,
    spec: &RenderSpec,
) -> Result<ReadBack, FinishError> {
    let mut command = Command::new(&programs.ffprobe);
    command.args(["-hide_banner", "-loglevel", "error", "-count_packets", "-show_streams"]);
    command.args(["-of", "json"]).arg(clip);
    let json = answer(&mut command, SHORT_LIMIT)?;
    let probe: Probe = serde_json::from_slice(&json)
        .map_err(|error| FinishError::Check(format!("ffprobe's answer: {error}")))?;
    judge(&probe, spec)
}

fn judge(probe: &Probe, spec: &RenderSpec) -> Result<ReadBack, FinishError> {
    let wrong = |what: String| Err(FinishError::Check(what));
    let of = |kind: &str| {
        probe.streams.iter().filter(|one| one.codec_type == kind).collect::<Vec<&Stream>>()
    };
    let (pictures, sounds) = (of("video"), of("audio"));
    let [picture] = pictures.as_slice() else {
        return wrong(format!("{} pictures instead of one", pictures.len()));
    };
    if probe.streams.len() != pictures.len() + sounds.len() {
        return wrong("a stream that is neither picture nor sound".into());
    }
    let size = Size {
        width: picture.width.unwrap_or_default(),
        height: picture.height.unwrap_or_default(),
    };
    if size != spec.deliver {
        return wrong(format!("a picture of {size} instead of {}", spec.deliver));
    }
    let codec = picture.codec_name.as_deref().unwrap_or("none");
    let pixels = picture.pix_fmt.as_deref().unwrap_or("none");
    if (codec, pixels) != ("h264", "yuv420p") {
        return wrong(format!("{codec} in {pixels} instead of h264 in yuv420p"));
    }
    if picture.avg_frame_rate.as_deref() != Some(&format!("{FPS}/1")) {
        let rate = picture.avg_frame_rate.as_deref().unwrap_or("none");
        return wrong(format!("a rate of {rate} instead of {FPS}/1"));
    }
    let frames = picture.packets().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    if frames != spec.frames {
        return wrong(format!("{frames} frames instead of {}", spec.frames));
    }
    let av_gap_micros = match (sounds.as_slice(), spec.audio) {
        ([], false) => 0,
        ([sound], true) => gap(picture, sound, frames)?,
        (sounds, true) => return wrong(format!("{} sounds instead of one", sounds.len())),
        (sounds, false) => return wrong(format!("{} sounds in a silent clip", sounds.len())),
    };
    Ok(ReadBack { size, frames, av_gap_micros })
}

/// The larger of two gaps: of the lengths that the file states, and of what a player decodes, which is whole
/// AAC frames less the first, with which the encoder warms up.
fn gap(picture: &Stream, sound: &Stream, frames: u32) -> Result<u32, FinishError> {
    let missing = || FinishError::Check("a stream without length".into());
    let video = Stream::micros(picture.duration.as_ref()).ok_or_else(missing)?;
    let exact = u64::from(frames) * 1_000_000 / u64::from(FPS);
    let stated = Stream::micros(sound.duration.as_ref()).ok_or_else(missing)?;
    let packets = sound.packets().ok_or_else(missing)?;
    let rate: u64 =
        sound.sample_rate.as_ref().and_then(|rate| rate.parse().ok()).ok_or_else(missing)?;
    if rate == 0 {
        return Err(missing());
    }
    let decoded = packets.saturating_sub(1) * u64::from(AAC_FRAME) * 1_000_000 / rate;
    let start = |stream: &Stream| Stream::micros(stream.start_time.as_ref()).unwrap_or(0);
    let starts = start(picture).abs_diff(start(sound));
    let gap = video.abs_diff(stated).max(exact.abs_diff(decoded)).max(exact.abs_diff(video));
    let gap = u32::try_from(gap.max(starts)).unwrap_or(u32::MAX);
    if gap > AV_GAP_MICROS_MAX {
        return Err(FinishError::Check(format!(
            "sound and picture differ by {gap} µs, {AV_GAP_MICROS_MAX} are allowed"
        )));
    }
    Ok(gap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::attempt::tests::order;
    use zoetrope_protocol::Stage;

    fn probe(sound: &str) -> Probe {
        let json = format!(
            r#"{{"streams":[{{"codec_type":"video","codec_name":"h264","pix_fmt":"yuv420p","width":64,
            "height":64,"avg_frame_rate":"24/1","start_time":"0.000000","duration":"1.000000",
            "nb_read_packets":"24"}}{sound}]}}"#
        );
        serde_json::from_str(&json).expect("json")
    }

    fn sound(packets: u32, duration: &str) -> String {
        format!(
            r#",{{"codec_type":"audio","codec_name":"aac","sample_rate":"48000","start_time":"0.000000",
            "duration":"{duration}","nb_read_packets":"{packets}"}}"#
        )
    }

    /// Promise: sound and picture differ by at most one audio frame, or the clip is refused.
    #[test]
    fn a_gap_over_one_audio_frame_is_refused() {
        let spec = order(Stage::Finish, 1, 1).spec;
        let good = judge(&probe(&sound(48, "1.000000")), &spec).expect("passes");
        assert_eq!((good.frames, good.av_gap_micros), (24, 2_666));
        for bad in
            [sound(48, "1.022000"), sound(50, "1.000000"), sound(46, "1.000000"), String::new()]
        {
            assert!(matches!(judge(&probe(&bad), &spec), Err(FinishError::Check(_))), "{bad}");
        }
        let silent = RenderSpec { audio: false, ..spec.clone() };
        assert_eq!(judge(&probe(""), &silent).expect("passes").av_gap_micros, 0);
        assert!(judge(&probe(&sound(48, "1.000000")), &silent).is_err());
        let longer = RenderSpec { frames: 25, ..spec.clone() };
        assert!(judge(&probe(&sound(48, "1.000000")), &longer).is_err());
        let larger = RenderSpec { deliver: Size { width: 64, height: 66 }, ..spec };
        assert!(judge(&probe(&sound(48, "1.000000")), &larger).is_err());
    }
}
