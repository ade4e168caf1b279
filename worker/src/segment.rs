//! Decoded segments: what goes from the workers that decode a clip to the one that finishes it.
//!
//! One for each decode chunk, with its frames as they are handed to the encoder; that of the first chunk has the sound
//! of the whole clip in front. Owns the format and its checks. Used by the gpu thread; knows no engine and no link.

use crate::engine::{ClipSink, EngineError, Frames, render_digest};
use zoetrope_protocol::clip::AUDIO_CHANNELS;
use zoetrope_protocol::{ArtifactId, RenderSpec};

const MAGIC: [u8; 8] = *b"ZTSEG001";
/// Magic, digest of spec and weights, chunk, frames, samples.
const HEAD_BYTES: usize = 8 + 32 + 4 + 4 + 4;

/// Samples of the sound, both channels.
fn samples(spec: &RenderSpec) -> u64 {
    spec.shape().asked_samples() * u64::from(AUDIO_CHANNELS)
}

/// Cuts what an engine decodes into segments, and hands each on as soon as it is whole.
pub struct SegmentSink<'a> {
    spec: &'a RenderSpec,
    weights: ArtifactId,
    chunk: u32,
    sound: Vec<f32>,
    rgb: Vec<u8>,
    keep: &'a mut dyn FnMut(u32, Vec<u8>) -> Result<(), EngineError>,
}

impl<'a> SegmentSink<'a> {
    /// A sink whose first frames are those of `chunk`, decoded with these weights. `keep` gets each chunk's number and
    /// artifact.
    pub fn new(
        spec: &'a RenderSpec,
        weights: ArtifactId,
        chunk: u32,
        keep: &'a mut dyn FnMut(u32, Vec<u8>) -> Result<(), EngineError>,
    ) -> Self {
        SegmentSink { spec, weights, chunk, sound: Vec::new(), rgb: Vec::new(), keep }
    }

    fn wrong(&self, what: &str) -> EngineError {
        EngineError::Sink(format!("chunk {}: {what}", self.chunk))
    }
}

impl ClipSink for SegmentSink<'_> {
    fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError> {
        if self.chunk > 0 || !self.rgb.is_empty() {
            return Err(self.wrong("the sound comes with the first chunk, before its frames"));
        }
        self.sound = samples.to_vec();
        Ok(())
    }

    fn frames(&mut self, frames: Frames<'_>) -> Result<(), EngineError> {
        let shape = self.spec.shape();
        let whole = shape.frames_of(self.chunk).len() as u64 * self.spec.canvas.area() * 3;
        self.rgb.extend_from_slice(frames.rgb);
        if self.rgb.len() as u64 > whole {
            return Err(self.wrong("more frames came than it has"));
        }
        if (self.rgb.len() as u64) < whole {
            return Ok(());
        }
        let count = shape.frames_of(self.chunk).len() as u32;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.sound.len() * 4 + self.rgb.len());
        bytes.extend(MAGIC);
        bytes.extend(render_digest(self.spec, self.weights).0);
        for number in [self.chunk, count, self.sound.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        for sample in std::mem::take(&mut self.sound) {
            bytes.extend(sample.to_le_bytes());
        }
        bytes.append(&mut self.rgb);
        let chunk = self.chunk;
        self.chunk += 1;
        (self.keep)(chunk, bytes)
    }
}

/// Pours the segment of a chunk into the clip.
///
/// # Errors
/// `BadInput` if the bytes are no segment, or one of another render, weights or chunk; what the sink says.
pub fn pour(
    spec: &RenderSpec,
    weights: ArtifactId,
    chunk: u32,
    bytes: &[u8],
    sink: &mut dyn ClipSink,
) -> Result<(), EngineError> {
    let bad = |what: &str| EngineError::BadInput(format!("segment {chunk}: {what}"));
    let head = bytes.get(..HEAD_BYTES).ok_or_else(|| bad("its head is cut off"))?;
    if head[..8] != MAGIC {
        return Err(bad("it is no segment"));
    }
    if head[8..40] != render_digest(spec, weights).0 {
        return Err(bad("it is of another render"));
    }
    let number = |at: usize| {
        let mut number = [0; 4];
        number.copy_from_slice(&head[at..at + 4]);
        u32::from_le_bytes(number)
    };
    let count = spec.shape().frames_of(chunk).len() as u32;
    let expected = if chunk == 0 && spec.audio { samples(spec) } else { 0 };
    if (number(40), number(44), u64::from(number(48))) != (chunk, count, expected) {
        return Err(bad("it has other frames or sound"));
    }
    let content = &bytes[HEAD_BYTES..];
    let (sound, rgb) = usize::try_from(expected * 4)
        .ok()
        .and_then(|length| content.split_at_checked(length))
        .ok_or_else(|| bad("its sound is cut off"))?;
    if rgb.len() as u64 != u64::from(count) * spec.canvas.area() * 3 {
        return Err(bad("it has another length"));
    }
    if !sound.is_empty() {
        let samples = sound.as_chunks::<4>().0.iter().map(|sample| f32::from_le_bytes(*sample));
        sink.sound(&samples.collect::<Vec<_>>())?;
    }
    sink.frames(Frames { rgb, count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulated::paint;
    use crate::engine::{Ended, Piece};
    use crate::gpu::attempt::tests::order;
    use zoetrope_protocol::Stage;
    use zoetrope_protocol::clip::chunk_range;

    const WEIGHTS: ArtifactId = ArtifactId([7; 32]);

    #[derive(Default, PartialEq)]
    struct Poured {
        sound: Vec<f32>,
        rgb: Vec<u8>,
        frames: u32,
    }

    impl ClipSink for Poured {
        fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError> {
            self.sound.extend_from_slice(samples);
            Ok(())
        }

        fn frames(&mut self, frames: Frames<'_>) -> Result<(), EngineError> {
            self.rgb.extend_from_slice(frames.rgb);
            self.frames += frames.count;
            Ok(())
        }
    }

    fn segments(spec: &RenderSpec, shards: u32) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for index in 0..shards {
            let chunks = chunk_range(spec.shape().chunks(), index, shards);
            let piece = Piece { sound: spec.audio && chunks.start == 0, chunks };
            let mut keep = |chunk: u32, bytes: Vec<u8>| {
                assert_eq!(chunk as usize, all.len());
                all.push(bytes);
                Ok(())
            };
            let mut sink = SegmentSink::new(spec, WEIGHTS, piece.chunks.start, &mut keep);
            let ended = paint(spec, &piece, &mut sink, &mut |_| true).expect("paints");
            assert_eq!(ended, Ended::Done);
        }
        all
    }

    /// Promise: however the chunks are cut into shards, the segments are the same, and the clip is that of one stream.
    #[test]
    fn segments_do_not_depend_on_how_a_clip_is_cut() {
        for (frames, audio) in [(1, true), (22, false), (90, true), (100, true)] {
            let spec = RenderSpec { frames, audio, ..order(Stage::Finish, 1, 1).spec };
            let chunks = spec.shape().chunks();
            let one = segments(&spec, 1);
            assert_eq!(one.len() as u32, chunks);
            for shards in 2..=chunks {
                assert!(one == segments(&spec, shards), "{shards} shards of {frames} frames");
            }
            let (mut whole, mut poured) = (Poured::default(), Poured::default());
            paint(&spec, &Piece::whole(&spec), &mut whole, &mut |_| true).expect("paints");
            for (chunk, segment) in (0..).zip(&one) {
                pour(&spec, WEIGHTS, chunk, segment, &mut poured).expect("is whole");
            }
            assert!(whole == poured && poured.frames == frames);
        }
    }

    #[test]
    fn a_foreign_or_damaged_segment_is_bad_input() {
        let spec = order(Stage::Finish, 1, 1).spec;
        let one = segments(&spec, 1);
        let other = RenderSpec { seed: spec.seed + 1, ..spec.clone() };
        let of = |spec: &RenderSpec, weights, chunk: u32, bytes: &[u8]| {
            let poured = pour(spec, weights, chunk, bytes, &mut Poured::default());
            assert!(matches!(poured, Err(EngineError::BadInput(_))), "{poured:?}");
        };
        let bad = |spec: &RenderSpec, chunk: u32, bytes: &[u8]| of(spec, WEIGHTS, chunk, bytes);
        of(&spec, ArtifactId([8; 32]), 0, &one[0]);
        bad(&other, 0, &one[0]);
        bad(&spec, 1, &one[0]);
        bad(&spec, 0, &one[0][..one[0].len() - 1]);
        bad(&spec, 0, &one[0][..HEAD_BYTES - 1]);
        bad(&spec, 0, &[&one[0][..], b"x"].concat());
        bad(&spec, 0, b"");
    }
}
