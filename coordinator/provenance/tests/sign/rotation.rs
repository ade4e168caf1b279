//! Promise: whenever a process ends while it rotates, the next one signs, and says that its certificate is good.

use crate::{clip, held, terms};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use zoetrope_provenance::certificates::{CredentialError, Shelf, rotate_on};
use zoetrope_provenance::{Credential, Signer, build, claim, cose};

/// A shelf in memory that takes so many more texts.
#[derive(Clone, Default)]
struct Memory {
    texts: RefCell<BTreeMap<String, Vec<u8>>>,
    takes: Cell<Option<u32>>,
}

impl Memory {
    fn text(&self, name: &str) -> String {
        String::from_utf8(self.texts.borrow()[name].clone()).expect("a text")
    }

    /// With an intermediate that would end before the next leaf.
    fn ending(&self) -> Memory {
        let root_key = KeyPair::from_pem(&self.text("root.key.pem")).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&self.text("root.pem"), root_key).expect("an issuer");
        let key = KeyPair::from_pem(&self.text("intermediate.key.pem")).expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(100);
        let ending = params.signed_by(&key, &issuer).expect("a certificate").pem();
        let ended = self.clone();
        ended.texts.borrow_mut().insert("intermediate.pem".to_owned(), ending.into_bytes());
        ended
    }
}

impl Shelf for Memory {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.texts.borrow().get(name).cloned())
    }

    fn write(&self, name: &str, text: &[u8]) -> Result<()> {
        match self.takes.get() {
            Some(0) => return Err(Error::other("the process has ended")),
            Some(takes) => self.takes.set(Some(takes - 1)),
            None => {}
        }
        self.texts.borrow_mut().insert(name.to_owned(), text.to_owned());
        Ok(())
    }

    fn place(&self, name: &str) -> PathBuf {
        name.into()
    }
}

#[test]
fn a_rotation_that_is_cut_off_is_done_at_the_next_start() {
    let whole = Memory::default();
    Credential::open_on(&whole).expect("makes all");
    for before in [whole.clone(), whole.ending()] {
        let mut writes = 0;
        loop {
            let shelf = before.clone();
            shelf.takes.set(Some(writes));
            let done = rotate_on(&shelf).is_ok();
            shelf.takes.set(None);
            let credential = Credential::open_on(&shelf).expect("opens");
            let issuer = &credential.chain[1];
            let (_, issuer) = x509_parser::parse_x509_certificate(issuer).expect("a certificate");
            for name in ["chain.pem", "ocsp.pem"] {
                let text = shelf.text(name);
                let first = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()).next();
                let first = first.expect("a certificate").expect("PEM");
                let own = first.parse_x509().expect("a certificate");
                let by = own.verify_signature(Some(issuer.public_key()));
                assert!(by.is_ok(), "{name} is of another issuer after {writes} writes");
            }
            assert!(credential.days_left() > 300.0, "after {writes} writes");
            credential.vouched().expect("somebody answers").expect("is good");
            if done {
                break;
            }
            writes += 1;
        }
        assert!(writes >= 4, "{writes}");
    }
}

/// A certificate that ends in some days, under the root of this shelf.
fn ending_soon(shelf: &Memory) -> Credential {
    let folder = tempfile::tempdir().expect("temporary folder");
    let key = KeyPair::from_pem(&shelf.text("intermediate.key.pem")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&shelf.text("intermediate.pem"), key);
    let mut params = CertificateParams::default();
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(10);
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, &issuer.expect("an issuer")).expect("a certificate");
    let path = |name: &str| folder.path().join(name);
    let chain = format!("{}{}", leaf.pem(), shelf.text("intermediate.pem"));
    std::fs::write(path("chain.pem"), chain).expect("writes");
    std::fs::write(path("key.pem"), key.serialize_pem()).expect("writes");
    std::fs::write(path("root.pem"), shelf.text("root.pem")).expect("writes");
    let [chain, key, root] = ["chain.pem", "key.pem", "root.pem"].map(path);
    let files = zoetrope_provenance::certificates::Files { chain, key, root, ocsp: None };
    Credential::read(&files).expect("is good")
}

/// Promise: what a running signer takes up is what its answers are held against. A new root waits for a restart.
#[test]
fn a_certificate_under_another_root_is_not_taken_up() {
    let farm = Memory::default();
    Credential::open_on(&farm).expect("makes all");
    let stranger = || Credential::open_on(&Memory::default());
    let signer = Signer::new(ending_soon(&farm)).renewed_by(Box::new(stranger));
    let before = signer.credential().leaf().to_vec();
    signer.take_up();
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = clip(folder.path(), "unsigned.mp4");
    let target = folder.path().join("signed.mp4");
    let manifest = build::draft(&terms(), None, &source, &target).expect("is written").manifest;
    let signed = signer.sign(held(1), &terms(), &manifest).expect("has days left");
    assert_eq!(signer.credential().leaf(), before);
    let claim = claim::check(&manifest, &terms()).expect("says what it must");
    cose::verify(&signed.envelope, claim.bytes, &farm.text("root.pem")).expect("holds");
}

/// The daily look leaves those who sign their own: what it found may be mended before the next.
#[test]
fn a_look_that_fails_is_repeated_when_something_is_to_be_signed() {
    let farm = Memory::default();
    Credential::open_on(&farm).expect("makes all");
    let (ends, looks) = (ending_soon(&farm), Arc::new(AtomicU32::new(0)));
    let (farm, looked) = (Mutex::new(farm), looks.clone());
    let renew = move || match looked.fetch_add(1, Ordering::Relaxed) {
        0 => Err(CredentialError::File { path: "leaf.pem".into(), reason: "is away".into() }),
        _ => Credential::open_on(&*farm.lock().expect("no panic")),
    };
    let signer = Signer::new(ends).renewed_by(Box::new(renew));
    signer.take_up();
    assert!(signer.credential().days_left() < 30.0);
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = clip(folder.path(), "unsigned.mp4");
    let target = folder.path().join("signed.mp4");
    let manifest = build::draft(&terms(), None, &source, &target).expect("is written").manifest;
    signer.sign(held(1), &terms(), &manifest).expect("is signed");
    assert_eq!(looks.load(Ordering::Relaxed), 2);
    assert!(signer.credential().days_left() > 300.0);
}
