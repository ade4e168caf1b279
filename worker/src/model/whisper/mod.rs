//! Whisper tiny.en (OpenAI, MIT): what somebody says in up to 30 s of sound. For moderation alone.
//!
//! Reference: huggingface/transformers `src/transformers/models/whisper/modeling_whisper.py`; sampling is greedy, as of
//! openai/whisper `whisper/decoding.py` at temperature 0, without timestamps. Weights are stored as f16; the encoder's
//! layers, most of the work, compute in bf16 where the processor does, all else in f32. `scripts/setup` makes the folder (`model.safetensors`, `tokenizer.json`); `scripts/moderation/golden_sound.py`
//! makes the reference outputs, with another runtime. Runs on the CPU, on the thread of `speech.rs`.

mod network;
mod sound;

use super::weights::{Precision, Weights, Width};
use super::{Fault, ModelError};
use network::{Decoder, Encoder, Past};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

/// Sides of the network: those of tiny.en.
mod config {
    pub const MELS: i64 = 80;
    pub const WIDTH: i64 = 384;
    pub const HEADS: i64 = 6;
    pub const LAYERS: i64 = 4;
    pub const VOCABULARY: i64 = 51_864;
    /// Places of the encoder: 30 s, 50 a second.
    pub const PLACES: i64 = 1_500;
    /// Places of the decoder.
    pub const TOKENS: i64 = 448;
}

/// Ends a text.
const END: i64 = 50_256;
/// Begins one, without timestamps.
const BEGIN: [i64; 2] = [50_257, 50_362];
/// How likely this one is at the beginning says how likely nobody speaks.
const NO_SPEECH: i64 = 50_361;
/// Tokens of a text at most, as the reference has it: half of the decoder's places.
const TOKENS_MAX: usize = 224;
/// Never written: signs for music, speakers and applause, and all that is no text (`config.json` of the package).
const SUPPRESSED: [i64; 84] = [
    1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93, 357,
    366, 438, 532, 685, 705, 796, 930, 1058, 1220, 1267, 1279, 1303, 1343, 1377, 1391, 1635, 1782,
    1875, 2162, 2361, 2488, 3467, 4008, 4211, 4600, 4808, 5299, 5855, 6329, 7203, 9609, 9959,
    10563, 10786, 11420, 11709, 11907, 13163, 13697, 13700, 14808, 15306, 16410, 16791, 17992,
    19203, 19510, 20724, 22305, 22935, 27007, 30109, 30420, 33409, 34949, 40283, 40493, 40549,
    47282, 49146,
];
/// A text begins neither with a space alone nor with its end.
const NOT_FIRST: [i64; 2] = [220, END];

/// What was understood.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The tokens of the text.
    pub tokens: Vec<u32>,
    /// The text.
    pub text: String,
    /// The mean probability of its tokens, its end included; 0 if it did not end.
    pub confidence: f32,
    /// How likely nobody speaks.
    pub no_speech: f32,
}

/// The network with its vocabulary.
pub struct Whisper {
    mels: sound::Mels,
    encoder: Encoder,
    decoder: Decoder,
    /// 0 for what may be written, minus infinity for the rest: (v).
    allowed: Tensor,
    tokenizer: Tokenizer,
}

impl Whisper {
    /// Loads the folder.
    ///
    /// # Errors
    /// `ModelError` of stage `listen`.
    pub fn open(folder: &Path) -> Result<Whisper, ModelError> {
        Whisper::open_with(folder, Precision::of_processor())
    }

    fn open_with(folder: &Path, precision: Precision) -> Result<Whisper, ModelError> {
        let load = || -> Result<Whisper, Fault> {
            let weights = Weights::open(folder, Device::Cpu, precision, width)?;
            let root = weights.root();
            let encoder = Encoder::new(&root.at("encoder"))?;
            let decoder = Decoder::new(&root.at("decoder"))?;
            weights.finish(|_| false)?;
            let path = folder.join("tokenizer.json");
            let tokenizer =
                Tokenizer::from_file(&path).map_err(|error| Fault::file(&path, error))?;
            let mels = sound::Mels::new()?;
            Ok(Whisper { mels, encoder, decoder, allowed: allowed()?, tokenizer })
        };
        load().map_err(ModelError::at("listen"))
    }

    /// What is said in a sound of 16 kHz. Of more than 30 s only the first 30 are heard.
    ///
    /// # Errors
    /// `ModelError` of stage `listen`.
    pub fn hear(&self, samples: &[f32]) -> Result<Heard, ModelError> {
        self.decode(samples).map_err(ModelError::at("listen"))
    }

    fn decode(&self, samples: &[f32]) -> Result<Heard, Fault> {
        let sound = self.encoder.forward(&self.mels.of(samples)?)?;
        let mut past = Past::new(&self.decoder, &sound)?;
        let first = self.decoder.forward(&BEGIN, &mut past)?;
        // The first row answers to the beginning alone, the second to what the text begins with.
        let no_speech = first.f_get(0)?.f_softmax(-1, Kind::Float)?.f_double_value(&[NO_SPEECH])?;
        let mut logits = first.f_get(1)?;
        for token in NOT_FIRST {
            let _ = logits.f_get(token)?.f_fill_(f64::NEG_INFINITY)?;
        }
        let (mut tokens, mut sum, mut ended) = (Vec::new(), 0.0, false);
        while tokens.len() < TOKENS_MAX {
            let chances = logits.f_add(&self.allowed)?.f_log_softmax(-1, Kind::Float)?;
            let token = chances.f_argmax(-1, false)?.f_int64_value(&[])?;
            let chance = chances.f_double_value(&[token])?;
            if !chance.is_finite() {
                return Err(Fault::NotFinite("the probabilities of words"));
            }
            sum += chance;
            if token == END {
                ended = true;
                break;
            }
            tokens.push(token);
            logits = self.decoder.forward(&[token], &mut past)?.f_get(0)?;
        }
        let mean = (sum / (tokens.len() as f64 + 1.0)).exp() as f32;
        let tokens: Vec<u32> =
            tokens.into_iter().filter_map(|token| token.try_into().ok()).collect();
        let text = self.tokenizer.decode(&tokens, true);
        let text = text.map_err(|error| Fault::Input(error.to_string()))?.trim().to_owned();
        let confidence = if ended { mean } else { 0.0 };
        Ok(Heard { tokens, text, confidence, no_speech: no_speech as f32 })
    }
}

/// The type that each tensor is computed in.
fn width(key: &str) -> Width {
    let of_encoder = key.starts_with("encoder.layers.") || key.starts_with("encoder.conv");
    if of_encoder && !key.contains("norm") { Width::Narrow } else { Width::Wide }
}

/// What the sampler adds to the logits.
fn allowed() -> Result<Tensor, Fault> {
    let allowed = Tensor::f_zeros([config::VOCABULARY], (Kind::Float, Device::Cpu))?;
    for token in SUPPRESSED {
        let _ = allowed.f_get(token)?.f_fill_(f64::NEG_INFINITY)?;
    }
    let after = config::VOCABULARY - END - 1;
    let _ = allowed.f_narrow(0, END + 1, after)?.f_fill_(f64::NEG_INFINITY)?;
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn near(got: &Tensor, wanted: &Value, limit: f32, what: &str) {
        let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
        let got = Vec::<f32>::try_from(got).unwrap();
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(&wanted) {
            assert!((got - wanted).abs() <= limit, "{what}: {got} instead of {wanted}");
        }
    }

    /// Held against another runtime (`scripts/moderation/golden_sound.py`), part by part.
    #[test]
    fn speech_is_understood_as_the_reference_does() {
        understands(Precision::Full, 2e-3);
    }

    /// Nearly so: the same words.
    #[test]
    fn speech_is_understood_with_an_encoder_in_bf16() {
        understands(Precision::Mixed, 5e-2);
    }

    fn understands(precision: Precision, limit: f32) {
        let _inference = tch::no_grad_guard();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let folder = format!("{root}/.deps/models/moderation/whisper");
        let whisper = Whisper::open_with(Path::new(&folder), precision);
        let whisper = whisper.expect("`scripts/setup` fetches the nets");
        let golden = format!("{root}/coordinator/moderation/tests/golden");
        let text = std::fs::read_to_string(format!("{golden}/sound.json")).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        for name in ["harmless", "threat"] {
            let wanted = &all[name];
            let bytes = std::fs::read(format!("{golden}/{name}.wav")).unwrap();
            let pairs = bytes[44..].chunks_exact(2);
            let sample = |pair: &[u8]| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0;
            let sound: Vec<f32> = pairs.map(sample).collect();
            let mels = whisper.mels.of(&sound).unwrap();
            let some = mels.get(0).slice(0, 0, None, 16).select(1, 100);
            near(&some, &wanted["mels"], 2e-3, "mel bands");
            let encoded = whisper.encoder.forward(&mels).unwrap();
            near(&encoded.get(0).get(100).narrow(0, 0, 16), &wanted["encoded"], limit, "encoder");
            let heard = whisper.hear(&sound).unwrap();
            assert_eq!(serde_json::json!(heard.tokens), wanted["tokens"], "{heard:?}");
            let off = |got: f32, key: &str| (f64::from(got) - wanted[key].as_f64().unwrap()).abs();
            assert!(off(heard.no_speech, "no_speech") < f64::from(limit), "{heard:?}");
            assert!(off(heard.confidence, "confidence") < 2e-2, "{heard:?}");
        }
    }
}
