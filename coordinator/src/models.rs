//! The models of the farm: manifests, aliases, and what a request may ask of each.
//!
//! The table is fixed when the coordinator starts. It decides nothing about placement.

use std::collections::BTreeMap;
use zoetrope_protocol::clip::{ClipShape, Size};
use zoetrope_protocol::id::{Millis, ModelId};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::model::Manifest;
use zoetrope_sched::input::Decode;

/// The manifest of the model that ships with the project.
const TOYBOX: &str = include_str!("../../worker/models/toybox/manifest.json");

/// One model, its number and what is derived from its manifest.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its number in the journal: its place in the table.
    pub id: ModelId,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Canvases that it renders.
    pub canvases: Vec<Size>,
    /// Chunks that one decode shard takes; without it clips are decoded as they are finished.
    pub decode_chunks: Option<u16>,
}

/// All models and aliases.
#[derive(Clone, Debug)]
pub struct Models {
    models: Vec<Model>,
    aliases: Vec<(String, ModelId)>,
    default: ModelId,
}

/// Names that upstream's clients send; each means the default model unless the configuration says otherwise.
pub const UPSTREAM_NAMES: [&str; 2] = ["sora-2", "sora-2-pro"];
/// Upstream's dated names, and the names that they follow unless the configuration says otherwise.
const UPSTREAM_DATED: [(&str, &str); 3] = [
    ("sora-2-2025-10-06", "sora-2"),
    ("sora-2-2025-12-08", "sora-2"),
    ("sora-2-pro-2025-10-06", "sora-2-pro"),
];
/// The default model where it is there and the configuration names none.
const DEFAULT: &str = "h3";

/// Shards that the decode of one clip is cut into, at most: more than the workers that one clip should occupy.
pub const DECODE_SHARDS_MAX: u16 = 64;
/// Chunks that a decode shard may be given: those of the longest clip.
pub const DECODE_CHUNKS_MAX: u16 = 170;

/// A model table that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A manifest is not readable.
    #[error("manifest of model {model}: {reason}")]
    Manifest {
        /// Which.
        model: String,
        /// What is wrong, with the allowed values.
        reason: String,
    },
    /// The configuration speaks of a model that there is not.
    #[error("{key}: no such model; there are {known}")]
    Unknown {
        /// The key, and the model if it is the key's value.
        key: String,
        /// Those that there are.
        known: String,
    },
    /// An alias that would hide a model.
    #[error("aliases.{0} must be a name that no model has")]
    Hides(String),
}

impl Models {
    /// The table of `toybox` and further manifests (JSON texts). The default model is `h3` if present.
    ///
    /// # Errors
    /// `ModelsError` names the manifest and what is wrong in it.
    pub fn with(more: &[String]) -> Result<Models, ModelsError> {
        let mut models = Vec::new();
        for text in std::iter::once(TOYBOX).chain(more.iter().map(String::as_str)) {
            models.push(model(ModelId(models.len() as u16), text)?);
        }
        let table = Models { models, aliases: Vec::new(), default: ModelId(0) };
        let default = table.known("default_model", DEFAULT).unwrap_or(ModelId(0));
        Models { default, ..table }.named("", &BTreeMap::new())
    }

    /// The same table with this default model and these aliases. An empty name means the default: of the default model
    /// that of [`Models::with`], of an alias the default model.
    ///
    /// # Errors
    /// `Unknown` names a model that is not in the table; `Hides` an alias that is a model's name.
    pub fn named(
        mut self,
        default: &str,
        aliases: &BTreeMap<String, String>,
    ) -> Result<Models, ModelsError> {
        if !default.is_empty() {
            self.default = self.known(&format!("default_model = {default}"), default)?;
        }
        let meant = |name: &str| match aliases.get(name).map(String::as_str) {
            None | Some("") => Ok(self.default),
            Some(model) => self.known(&format!("aliases.{name} = {model}"), model),
        };
        let same = |name| (name, name);
        let dated = UPSTREAM_DATED.into_iter().filter(|(name, _)| !aliases.contains_key(*name));
        let own = aliases.keys().map(String::as_str).filter(|name| !UPSTREAM_NAMES.contains(name));
        let names = UPSTREAM_NAMES.into_iter().map(same).chain(dated).chain(own.map(same));
        let mut all = Vec::new();
        for (name, follows) in names {
            let hidden = self.models.iter().any(|model| model.manifest.id == name);
            match aliases.get(name).filter(|model| !model.is_empty()) {
                Some(_) if hidden => return Err(ModelsError::Hides(name.to_owned())),
                // A model that has one of upstream's names goes before what nobody asked for.
                None if hidden => {}
                _ => all.push((name.to_owned(), meant(follows)?)),
            }
        }
        self.aliases = all;
        Ok(self)
    }

    /// The same table, where these models have decode shards of so many chunks.
    ///
    /// # Errors
    /// `Unknown` names a model that is not in the table.
    pub fn cut(mut self, decode_chunks: &BTreeMap<String, u16>) -> Result<Models, ModelsError> {
        for (name, chunks) in decode_chunks {
            let id = self.known(&format!("decode_chunks.{name}"), name)?;
            self.models[usize::from(id.0)].decode_chunks = Some(*chunks);
        }
        Ok(self)
    }

    /// The number of the model that a key of the configuration speaks of.
    ///
    /// # Errors
    /// `Unknown` names the key and the models that there are.
    pub fn known(&self, key: &str, name: &str) -> Result<ModelId, ModelsError> {
        let found = self.models.iter().find(|model| model.manifest.id == name);
        found.map(|model| model.id).ok_or_else(|| {
            let ids = self.models.iter().map(|model| model.manifest.id.clone());
            let known = ids.collect::<Vec<_>>().join(", ");
            ModelsError::Unknown { key: key.to_owned(), known }
        })
    }

    /// All models, in the order of their numbers.
    pub fn all(&self) -> &[Model] {
        &self.models
    }

    /// All aliases and what they mean.
    pub fn aliases(&self) -> &[(String, ModelId)] {
        &self.aliases
    }

    /// The model of a job that names none.
    pub fn default(&self) -> &Model {
        &self.models[usize::from(self.default.0)]
    }

    /// All names that a request may use: models first, then aliases.
    pub fn names(&self) -> Vec<String> {
        let models = self.models.iter().map(|m| m.manifest.id.clone());
        models.chain(self.aliases.iter().map(|(alias, _)| alias.clone())).collect()
    }

    /// A model by its name or an alias of it.
    pub fn find(&self, name: &str) -> Option<&Model> {
        let alias = || self.aliases.iter().find(|(alias, _)| alias == name).map(|(_, id)| *id);
        self.models
            .iter()
            .find(|m| m.manifest.id == name)
            .or_else(|| alias().map(|id| &self.models[usize::from(id.0)]))
    }
}

/// Sizes of upstream's clients: every model delivers them, scaled where it does not render them.
pub const UPSTREAM_SIZES: [Size; 4] = [
    Size { width: 720, height: 1280 },
    Size { width: 1280, height: 720 },
    Size { width: 1024, height: 1792 },
    Size { width: 1792, height: 1024 },
];

impl Model {
    /// Sizes that it does not render but the farm delivers: those of upstream for which it has a canvas.
    pub fn scaled_sizes(&self) -> Vec<Size> {
        let scaled = |size: &Size| !self.canvases.contains(size);
        UPSTREAM_SIZES
            .into_iter()
            .filter(scaled)
            .filter(|size| canvas_near(*size, &self.canvases).is_some())
            .collect()
    }

    /// The canvas that is rendered for a size; none if the model does not accept the size.
    pub fn canvas_of(&self, size: Size) -> Option<Size> {
        if self.canvases.contains(&size) {
            return Some(size);
        }
        UPSTREAM_SIZES.contains(&size).then(|| canvas_near(size, &self.canvases)).flatten()
    }

    /// The stages of a job, in order. Without decode shards `Finish` decodes and finishes in one stream, and no frame
    /// leaves memory.
    pub fn chain(&self) -> Vec<Stage> {
        let own = |stage: &Stage| *stage != Stage::Decode || self.decode_chunks.is_some();
        Stage::ALL.into_iter().filter(own).collect()
    }

    /// Whether this stage only finishes what decode shards made.
    pub fn decodes_apart(&self, stage: Stage) -> bool {
        stage == Stage::Finish && self.decode_chunks.is_some()
    }

    /// How the decode of a clip is cut.
    pub fn decode(&self, shape: ClipShape) -> Decode {
        let chunks = u16::try_from(shape.chunks()).unwrap_or(u16::MAX);
        let each = self.decode_chunks.unwrap_or(chunks).max(1);
        Decode { chunks, shards: chunks.div_ceil(each).clamp(1, DECODE_SHARDS_MAX) }
    }

    /// First guess of the GPU time of each stage of the chain, before anything was measured: 60 s for a step of
    /// a billion row pairs, in proportion.
    pub fn expected(&self, shape: ClipShape, steps: u32) -> Vec<Millis> {
        let rows = shape.video_rows() + shape.audio_rows();
        let step = 20 + rows * rows / 30_000;
        let chunks = u64::from(shape.chunks());
        let of = |stage: Stage| match stage {
            Stage::Encode => Millis(200),
            Stage::Denoise => Millis(step * u64::from(steps)),
            Stage::Decode => Millis(400 * chunks),
            // What is decoded elsewhere is only encoded here.
            Stage::Finish if self.decodes_apart(stage) => Millis(100 * chunks),
            Stage::Finish => Millis(500 * chunks),
        };
        self.chain().into_iter().map(of).collect()
    }
}

/// Of the canvases of the same shape within 3 % the nearest in area, then in shape, then the first.
fn canvas_near(size: Size, canvases: &[Size]) -> Option<Size> {
    // A quotient of 1 or more, as two integers: larger and smaller.
    let quotient = |a: u128, b: u128| (a.max(b), a.min(b));
    let shape = |canvas: Size| {
        quotient(
            u128::from(size.width) * u128::from(canvas.height),
            u128::from(canvas.width) * u128::from(size.height),
        )
    };
    let area = |canvas: Size| quotient(size.area().into(), canvas.area().into());
    let nearer = |a: (u128, u128), b: (u128, u128)| (a.0 * b.1).cmp(&(b.0 * a.1));
    let alike = |canvas: &Size| {
        let (larger, smaller) = shape(*canvas);
        larger * 100 <= smaller * 103
    };
    canvases
        .iter()
        .copied()
        .filter(alike)
        .min_by(|a, b| nearer(area(*a), area(*b)).then_with(|| nearer(shape(*a), shape(*b))))
}

fn model(id: ModelId, text: &str) -> Result<Model, ModelsError> {
    let manifest: Manifest = serde_json::from_str(text).map_err(|e| ModelsError::Manifest {
        model: format!("#{}", id.0),
        reason: e.to_string(),
    })?;
    let bad = |reason: String| ModelsError::Manifest { model: manifest.id.clone(), reason };
    let canvases = manifest
        .sizes
        .iter()
        .map(|size| {
            size.parse::<Size>().ok().filter(|size| size.is_canvas()).ok_or_else(|| {
                bad(format!("size {size}: sides must be multiples of 32, as in 288x512"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Model { id, canvases, manifest, decode_chunks: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Size {
        text.parse().expect("a size of a test")
    }

    /// Section 3, rule 4 of the API.
    #[test]
    fn upstream_sizes_are_rendered_on_the_nearest_canvas() {
        let models = Models::with(&[]).expect("the built-in manifest");
        let toybox = models.find("sora-2").expect("an alias");
        assert_eq!(toybox.scaled_sizes(), UPSTREAM_SIZES);
        for (asked, canvas) in [
            ("720x1280", Some("288x512")),
            ("1024x1792", Some("288x512")),
            ("1280x720", Some("512x288")),
            ("1792x1024", Some("512x288")),
            ("160x288", Some("160x288")),
            ("640x360", None),
            ("720x720", None),
        ] {
            assert_eq!(toybox.canvas_of(size(asked)), canvas.map(size), "{asked}");
        }
    }

    /// Promise: a model that is not named decodes as it finishes; another's clips are cut as its key says.
    #[test]
    fn a_key_cuts_the_decode_of_a_model() {
        let models = Models::with(&[]).expect("the built-in manifest");
        let shape = ClipShape { canvas: size("288x512"), asked_frames: 240 };
        let toybox = models.default();
        assert_eq!(toybox.chain(), [Stage::Encode, Stage::Denoise, Stage::Finish]);
        assert_eq!(toybox.decode(shape), Decode { chunks: 14, shards: 1 });
        let cut = |chunks| models.clone().cut(&[("toybox".to_owned(), chunks)].into());
        let four = cut(4).expect("there is one");
        assert_eq!(four.default().chain(), Stage::ALL);
        assert_eq!(four.default().expected(shape, 4).len(), 4);
        assert_eq!(four.default().decode(shape), Decode { chunks: 14, shards: 4 });
        assert_eq!(cut(170).expect("one").default().decode(shape).shards, 1);
        let unknown = models.clone().cut(&[("tybox".to_owned(), 4)].into());
        let told = unknown.expect_err("there is none").to_string();
        assert_eq!(told, "decode_chunks.tybox: no such model; there are toybox");
    }

    /// Promise (section 3 of the API): the default model and the aliases are what the configuration says.
    #[test]
    fn aliases_mean_what_the_configuration_says() {
        let h3 = TOYBOX.replacen("\"toybox\"", "\"h3\"", 1);
        let other = TOYBOX.replacen("\"toybox\"", "\"other\"", 1);
        let models = Models::with(&[other, h3]).expect("manifests");
        let meant = |models: &Models, name: &str| {
            models.find(name).map(|model| model.manifest.id.clone()).unwrap_or_default()
        };
        assert_eq!(models.default().manifest.id, "h3");
        assert_eq!(models.names().len(), 3 + 5);
        assert!(models.aliases().iter().all(|(name, _)| meant(&models, name) == "h3"));

        let aliases = [("sora-2", "other"), ("sora-2-2025-12-08", "h3"), ("fast", "")];
        let aliases = aliases.map(|(name, model)| (name.to_owned(), model.to_owned())).into();
        let set = models.clone().named("toybox", &aliases).expect("all are known");
        for (name, model) in [
            ("sora-2", "other"),
            ("sora-2-2025-10-06", "other"),
            ("sora-2-2025-12-08", "h3"),
            ("sora-2-pro-2025-10-06", "toybox"),
            ("fast", "toybox"),
        ] {
            assert_eq!(meant(&set, name), model, "{name}");
        }
        assert_eq!(set.default().manifest.id, "toybox");

        let refused = |default: &str, alias: &str, model: &str| {
            let aliases = [(alias.to_owned(), model.to_owned())].into();
            models.clone().named(default, &aliases).expect_err("refused").to_string()
        };
        let known = "no such model; there are toybox, other, h3";
        assert_eq!(refused("h4", "fast", ""), format!("default_model = h4: {known}"));
        assert_eq!(refused("", "fast", "sora-2"), format!("aliases.fast = sora-2: {known}"));
        assert_eq!(refused("", "h3", "toybox"), "aliases.h3 must be a name that no model has");
    }

    #[test]
    fn shape_comes_before_area_and_area_before_nearer_shape() {
        let near = |asked: &str, canvases: &[&str]| {
            let canvases: Vec<Size> = canvases.iter().map(|c| size(c)).collect();
            canvas_near(size(asked), &canvases)
        };
        // 1.03 is still alike, 1.031 is not.
        assert_eq!(near("1000x1000", &["1030x1000"]), Some(size("1030x1000")));
        assert_eq!(near("1000x1000", &["1031x1000"]), None);
        assert_eq!(near("1000x1000", &["1000x1030", "100x100"]), Some(size("1000x1030")));
        // Half and double are equally far in area: the first one.
        assert_eq!(near("200x200", &["100x100", "400x400"]), Some(size("100x100")));
        assert_eq!(near("100x100", &["99x100", "100x99", "99x101"]), Some(size("99x101")));
    }
}
