//! The gate in front of publication: the stored bytes themselves must prove what is said of them.
//!
//! Reads the clip from the store once, into a file of its own, with its digest; what is judged is that file: its
//! signature, and with the farm's key its marks. The pointer is flipped only if the proofs close on exactly these bytes.
//! Called by the storage sidecar.

use crate::clock;
use crate::jobs::{Asset, Assets};
use crate::link::draft::Draft;
use crate::scratch::{Scratch, ScratchFolder};
use crate::store::{Store, StoreError};
use crate::watermark::Prover;
use crate::watermark::prove::{Proven, Unproven, Watched};
use crate::watermark::shown::Small;
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use zoetrope_mark::film::FilmError;
use zoetrope_protocol::id::{ArtifactId, JobId};
use zoetrope_protocol::job::{Cause, RenderSpec};
use zoetrope_protocol::mark::{DraftReading, Issued, SOUND_ALG};
use zoetrope_protocol::provenance::{
    Demand, Gap, MarkedProof, ModeratedProof, Proofs, SignedClaim, SignedProof, Terms,
};
use zoetrope_provenance::{State, Trust, Verdict, certificates};

/// A thumbnail or spritesheet of the largest canvas takes a tenth of it.
const PICTURE_BYTES_MAX: u64 = 16 << 20;
/// Drafts and clips that are remembered, 20 KB each: they are published within a second, and one that is forgotten is played
/// and read again.
const REMEMBERED_MAX: usize = 256;

/// Why a clip stays unreadable.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// The store failed, or has other bytes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes are not signed, or not so that the farm's root is behind it.
    #[error("the stored clip is {state:?}: {failures}")]
    Signature {
        /// What a verifier says.
        state: State,
        /// And why.
        failures: String,
    },
    /// It is signed, and says it is another clip, or by another claim than was signed for it.
    #[error("the stored clip is signed for something else")]
    OtherClaim,
    /// Without its manifest it is another file than the one that was signed.
    #[error("the stored clip is another than was signed")]
    OtherFile,
    /// It does not show the mark that was issued for it, or its marks cannot be read.
    #[error("the stored clip is not proven to be marked: {0}")]
    Marks(#[from] Unproven),
    /// Its manifest names a mark of the sound that is not there.
    #[error("the stored clip's manifest names a mark that its sound does not show")]
    Unbound,
    /// Its manifest says something else than it must.
    #[error(transparent)]
    Terms(#[from] zoetrope_provenance::Refusal),
    /// A proof is missing or of other bytes.
    #[error(transparent)]
    Gap(#[from] Gap),
    /// Our disk or our own process failed.
    #[error("the stored clip cannot be read back")]
    Io(#[from] std::io::Error),
}

impl Closed {
    /// What the core is told.
    pub fn cause(&self) -> Cause {
        match self {
            Closed::Store(StoreError::Missing | StoreError::WrongLength { .. }) => {
                Cause::ArtifactMissing
            }
            // Other bytes than were put there, which another try may not meet: the clip is not at fault.
            Closed::Store(
                StoreError::WrongDigest
                | StoreError::Failed(_)
                | StoreError::Io(_)
                | StoreError::Unconditional,
            )
            | Closed::Marks(Unproven::Fault(_))
            | Closed::Io(_) => Cause::DependencyDown,
            // Another clip of the job was published before: no further one may be.
            Closed::Store(StoreError::Taken) => Cause::Refused,
            Closed::Signature { .. }
            | Closed::OtherClaim
            | Closed::OtherFile
            | Closed::Marks(Unproven::Unmarked(_))
            | Closed::Unbound
            | Closed::Terms(_)
            | Closed::Gap(_) => Cause::CheckFailed,
        }
    }

    /// Which proof is missing or wrong, in the word of the metric; none if it is a fault.
    pub fn proof(&self) -> Option<&'static str> {
        match self {
            Closed::Signature { .. }
            | Closed::OtherClaim
            | Closed::OtherFile
            | Closed::Terms(_) => Some("signature"),
            Closed::Marks(Unproven::Unmarked(_)) | Closed::Unbound => Some("watermark"),
            Closed::Gap(Gap::Missing("marked") | Gap::OtherBytes("marked")) => Some("watermark"),
            Closed::Gap(Gap::Missing("moderated") | Gap::OtherBytes("moderated")) => {
                Some("moderation")
            }
            Closed::Gap(Gap::Missing(_) | Gap::OtherBytes(_)) => Some("signature"),
            Closed::Gap(Gap::OtherPolicy) => Some("moderation"),
            Closed::Store(_) if self.cause() != Cause::DependencyDown => Some("digest"),
            Closed::Store(_) | Closed::Marks(_) | Closed::Io(_) => None,
        }
    }
}

/// A clip that is to be published, and what is said of it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its files.
    pub assets: Assets,
    /// The claim that must be in it.
    pub claim: SignedClaim,
    /// That the file passed moderation before the claim came into it.
    pub moderated: ModeratedProof,
    /// That the worker's record of that file shows its mark.
    pub marked: MarkedProof,
    /// The mark that it must show itself.
    pub issued: Issued,
    /// What was ordered.
    pub render: RenderSpec,
}

/// A clip that is to be signed, and what is said of it.
#[derive(Debug)]
pub struct Prove {
    /// Its file, without a manifest.
    pub draft: Arc<Draft>,
    /// The manifest that is to come into it.
    pub manifest: Vec<u8>,
    /// What that must say.
    pub terms: Terms,
    /// The mark that the file must show.
    pub issued: Issued,
    /// What was ordered.
    pub render: RenderSpec,
}

/// What a clip is held against.
pub struct Gate {
    trust: Trust,
    root: [u8; 32],
    demand: Demand,
    prover: Prover,
    scratch: ScratchFolder,
    /// Drafts that were played and carry the mark of this number, the oldest first.
    played: Mutex<VecDeque<(ArtifactId, u32, Arc<Watched>)>>,
    /// What stored clips say of themselves, or will once somebody has read them, the oldest first.
    reads: Mutex<VecDeque<(ArtifactId, Reading)>>,
}

/// What a stored clip says of itself. Read once, whoever asks first.
type Reading = Arc<OnceCell<Stored>>;

/// What a stored clip says of itself.
#[derive(Debug)]
struct Stored {
    /// What a verifier says.
    verdict: Verdict,
    /// The digest that it had before its manifest came into it.
    unsigned: ArtifactId,
    /// SHA-256 of its manifest.
    manifest: [u8; 32],
}

impl Gate {
    /// A gate that believes this root (PEM) and asks for these proofs; marks are read by `prover`. `scratch` takes its
    /// temporary files.
    ///
    /// # Errors
    /// If the root is no certificate.
    pub fn new(
        root: &str,
        demand: Demand,
        prover: Prover,
        scratch: ScratchFolder,
    ) -> std::io::Result<Gate> {
        let fingerprint = certificates::fingerprint(root)
            .ok_or_else(|| std::io::Error::other("the provenance root is no certificate in PEM"))?;
        let trust = Trust { roots: root.to_owned() };
        let (played, reads) = (Mutex::default(), Mutex::default());
        Ok(Gate { trust, root: fingerprint, demand, prover, scratch, played, reads })
    }

    /// Reads the marks of a clip that is not signed yet, and remembers what it saw: once the clip is signed, and is the
    /// same otherwise, it need not be played again.
    pub async fn read_draft(
        &self,
        draft: &Draft,
        issued: Issued,
        render: RenderSpec,
    ) -> DraftReading {
        if !self.demand.marked {
            return DraftReading::Unread;
        }
        match self.play(draft, issued, render).await {
            Ok(watched) => DraftReading::Marked { in_sound: watched.proven.in_sound },
            Err(Unproven::Unmarked(why)) => {
                tracing::info!(draft = %draft.artifact, why, "a draft does not show its mark");
                DraftReading::Unmarked
            }
            Err(Unproven::Fault(error)) => {
                tracing::warn!(%error, "the marks of a draft cannot be read");
                DraftReading::Unread
            }
        }
    }

    /// Plays a draft, and remembers it if it shows its mark.
    async fn play(
        &self,
        draft: &Draft,
        issued: Issued,
        render: RenderSpec,
    ) -> Result<Arc<Watched>, Unproven> {
        let limit = Prover::limit(&render);
        let playing = self.prover.watch(draft.file.path().to_owned(), issued, render);
        let late = |_| Unproven::Fault(FilmError::Late);
        let watched = Arc::new(tokio::time::timeout(limit, playing).await.map_err(late)??);
        remember(&self.played, (draft.artifact, issued.mark, watched.clone()));
        Ok(watched)
    }

    /// Whether a clip may be signed, as far as its bytes say: it shows its mark, and is what its manifest binds.
    ///
    /// # Errors
    /// `Marks`, `Unbound` if it does not show what its manifest names; `OtherFile` if the manifest binds another file;
    /// `Terms` if it says something else than it must; `Io`.
    pub async fn prove(&self, prove: Prove) -> Result<(), Closed> {
        let Prove { draft, manifest, terms, issued, render } = prove;
        let named = manifest.len();
        let check = move || {
            let claim = zoetrope_provenance::claim::check(&manifest, &terms)?;
            Ok::<_, Closed>((claim.binding, claim.names_sound))
        };
        let checked = tokio::task::spawn_blocking(check).await.map_err(std::io::Error::other)?;
        let (binding, names_sound) = checked?;
        if self.demand.marked {
            let watched = match self.played(draft.artifact, issued.mark) {
                Some(watched) => watched,
                None => self.play(&draft, issued, render).await?,
            };
            if names_sound && !watched.proven.in_sound {
                return Err(Closed::Unbound);
            }
        }
        let bound = move || zoetrope_provenance::bound(draft.file.path(), named);
        let bound = tokio::task::spawn_blocking(bound).await.map_err(std::io::Error::other)??;
        if bound == Some(binding) { Ok(()) } else { Err(Closed::OtherFile) }
    }

    /// What was seen of a draft.
    fn played(&self, draft: ArtifactId, mark: u32) -> Option<Arc<Watched>> {
        let played = self.played.lock().unwrap_or_else(PoisonError::into_inner);
        let found = played.iter().find(|(of, with, _)| (*of, *with) == (draft, mark));
        found.map(|(.., watched)| watched.clone())
    }

    /// What is, or will be, read of a stored clip.
    fn reading(&self, clip: ArtifactId) -> Reading {
        let known = {
            let reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
            reads.iter().find(|(of, _)| *of == clip).map(|(_, reading)| reading.clone())
        };
        known.unwrap_or_else(|| {
            let reading = Reading::default();
            remember(&self.reads, (clip, reading.clone()));
            reading
        })
    }

    /// Reads a stored clip that will be published in a moment, if nothing comes between.
    pub async fn foresee(&self, store: &Store, clip: &Asset) {
        let read = self.reading(clip.artifact);
        if let Err(error) = read.get_or_try_init(|| self.read_stored(store, clip)).await {
            // Said again when it is to be published.
            tracing::debug!(%error, "a clip could not be read ahead");
        }
    }

    /// Reads a stored clip back and gives the proofs that it may be published with.
    ///
    /// # Errors
    /// `Closed` says what is missing.
    pub async fn open(
        &self,
        store: &Store,
        job: JobId,
        candidate: &Candidate,
    ) -> Result<Proofs, Closed> {
        let Candidate { assets: Assets { video: clip, .. }, claim, moderated, marked, .. } =
            candidate;
        let played = self.played(claim.unsigned, candidate.issued.mark);
        let plays = self.demand.marked && played.is_none();
        let scratch = if plays { Some(self.fetch(store, clip).await?) } else { None };
        let path = scratch.as_ref().map(Scratch::path);
        let small = Small {
            thumbnail: picture(store, &candidate.assets.thumbnail).await?,
            sheet: picture(store, &candidate.assets.spritesheet).await?,
        };
        // Side by side: the one waits for a decoder, the other hashes.
        let reading = self.reading(clip.artifact);
        let read = reading.get_or_try_init(|| async {
            match path {
                Some(path) => self.read(path).await,
                None => self.read_stored(store, clip).await,
            }
        });
        let (read, shown) = tokio::join!(read, self.marks(path, played, candidate, small));
        drop(scratch);
        let stored = read?;
        let signed = self.judge(stored, job, clip.artifact, claim)?;
        if stored.unsigned != claim.unsigned {
            return Err(Closed::OtherFile);
        }
        if shown?.is_some_and(|shown| !shown.in_sound && stored.verdict.binds(SOUND_ALG)) {
            return Err(Closed::Unbound);
        }
        let (moderated, marked) = (Some(moderated.clone()), Some(*marked));
        let proofs = Proofs { moderated, marked, signed: Some(signed) };
        proofs.close(clip.artifact, &self.demand)?;
        Ok(proofs)
    }

    /// How long it may take to read a clip's marks.
    pub fn reading_limit(&self, candidate: &Candidate) -> Duration {
        if self.demand.marked { Prover::limit(&candidate.render) } else { Duration::ZERO }
    }

    /// The same of a clip in the store, whose bytes match its address.
    async fn read_stored(&self, store: &Store, clip: &Asset) -> Result<Stored, Closed> {
        let scratch = self.fetch(store, clip).await?;
        self.read(scratch.path()).await
    }

    /// What the file says of itself. The library gets only what is built as ours are: it takes any number of boxes, and any
    /// more in a manifest than its claim names.
    async fn read(&self, path: &Path) -> Result<Stored, Closed> {
        let (path, trust) = (path.to_owned(), self.trust.clone());
        let read = move || -> Result<Stored, Closed> {
            let unsigned = zoetrope_provenance::unsigned(&path)?.ok_or(Closed::OtherFile)?;
            let manifest = zoetrope_provenance::built(&path)??;
            let verdict =
                zoetrope_provenance::read("video/mp4", std::fs::File::open(&path)?, &trust);
            Ok(Stored { verdict, unsigned, manifest })
        };
        tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other)?
    }

    /// What the file shows of its marks; none where the farm does not ask for them. A clip that was played as a draft is
    /// not played again: that it is the same but for its manifest, the caller sees.
    async fn marks(
        &self,
        path: Option<&Path>,
        played: Option<Arc<Watched>>,
        candidate: &Candidate,
        small: Small,
    ) -> Result<Option<Proven>, Unproven> {
        let (issued, render) = (candidate.issued, candidate.render.clone());
        let watched = match (played, path) {
            (Some(watched), _) => watched,
            (None, Some(path)) => {
                Arc::new(self.prover.watch(path.to_owned(), issued, render.clone()).await?)
            }
            (None, None) => return Ok(None),
        };
        let proven = watched.proven;
        let compare = move || watched.shows_the_same(&render, &small);
        let compared = tokio::task::spawn_blocking(compare).await;
        compared.unwrap_or(Err(Unproven::Fault(FilmError::Late)))?;
        Ok(Some(proven))
    }

    fn judge(
        &self,
        stored: &Stored,
        job: JobId,
        file: ArtifactId,
        signed: &SignedClaim,
    ) -> Result<SignedProof, Closed> {
        let verdict = &stored.verdict;
        if verdict.state != State::Trusted || !verdict.failures.is_empty() {
            let (state, failures) = (verdict.state, verdict.failures.join(", "));
            return Err(Closed::Signature { state, failures });
        }
        let video = verdict.render.as_ref().and_then(|render| render["video_id"].as_str());
        // Not the claim alone: beside it, and beside the signature, there is room for what nobody has judged.
        let noted = [Some(stored.manifest), verdict.claim].contains(&Some(signed.manifest));
        let claim = verdict.claim.filter(|_| noted && video == Some(job.to_string().as_str()));
        let claim = claim.ok_or(Closed::OtherClaim)?;
        Ok(SignedProof {
            unsigned: signed.unsigned,
            file,
            claim,
            root: self.root,
            checked: clock::now(),
        })
    }

    /// The clip as a file, whose bytes match its address.
    async fn fetch(&self, store: &Store, clip: &Asset) -> Result<Scratch, Closed> {
        let scratch = self.scratch.clip();
        let mut file = tokio::fs::File::create(scratch.path()).await?;
        let mut stream = store.get(&clip.artifact, None).await?;
        let (mut digest, mut received) = (Sha256::new(), 0);
        while let Some(chunk) = stream.try_next().await? {
            received += chunk.len() as u64;
            if received > clip.bytes {
                break;
            }
            digest.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        if received != clip.bytes {
            return Err(StoreError::WrongLength { received, announced: clip.bytes }.into());
        }
        if digest.finalize().as_slice() != clip.artifact.0 {
            return Err(StoreError::WrongDigest.into());
        }
        Ok(scratch)
    }
}

/// Takes in what is remembered for a moment; the oldest is forgotten.
fn remember<T>(all: &Mutex<VecDeque<T>>, one: T) {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= REMEMBERED_MAX {
        all.pop_front();
    }
    all.push_back(one);
}

/// A picture of a clip, whose bytes match its address.
async fn picture(store: &Store, asset: &Asset) -> Result<Vec<u8>, Closed> {
    if asset.bytes > PICTURE_BYTES_MAX {
        return Err(Unproven::Unmarked(format!("a picture of {} bytes", asset.bytes)).into());
    }
    Ok(store.small(&asset.artifact, asset.bytes, PICTURE_BYTES_MAX).await?)
}
