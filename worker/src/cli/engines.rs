//! From flags to an engine: which models this worker serves, and how the gpu thread opens them.

use super::memory;
use super::{ClassifierKind, EngineArgs, EngineKind, ModerationArgs, ToolArgs};
use crate::asked::Alarm;
use crate::emulated::{ClipMode, EmulatedEngine, Emulation};
use crate::engine::{Engine, EngineError};
use crate::fingerprint;
use crate::finish::{ClipCache, FinishSettings, Finisher, Programs};
use crate::gpu::OpenEngine;
use crate::model::{self, h3::H3Engine};
use crate::sight;
use crate::speech::Speech;
use anyhow::{Context, bail};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tch::Device;
use zoetrope_moderation::models::{self as nets, NetName};
use zoetrope_moderation::{CardClassifier, CardListener, Classifier, Listener, NetListener};
use zoetrope_protocol::Stage;
use zoetrope_protocol::model::{Manifest, Steps};
use zoetrope_protocol::wire::{NAME_BYTES_MAX, ServedModel};

type Open = dyn Fn(&str) -> Result<Box<dyn Engine>, EngineError> + Send + Sync;

/// What the flags of the engine come to.
pub struct Engines {
    /// What the worker announces.
    pub served: Vec<ServedModel>,
    /// What a bare render takes its defaults from.
    pub manifests: Vec<Manifest>,
    /// `cpu`, or the driver's name of the GPU.
    pub gpu_kind: String,
    /// Memory of the device.
    pub vram_bytes: u64,
    /// The driver's id of the GPU, and of the GPU instance if the device is a part of one; empty where there is none.
    pub uuid: String,
    pub instance: String,
    emulation: Option<Arc<Emulation>>,
    open: Arc<Open>,
}

impl Engines {
    /// Reads the model folders or the emulation file. `data`: where digests of model files are kept, for the next start.
    pub fn new(args: &EngineArgs, data: Option<&Path>) -> anyhow::Result<Self> {
        match (args.engine, &args.emulated) {
            (EngineKind::Emulated, Some(file)) => Self::emulated(file),
            (EngineKind::Emulated, None) => {
                bail!("`--engine emulated` needs `--emulated FILE.toml`")
            }
            (EngineKind::H3, Some(_)) => {
                bail!("`--emulated FILE.toml` is only for `--engine emulated`")
            }
            (EngineKind::H3, None) => Self::h3(args, data),
        }
    }

    fn emulated(file: &Path) -> anyhow::Result<Self> {
        let emulation = Arc::new(Emulation::read(file)?);
        let manifest = |id: &String| Manifest {
            id: id.clone(),
            family: "emulated".into(),
            license: "none".into(),
            sizes: vec!["288x512".into()],
            default_size: "288x512".into(),
            seconds: vec!["4".into()],
            default_seconds: "4".into(),
            fps: zoetrope_protocol::clip::FPS,
            generate_audio: true,
            num_inference_steps: Steps { default: 4, min: 1, max: 64 },
            world: Default::default(),
        };
        Ok(Engines {
            served: emulation.served(),
            manifests: emulation.models.iter().map(manifest).collect(),
            gpu_kind: emulation.gpu_kind.clone(),
            vram_bytes: emulation.vram_bytes,
            uuid: String::new(),
            instance: String::new(),
            emulation: Some(emulation.clone()),
            open: Arc::new(move |_| Ok(Box::new(EmulatedEngine::new(emulation.clone())))),
        })
    }

    fn h3(args: &EngineArgs, data: Option<&Path>) -> anyhow::Result<Self> {
        if args.model.is_empty() {
            bail!("no model: give `--model FOLDER`, such as `--model worker/models/toybox`");
        }
        let device = device(&args.device)?;
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        let threads = args.threads.map_or(cores, |threads| threads as usize);
        let book = data.map(|data| data.join("digests.json"));
        let (mut served, mut manifests, mut folders) = (vec![], vec![], HashMap::new());
        for folder in &args.model {
            let manifest = model::manifest(folder)?;
            if manifest.family != "h3" {
                let (id, family) = (&manifest.id, &manifest.family);
                bail!("model `{id}` in {} is of family `{family}`, not `h3`", folder.display());
            }
            H3Engine::check(folder)?;
            let fingerprint = fingerprint::of(folder, book.as_deref())?;
            if folders.insert(manifest.id.clone(), (folder.clone(), fingerprint)).is_some() {
                bail!("two of the --model folders have the model `{}`", manifest.id);
            }
            served.push(ServedModel {
                id: manifest.id.clone(),
                fingerprint,
                stages: Stage::ALL.to_vec(),
            });
            manifests.push(manifest);
        }
        let seen = Card::of(device, args.vram_bytes)?;
        let open = move |model: &str| -> Result<Box<dyn Engine>, EngineError> {
            let (folder, fingerprint) = folders
                .get(model)
                .ok_or_else(|| EngineError::BadInput(format!("no model `{model}`")))?;
            Ok(Box::new(H3Engine::open(folder, *fingerprint, device, threads)?))
        };
        Ok(Engines {
            served,
            manifests,
            gpu_kind: seen.name,
            vram_bytes: seen.memory_bytes,
            uuid: seen.uuid,
            instance: seen.instance,
            emulation: None,
            open: Arc::new(open),
        })
    }

    /// Announces only these of the stages; of an empty list all.
    pub fn serve_only(&mut self, stages: &[Stage]) -> anyhow::Result<()> {
        for model in self.served.iter_mut().filter(|_| !stages.is_empty()) {
            model.stages.retain(|stage| stages.contains(stage));
            if model.stages.is_empty() {
                bail!("--stages: the emulation takes none of these stages");
            }
        }
        Ok(())
    }

    /// Whether it makes clips at all.
    pub fn finishes(&self) -> bool {
        self.served.iter().any(|model| model.stages.contains(&Stage::Finish))
    }

    /// For a gpu thread.
    pub fn opener(&self) -> OpenEngine {
        let open = self.open.clone();
        Box::new(move |model| open(model))
    }

    /// For this thread.
    pub fn open(&self, model: &str) -> anyhow::Result<Box<dyn Engine>> {
        Ok((self.open)(model)?)
    }

    /// How clips are made.
    pub fn finisher(
        &self,
        tools: &ToolArgs,
        temp: &Path,
        judges: Option<Judges>,
    ) -> anyhow::Result<Finisher> {
        std::fs::create_dir_all(temp)
            .with_context(|| format!("cannot make the folder {}", temp.display()))?;
        let programs = Programs::find(&tools.ffmpeg, &tools.ffprobe, temp)?;
        let settings = FinishSettings::new(programs, temp.into());
        let (classifier, listener) =
            judges.map(|judges| (judges.classifier, judges.listener)).unzip();
        let settings = Arc::new(FinishSettings { classifier, listener, ..settings });
        Ok(match self.emulation.as_ref().map(|emulation| emulation.clip) {
            Some(ClipMode::Cached) => Finisher::Cached(Arc::new(ClipCache::new(settings))),
            _ => Finisher::Ffmpeg(settings),
        })
    }
}

/// Who scores a clip.
pub struct Judges {
    classifier: Arc<dyn Classifier>,
    listener: Arc<dyn Listener>,
}

/// Who scores sampled frames and listens: the nets in a folder, or the stubs of the tests.
///
/// `alarm` is rung if one of their threads dies.
///
/// # Errors
/// Which net is missing, and how to get it.
pub fn judges(args: &ModerationArgs, alarm: &Alarm) -> anyhow::Result<Judges> {
    if args.classifier == ClassifierKind::Card {
        tracing::warn!("clips are scored by the tests' stubs: only a test's policy takes that");
        let (classifier, listener) = (Arc::new(CardClassifier), Arc::new(CardListener));
        return Ok(Judges { classifier, listener });
    }
    let folder = nets::find(args.moderation.as_deref());
    // The coordinator's policy says which bytes the nets must have; the record says which they have.
    let mut digests = nets::digests(&folder, &NetName::OF_FRAMES)?;
    digests.extend(nets::digests(&folder, &NetName::OF_SOUND)?);
    let classifier = Arc::new(sight::classifier(&folder, &digests, alarm)?);
    let speech = Speech::start(folder.join("whisper"), alarm).map_err(anyhow::Error::msg)?;
    let listener = Arc::new(NetListener::load(&folder, &digests, Box::new(speech))?);
    Ok(Judges { classifier, listener })
}

/// From `--device` to torch's name for it.
fn device(text: &str) -> anyhow::Result<Device> {
    let cuda = tch::Cuda::is_available();
    match text {
        "auto" => {
            if !cuda && driver_lists_a_gpu() {
                tracing::warn!(
                    "the driver lists a GPU and this libtorch sees none, so the CPU renders: \
                     run scripts/setup --cuda, and build again"
                );
            }
            Ok(Device::cuda_if_available())
        }
        "cpu" => Ok(Device::Cpu),
        _ => {
            let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            let Some(number) = number else {
                bail!("--device {text}: expected `auto`, `cpu` or `cuda:N`");
            };
            if !cuda || number as i64 >= tch::Cuda::device_count() {
                bail!("--device {text}: torch sees {} GPUs", tch::Cuda::device_count());
            }
            Ok(Device::Cuda(number))
        }
    }
}

/// How many GPUs torch sees.
pub fn gpus() -> i64 {
    if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 }
}

/// Whether there is a driver with a GPU that this process may see.
fn driver_lists_a_gpu() -> bool {
    let hidden =
        std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|ids| ids.is_empty() || ids == "-1");
    let listed = || Command::new("nvidia-smi").arg("-L").output();
    !hidden && listed().is_ok_and(|output| output.stdout.starts_with(b"GPU "))
}

/// What the driver says of a device.
struct Card {
    name: String,
    memory_bytes: u64,
    uuid: String,
    instance: String,
}

impl Card {
    /// `told`: its memory, as whoever started the worker says.
    fn of(device: Device, told: Option<u64>) -> anyhow::Result<Self> {
        let Device::Cuda(number) = device else {
            let memory_bytes = told.unwrap_or_else(memory::of_machine);
            let (uuid, instance) = Default::default();
            return Ok(Card { name: "cpu".into(), memory_bytes, uuid, instance });
        };
        let query = ["--query-gpu=name,memory.total,uuid", "--format=csv,noheader,nounits"];
        // Torch counts what it may see; the driver counts everything, in the same order (`start::settle_process`).
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        let id = visible.split(',').nth(number).map(str::trim).filter(|id| !id.is_empty());
        let id = id.map_or_else(|| number.to_string(), String::from);
        let output = Command::new("nvidia-smi").arg(format!("--id={id}")).args(query).output();
        let output = output.context("cannot run nvidia-smi, which comes with the driver")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let mut card = Self::parse(&said, &id, told).with_context(|| {
            let said = said.trim();
            format!(
                "nvidia-smi does not say how much memory GPU {id} has (`{said}`): give --vram-bytes"
            )
        })?;
        if id.starts_with("MIG-")
            && let Some((gpu, instance)) = part_of_gpu(&id)
        {
            (card.uuid, card.instance) = (gpu, instance);
        }
        Ok(card)
    }

    /// What the driver says of the device of this id. Of a part of a GPU (`MIG-…`) it says nothing, and of some devices
    /// not the memory.
    fn parse(line: &str, id: &str, told: Option<u64>) -> Option<Self> {
        let fields: Vec<&str> = line.lines().next().unwrap_or_default().split(", ").collect();
        let [name, mebibytes, uuid] = fields[..] else {
            let memory_bytes = told?;
            let (uuid, instance) = (id.into(), String::new());
            return Some(Card { name: "cuda".into(), memory_bytes, uuid, instance });
        };
        let name = name.trim().chars().take(NAME_BYTES_MAX).collect();
        let driver = mebibytes.trim().parse::<u64>().ok().map(|mebibytes| mebibytes << 20);
        let (uuid, instance) = (uuid.trim().into(), String::new());
        Some(Card { name, memory_bytes: told.or(driver)?, uuid, instance })
    }
}

/// The GPU and the GPU instance of a part of a GPU, as dcgm-exporter names them. None if the driver does not say.
fn part_of_gpu(id: &str) -> Option<(String, String)> {
    let said = |arguments: &[&str]| {
        let output = Command::new("nvidia-smi").args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (gpu, index) = listed_part(&said(&["-L"])?, id)?;
    let instance = instance_of(&said(&["-q", "-x", &format!("--id={gpu}")])?, &index)?;
    Some((gpu, instance))
}

/// From the driver's list: the GPU that a part is of, and which of its devices that is. An id may be shortened.
fn listed_part(list: &str, id: &str) -> Option<(String, String)> {
    let uuid = |line: &str| Some(line.split_once("(UUID: ")?.1.split_once(')')?.0.to_owned());
    let mut gpu = None;
    for line in list.lines() {
        if line.starts_with("GPU ") {
            gpu = uuid(line);
        } else if uuid(line).is_some_and(|uuid| uuid.starts_with(id)) {
            let index = line.split_once(" Device ")?.1.split_once(':')?.0;
            return Some((gpu?, index.trim().to_owned()));
        }
    }
    None
}

/// From the driver's description of a GPU: the GPU instance of its device of this index.
fn instance_of(xml: &str, index: &str) -> Option<String> {
    let value = |part: &str, tag: &str| {
        let (_, rest) = part.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.trim().to_owned())
    };
    let mut parts = xml.split("<mig_device>").skip(1);
    let part = parts.find(|part| value(part, "index").as_deref() == Some(index))?;
    value(part, "gpu_instance_id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_words_are_understood() {
        let line = "NVIDIA H100 80GB HBM3, 81559, GPU-aaaa\n";
        let card = Card::parse(line, "0", None).expect("parses");
        assert_eq!((card.name.as_str(), card.uuid.as_str()), ("NVIDIA H100 80GB HBM3", "GPU-aaaa"));
        assert_eq!(card.memory_bytes, 81_559 << 20);
        assert_eq!(Card::parse(line, "0", Some(7)).expect("parses").memory_bytes, 7);
        assert!(Card::parse("No devices were found", "0", None).is_none());
        for unknown in
            ["NVIDIA GB10, [N/A], GPU-b", "NVIDIA A100, [Insufficient Permissions], GPU-b"]
        {
            assert!(Card::parse(unknown, "0", None).is_none());
            let card = Card::parse(unknown, "0", Some(1 << 30)).expect("is told");
            assert_eq!((card.memory_bytes, card.uuid.as_str()), (1 << 30, "GPU-b"));
        }
        let part = Card::parse("", "MIG-1", Some(1 << 30)).expect("is told");
        assert_eq!((part.name.as_str(), part.uuid.as_str()), ("cuda", "MIG-1"));
    }

    /// Promise: `zoetrope_gpu_info` joins with dcgm-exporter's series also where a GPU is cut into parts.
    #[test]
    fn a_part_of_a_gpu_is_named_as_dcgm_names_it() {
        let list = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)\n\
                    \x20 MIG 3g.20gb     Device  0: (UUID: MIG-1111-11)\n\
                    GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)\n\
                    \x20 MIG 3g.20gb     Device  0: (UUID: MIG-2222-22)\n\
                    \x20 MIG 1g.5gb      Device  1: (UUID: MIG-3333-33)\n";
        let found = |id| listed_part(list, id);
        assert_eq!(found("MIG-3333-33"), Some(("GPU-bbbb".to_owned(), "1".to_owned())));
        assert_eq!(found("MIG-1111"), Some(("GPU-aaaa".to_owned(), "0".to_owned())));
        assert_eq!(found("MIG-4444"), None);
        let xml = "<gpu id=\"00000000:10:00.0\"><mig_devices>
            <mig_device><index>0</index><gpu_instance_id>1</gpu_instance_id></mig_device>
            <mig_device>
                <index>1</index>
                <gpu_instance_id>13</gpu_instance_id>
            </mig_device></mig_devices>
            <processes><process_info><gpu_instance_id>7</gpu_instance_id></process_info></processes></gpu>";
        assert_eq!(instance_of(xml, "1").as_deref(), Some("13"));
        assert_eq!(instance_of(xml, "2"), None);
    }

    #[test]
    fn a_device_has_three_spellings() {
        assert_eq!(device("cpu").expect("cpu"), Device::Cpu);
        for bad in ["gpu", "cuda:", "cuda:999", "CPU"] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
