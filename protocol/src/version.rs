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

use crate::wire::{FromWorker, ToWorker};

/// A version of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkVersion(u8);

/// All versions that this program speaks, the newest first, with their names in the handshake. A new one is put in
/// front; the last two releases' stay, so that workers and coordinators need not change at one moment.
const KNOWN: [(LinkVersion, &[u8]); 1] = [(LinkVersion::FIRST, crate::wire::ALPN_LINK)];

impl LinkVersion {
    /// The version of the first release.
    pub const FIRST: LinkVersion = LinkVersion(0);

    /// The newest version that this program speaks.
    pub const NEWEST: LinkVersion = KNOWN[0].0;

    /// The names to offer or to take in a handshake, the newest first.
    pub fn names() -> Vec<Vec<u8>> {
        KNOWN.iter().map(|(_, name)| name.to_vec()).collect()
    }

    /// The version of this name; none if it is not one of ours.
    pub fn named(name: &[u8]) -> Option<LinkVersion> {
        KNOWN.iter().find(|(_, known)| *known == name).map(|(version, _)| *version)
    }

    /// All names, for people.
    pub fn words() -> String {
        let word = |name: &&[u8]| String::from_utf8_lossy(name).into_owned();
        KNOWN.iter().map(|(_, name)| word(name)).collect::<Vec<_>>().join(", ")
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
            | ToWorker::Coordinators(_)
            | ToWorker::Terms { .. }
            | ToWorker::Signed { .. }
            | ToWorker::NotSigned { .. }
            | ToWorker::StoreDown(_) => LinkVersion::FIRST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_and_the_newest_comes_first() {
        assert_eq!(LinkVersion::names()[0], b"zoetrope-link/1");
        for name in LinkVersion::names() {
            assert!(LinkVersion::named(&name).is_some());
        }
        assert!(KNOWN.is_sorted_by(|before, after| before.0 > after.0));
        assert_eq!(LinkVersion::named(b"zoetrope-link/2"), None);
        assert_eq!(LinkVersion::words(), "zoetrope-link/1");
    }
}
