//! Listens to the sound of a clip: finds where somebody speaks, and has only that understood.
//!
//! Silence and noise never reach the recogniser, which would invent words, and cost next to nothing. The recogniser
//! is brought by the caller, because it needs more than this package has. Judges nothing.

use crate::models::{ModelsError, NetName};
use crate::nets::NetError;
use crate::nets::silero::{Silero, WINDOW};
use crate::score;
use rten::ThreadPool;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::clip::SAMPLE_RATE;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{NetId, SCORE_ONE, Utterance, WORDS_BYTES_MAX};

/// Samples a second of what is listened to.
pub const RATE: u32 = 16_000;
/// The longest stretch that is understood at once: the recogniser sees 30 s.
const STRETCH_MAX: usize = 28 * RATE as usize;
/// Stretches with a shorter pause between them are understood as one: words need their neighbours.
const PAUSE_MAX: usize = 2 * RATE as usize;

/// Listens to a clip. Blocks, for seconds where somebody speaks.
pub trait Listener: Send + Sync {
    /// Who listens: part of every record.
    fn nets(&self) -> Vec<NetId>;

    /// What is said in a sound of [`RATE`], one channel.
    ///
    /// # Errors
    /// `NetError`: it is not known what is said, which is never a pass.
    fn listen(&self, sound: &[f32]) -> Result<Vec<Utterance>, NetError>;
}

/// What is understood of a stretch of speech.
#[derive(Clone, Debug, PartialEq)]
pub struct Words {
    /// The words.
    pub text: String,
    /// The mean probability of a token; 0 if it went on without an end.
    pub confidence: f32,
    /// How likely nobody speaks.
    pub no_speech: f32,
}

/// Understands speech. Blocks.
pub trait Recognizer: Send + Sync {
    /// What is said in a sound of [`RATE`], at most 30 s.
    ///
    /// # Errors
    /// `NetError`.
    fn words(&self, sound: &[f32]) -> Result<Words, NetError>;
}

/// Voice activity by Silero, words by a recogniser.
pub struct NetListener {
    voice: Silero,
    recognizer: Box<dyn Recognizer>,
    nets: Vec<NetId>,
}

impl NetListener {
    /// Loads the voice net; the recogniser's own files must have been held against `digests` by its maker.
    ///
    /// # Errors
    /// `ModelsError` says what is missing and how to get it.
    pub fn load(
        folder: &Path,
        digests: &BTreeMap<NetName, ArtifactId>,
        recognizer: Box<dyn Recognizer>,
    ) -> Result<NetListener, ModelsError> {
        let threads = Arc::new(ThreadPool::with_num_threads(1));
        let nets = NetName::OF_SOUND.into_iter().filter_map(|net| {
            Some(NetId { name: net.word().to_owned(), sha256: *digests.get(&net)? })
        });
        let nets = nets.collect();
        Ok(NetListener { voice: Silero::load(folder, digests, &threads)?, recognizer, nets })
    }
}

impl Listener for NetListener {
    fn nets(&self) -> Vec<NetId> {
        self.nets.clone()
    }

    fn listen(&self, sound: &[f32]) -> Result<Vec<Utterance>, NetError> {
        let mut utterances = Vec::new();
        for (start, end) in stretches(&self.voice.voice(sound)?, sound.len()) {
            let words = self.recognizer.words(&sound[start..end])?;
            utterances.push(Utterance {
                start_ms: millis(start),
                end_ms: millis(end),
                words: cut(words.text),
                confidence: score(words.confidence),
                no_speech: score(words.no_speech),
            });
        }
        Ok(utterances)
    }
}

/// The tests' stub: knows nothing but one marked tone, of 1 kHz, and takes it for a threat.
///
/// A policy must ask for it (`listener = "card"`), so it cannot stand in for the nets by accident.
#[derive(Clone, Copy, Debug, Default)]
pub struct CardListener;

impl CardListener {
    /// What it understands.
    pub const WORDS: &str = "I will kill you.";

    /// What its records say.
    pub fn net_id() -> NetId {
        NetId { name: "card".to_owned(), sha256: ArtifactId([0; 32]) }
    }
}

impl Listener for CardListener {
    fn nets(&self) -> Vec<NetId> {
        vec![CardListener::net_id()]
    }

    fn listen(&self, sound: &[f32]) -> Result<Vec<Utterance>, NetError> {
        let tenth = RATE as usize / 10;
        let marked = |(_, part): &(usize, &[f32])| is_tone(part);
        let first = sound.chunks_exact(tenth).enumerate().find(marked);
        Ok(first.map_or_else(Vec::new, |(n, _)| {
            vec![Utterance {
                start_ms: millis(n * tenth),
                end_ms: millis((n + 1) * tenth),
                words: CardListener::WORDS.to_owned(),
                confidence: SCORE_ONE,
                no_speech: 0,
            }]
        }))
    }
}

/// Whether nearly all of a loud sound is a tone of 1 kHz.
fn is_tone(part: &[f32]) -> bool {
    let turn = std::f32::consts::TAU * 1_000.0 / RATE as f32;
    let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
    for (n, sample) in part.iter().enumerate() {
        sine += sample * (turn * n as f32).sin();
        cosine += sample * (turn * n as f32).cos();
        power += sample * sample;
    }
    let length = part.len() as f32;
    power / length > 0.05 && 2.0 * (sine * sine + cosine * cosine) / length > 0.9 * power
}

/// The sound of a clip, stereo of [`SAMPLE_RATE`], as one channel of [`RATE`].
///
/// The middle of both channels, unless they cancel each other out there: then the left one.
pub fn mono(stereo: &[f32]) -> Vec<f32> {
    const { assert!(SAMPLE_RATE == 2 * RATE) };
    let pairs = || stereo.chunks_exact(2);
    let power = |value: fn(&[f32]) -> f32| pairs().map(value).map(|x| x * x).sum::<f32>();
    let middle: fn(&[f32]) -> f32 = |pair| (pair[0] + pair[1]) / 2.0;
    let left: fn(&[f32]) -> f32 = |pair| pair[0];
    let cancelled = power(middle) < power(|pair| (pair[0] - pair[1]) / 2.0) / 4.0;
    let one: Vec<f32> = pairs().map(if cancelled { left } else { middle }).collect();
    let filter = low_pass();
    let half = filter.len() / 2;
    let at = |n: usize| -> f32 {
        let near = filter.iter().enumerate();
        let part = |(k, weight): (usize, &f32)| {
            let sample = (n + k).checked_sub(half).and_then(|at| one.get(at));
            sample.map_or(0.0, |sample| sample * weight)
        };
        near.map(part).sum()
    };
    (0..one.len()).step_by(2).map(at).collect()
}

/// Lets half of the band pass: 63 taps, Hamming; 7 kHz lose under 0.1 dB, 9 kHz over 50.
fn low_pass() -> Vec<f32> {
    const TAPS: i32 = 63;
    let half = TAPS / 2;
    let tap = |n: i32| {
        let (x, turn) = ((n - half) as f32, std::f32::consts::TAU * n as f32 / (TAPS - 1) as f32);
        let sinc = if n == half {
            0.5
        } else {
            (x * std::f32::consts::PI / 2.0).sin() / (x * std::f32::consts::PI)
        };
        sinc * (0.54 - 0.46 * turn.cos())
    };
    (0..TAPS).map(tap).collect()
}

/// From which probability on a window begins speech, and below which it ends it: as its makers have it.
const BEGINS: f32 = 0.5;
const ENDS: f32 = 0.35;
/// Windows below that which end speech: 96 ms.
const ENDS_AFTER: usize = 3;
/// Windows of the shortest speech: 256 ms.
const SHORTEST: usize = 8;
/// Samples that are added on both sides: consonants are soft.
const PAD: usize = 2 * WINDOW;

/// Where somebody speaks, in samples: in order, apart, none longer than [`STRETCH_MAX`].
///
/// Of a short stretch most windows must be speech: a blow rings on as long as a short word does, below [`BEGINS`]. Of a
/// longer one [`SHORTEST`] are enough, so that what is said before such a sound is heard.
fn stretches(voice: &[f32], length: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut began, mut quiet) = (None, 0);
    let is_speech = |stretch: &[f32]| {
        let spoken = stretch.iter().filter(|voice| **voice >= BEGINS).count();
        stretch.len() >= SHORTEST && spoken >= SHORTEST.min(stretch.len() / 2 + 1)
    };
    // A last, silent stretch closes what is open.
    let silence = std::iter::repeat_n(&0.0, ENDS_AFTER);
    for (window, likely) in voice.iter().chain(silence).enumerate() {
        match began {
            None if *likely >= BEGINS => (began, quiet) = (Some(window), 0),
            Some(first) if *likely < ENDS => {
                quiet += 1;
                if quiet == ENDS_AFTER {
                    let last = window + 1 - ENDS_AFTER;
                    if is_speech(&voice[first..last]) {
                        found.push((first * WINDOW, last * WINDOW));
                    }
                    began = None;
                }
            }
            _ => quiet = 0,
        }
    }
    join(found, length)
}

fn join(found: Vec<(usize, usize)>, length: usize) -> Vec<(usize, usize)> {
    let mut joined: Vec<(usize, usize)> = Vec::new();
    for (start, end) in found {
        let (start, end) = (start.saturating_sub(PAD), (end + PAD).min(length));
        match joined.last_mut() {
            Some(last) if start <= last.1 + PAUSE_MAX && end - last.0 <= STRETCH_MAX => {
                last.1 = end
            }
            Some(last) => {
                let start = start.max(last.1);
                joined.push((start, end));
            }
            None => joined.push((start, end)),
        }
    }
    let pieces = |(start, end): (usize, usize)| {
        (start..end).step_by(STRETCH_MAX).map(move |from| (from, end.min(from + STRETCH_MAX)))
    };
    joined.into_iter().flat_map(pieces).filter(|(start, end)| end > start).collect()
}

fn millis(samples: usize) -> u32 {
    (samples as u64 * 1_000 / u64::from(RATE)) as u32
}

/// The length of a sound in whole milliseconds.
pub fn length_ms(sound: &[f32]) -> u32 {
    millis(sound.len())
}

fn cut(mut text: String) -> String {
    let most = (0..=WORDS_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(most);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn tone(hertz: f32, seconds: f32, rate: u32) -> Vec<f32> {
        let turn = std::f32::consts::TAU * hertz / rate as f32;
        (0..(seconds * rate as f32) as usize).map(|n| 0.5 * (turn * n as f32).sin()).collect()
    }

    fn power(sound: &[f32]) -> f32 {
        sound.iter().map(|x| x * x).sum::<f32>() / sound.len() as f32
    }

    /// Promise: what can be heard stays, what 16 kHz cannot hold does not fold back, and channels of opposite sign
    /// do not hide each other.
    #[test]
    fn stereo_becomes_one_channel_of_half_the_rate() {
        let both = |sound: Vec<f32>, sign: f32| {
            sound.into_iter().flat_map(|x| [x, sign * x]).collect::<Vec<_>>()
        };
        for sign in [1.0, -1.0] {
            let heard = mono(&both(tone(1_000.0, 0.5, SAMPLE_RATE), sign));
            assert_eq!(heard.len(), 8_000);
            assert!((power(&heard) - 0.125).abs() < 0.005, "{}", power(&heard));
            assert!(is_tone(&heard[1_600..3_200]));
        }
        let folded = mono(&both(tone(12_000.0, 0.5, SAMPLE_RATE), 1.0));
        assert!(power(&folded[100..7_900]) < 1e-6, "{}", power(&folded[100..7_900]));
    }

    #[test]
    fn speech_is_long_enough_and_joined_over_short_pauses() {
        let second = 31;
        let windows = |parts: &[(f32, usize)]| -> Vec<f32> {
            parts.iter().flat_map(|(voice, count)| std::iter::repeat_n(*voice, *count)).collect()
        };
        let found = |parts: &[(f32, usize)]| {
            let voice = windows(parts);
            stretches(&voice, voice.len() * WINDOW)
        };
        assert!(found(&[(0.1, 50)]).is_empty());
        assert!(found(&[(0.1, 10), (0.9, 7), (0.1, 20)]).is_empty(), "too short");
        assert_eq!(
            found(&[(0.1, 10), (0.9, 8), (0.1, 20)]),
            [(8 * WINDOW, 20 * WINDOW)],
            "with two windows on each side"
        );
        assert!(found(&[(0.1, 10), (0.7, 4), (0.4, 4), (0.1, 20)]).is_empty(), "it rings on");
        assert_eq!(found(&[(0.1, 10), (0.7, 5), (0.4, 4), (0.1, 20)]).len(), 1, "mostly speech");
        assert_eq!(found(&[(0.9, 8), (0.4, 3 * second)]).len(), 1, "a word before a long murmur");
        assert_eq!(found(&[(0.9, 20)]), [(0, 20 * WINDOW)], "to the last sample");
        assert_eq!(found(&[(0.9, 20), (0.1, second), (0.9, 20)]).len(), 1, "a short pause");
        assert_eq!(found(&[(0.9, 20), (0.1, 3 * second), (0.9, 20)]).len(), 2, "a long one");
        let long = found(&[(0.9, 70 * second)]);
        assert_eq!(long.len(), 3);
        assert!(long.iter().all(|(start, end)| end - start <= STRETCH_MAX));
        assert!(long.windows(2).all(|pair| pair[0].1 == pair[1].0), "nothing is skipped");
    }

    struct Counting(Arc<AtomicUsize>);

    impl Recognizer for Counting {
        fn words(&self, _: &[f32]) -> Result<Words, NetError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Words { text: "words".into(), confidence: 0.9, no_speech: 0.0 })
        }
    }

    /// Promise: silence, noise and blows never reach the recogniser.
    #[test]
    fn only_speech_is_understood() {
        let policy = crate::Policy::built_in().expect("the policy");
        let calls = Arc::new(AtomicUsize::new(0));
        let recognizer = Box::new(Counting(calls.clone()));
        let folder = crate::nets::tests::folder();
        let listener = NetListener::load(&folder, &policy.models, recognizer)
            .expect("`scripts/setup` fetches the nets");
        let blows: Vec<f32> = (0..48_000usize)
            .map(|n| {
                let since = (n % 12_000) as f32 / 16_000.0;
                0.8 * (-20.0 * since).exp() * (since * 1_200.0).sin()
            })
            .collect();
        let noise: Vec<f32> = (0..48_000u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0 - 0.5)
            .collect();
        for sound in [vec![0.0; 48_000], blows, noise, tone(440.0, 3.0, RATE), vec![]] {
            assert_eq!(listener.listen(&sound).expect("listens"), []);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 0);
    }
}
