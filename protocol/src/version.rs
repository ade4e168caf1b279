//! Which words of the link both sides know: agreed on in the handshake, before the first frame.
//!
//! The name of the protocol (ALPN) holds two numbers. The first one grows when frames change their meaning: peers that
//! differ in it cannot speak, and the handshake says so. The second one grows with each release that appends variants to
//! [`FromWorker`] or [`ToWorker`]: a worker offers all that it knows, the coordinator takes the newest that it knows too,
//! and **a frame is sent only to a peer that knows it** ([`FromWorker::since`], [`ToWorker::since`]). So a worker of the
//! release before works with a coordinator of this one, and the other way round; nobody has to guess.
//!
//! A frame that is sent against this rule is one that the peer cannot read: it closes the connection with
//! [`CloseCode::BadFrame`](crate::wire::CloseCode::BadFrame), and says so in its log.

use crate::wire::{ALPN_LINK, FromWorker, ToWorker};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A version of the link. In configuration and on the command line it is a word such as `1.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkVersion(u8);

/// All versions that this program speaks, the newest first, with their words and their names in the handshake. A new
/// one is put in front; the last two releases' stay, so that workers and coordinators need not change at one moment.
const KNOWN: [(LinkVersion, &str, &[u8]); 4] = [
    (LinkVersion::PROVEN, "1.3", b"zoetrope-link/1.3"),
    (LinkVersion::DRAFTS, "1.2", b"zoetrope-link/1.2"),
    (LinkVersion::COORDINATORS, "1.1", b"zoetrope-link/1.1"),
    (LinkVersion::FIRST, "1.0", ALPN_LINK),
];

/// A word that is no version which this program speaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no version {0:?} of the link: this program speaks {words}", words = LinkVersion::words())]
pub struct NoSuchVersion(pub String);

impl LinkVersion {
    /// The version that everything else is of.
    pub const FIRST: LinkVersion = LinkVersion(0);

    /// Workers are told of all coordinators, not only of those that they were started with.
    pub const COORDINATORS: LinkVersion = LinkVersion(1);

    /// The coordinator reads the marks of a clip before it is signed: workers may send a
    /// [`Role::Draft`](crate::job::Role::Draft).
    pub const DRAFTS: LinkVersion = LinkVersion(2);

    /// The coordinator proves a clip before it has it signed: workers say by what it is to be judged
    /// ([`FromWorker::SignProven`]), and send its draft again where it is asked for.
    pub const PROVEN: LinkVersion = LinkVersion(3);

    /// The newest version that this program speaks.
    pub const NEWEST: LinkVersion = KNOWN[0].0;

    /// The names to offer or to take in a handshake by one that speaks nothing newer than this, the newest first.
    pub fn names(self) -> Vec<Vec<u8>> {
        self.names_from(LinkVersion::FIRST)
    }

    /// The same by one that speaks nothing older than `oldest` either.
    pub fn names_from(self, oldest: LinkVersion) -> Vec<Vec<u8>> {
        let spoken = KNOWN.iter().filter(|(version, ..)| (oldest..=self).contains(version));
        spoken.map(|(.., name)| name.to_vec()).collect()
    }

    /// The version of this name; none if it is not one of ours.
    pub fn named(name: &[u8]) -> Option<LinkVersion> {
        KNOWN.iter().find(|(.., known)| *known == name).map(|(version, ..)| *version)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        KNOWN.iter().find(|(version, ..)| *version == self).map_or("", |(_, word, _)| word)
    }

    /// All words, for people.
    pub fn words() -> String {
        KNOWN.iter().rev().map(|(_, word, _)| *word).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for LinkVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for LinkVersion {
    type Err = NoSuchVersion;

    fn from_str(word: &str) -> Result<LinkVersion, NoSuchVersion> {
        let known = KNOWN.iter().find(|(_, known, _)| *known == word);
        known.map(|(version, ..)| *version).ok_or_else(|| NoSuchVersion(word.to_owned()))
    }
}

impl TryFrom<String> for LinkVersion {
    type Error = NoSuchVersion;

    fn try_from(word: String) -> Result<LinkVersion, NoSuchVersion> {
        word.parse()
    }
}

impl From<LinkVersion> for String {
    fn from(version: LinkVersion) -> String {
        version.word().to_owned()
    }
}

impl FromWorker {
    /// The version that brought this frame. Without a wildcard, so that a new variant must say its own.
    pub fn since(&self) -> LinkVersion {
        match self {
            FromWorker::Hello { .. }
            | FromWorker::Heartbeat
            | FromWorker::Started(_)
            | FromWorker::Progress { .. }
            | FromWorker::Finished { .. }
            | FromWorker::Failed { .. }
            | FromWorker::Fetch(_)
            | FromWorker::Leaving { .. }
            | FromWorker::Left
            | FromWorker::TermsAsked(_)
            | FromWorker::SignAsked { .. } => LinkVersion::FIRST,
            FromWorker::SignProven { .. } => LinkVersion::PROVEN,
        }
    }
}

impl ToWorker {
    /// The version that brought this frame.
    pub fn since(&self) -> LinkVersion {
        match self {
            ToWorker::Welcome { .. }
            | ToWorker::Order(_)
            | ToWorker::Stop { .. }
            | ToWorker::Drain(_)
            | ToWorker::Stored { .. }
            | ToWorker::NotStored { .. }
            | ToWorker::NoArtifact(_)
            | ToWorker::Heartbeat
            | ToWorker::Terms { .. }
            | ToWorker::Signed { .. }
            | ToWorker::NotSigned { .. }
            | ToWorker::StoreDown(_) => LinkVersion::FIRST,
            ToWorker::Coordinators(_) => LinkVersion::COORDINATORS,
            ToWorker::MarksRead { .. } => LinkVersion::DRAFTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_and_the_newest_comes_first() {
        let names = LinkVersion::NEWEST.names();
        assert_eq!(names[..2], [b"zoetrope-link/1.3", b"zoetrope-link/1.2"]);
        assert_eq!(names[2..], [&b"zoetrope-link/1.1"[..], b"zoetrope-link/1"]);
        assert_eq!(LinkVersion::DRAFTS.names_from(LinkVersion::COORDINATORS), names[1..3]);
        assert_eq!(LinkVersion::FIRST.names(), [b"zoetrope-link/1"], "held at the first one");
        for name in LinkVersion::NEWEST.names() {
            assert!(LinkVersion::named(&name).is_some());
        }
        assert!(KNOWN.is_sorted_by(|before, after| before.0 > after.0));
        assert_eq!(LinkVersion::named(b"zoetrope-link/2"), None);
    }

    #[test]
    fn words_are_read_and_written() {
        for (version, word, _) in KNOWN {
            assert_eq!((word.parse(), version.to_string()), (Ok(version), word.to_owned()));
        }
        let error = "2.0".parse::<LinkVersion>().expect_err("there is none");
        let said =
            "there is no version \"2.0\" of the link: this program speaks 1.0, 1.1, 1.2, 1.3";
        assert_eq!(error.to_string(), said);
    }
}
