//! What the farm may dial outside: public addresses alone, unless the operator lists others.
//!
//! An address is held against this twice: as it stands in the URL, and after every name lookup, at the moment of
//! connecting, so that a name that points elsewhere tomorrow is no way in. Redirects are not followed. Used where the
//! farm calls out over HTTP.

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Entries of an allow-list.
pub const ALLOW_MAX: usize = 64;

/// Hosts and networks that may be dialled although they are not public; for them `http://` is allowed too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    hosts: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
}

impl Allow {
    /// Reads entries such as `10.0.0.0/8`, `127.0.0.1` or `guard.internal`; none if one is neither.
    pub fn read(entries: &[String]) -> Option<Allow> {
        let mut allow = Allow::default();
        for entry in entries {
            let (address, bits) =
                entry.split_once('/').map_or((entry.as_str(), None), |(a, b)| (a, Some(b)));
            match (address.parse::<IpAddr>(), bits) {
                (Ok(ip), bits) => {
                    let most = if ip.is_ipv4() { 32 } else { 128 };
                    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
                    allow.networks.push((ip, (bits <= most).then_some(bits)?));
                }
                (Err(_), None) if is_host(entry) => allow.hosts.push(entry.to_ascii_lowercase()),
                (Err(_), _) => return None,
            }
        }
        Some(allow)
    }

    fn host(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    fn ip(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|(network, bits)| within(ip, *network, *bits))
    }
}

fn is_host(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (1..=253).contains(&text.len()) && text.bytes().all(letter)
}

fn within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 4),
        IpAddr::V6(ip) => (ip.to_bits(), 6),
    };
    let ((ip, family), (network, of)) = (number(ip), number(network));
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    family == of && (ip ^ network) & mask == 0
}

/// Whether an address belongs to the public internet.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_public_v4(ip),
            None => is_public_v6(ip),
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    let benchmark = a == 198 && (18..20).contains(&b);
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_private() || ip.is_link_local();
    !(special || ip.is_documentation() || shared || protocol || benchmark || a == 0 || a >= 224)
}

/// What is given out (2000::/3), without documentation and without ways that lead to IPv4 addresses.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let given_out = a & 0xe000 == 0x2000;
    let documentation = (a == 0x2001 && b == 0xdb8) || a == 0x3fff;
    let tunnel = a == 0x2002 || (a == 0x2001 && b < 0x200);
    given_out && !documentation && !tunnel
}

/// Why a URL is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL of HTTP, or one with a password in it.
    #[error("an address that begins with https:// and has no password in it")]
    Form,
    /// Plain HTTP to what is not allow-listed.
    #[error("an address that begins with https://; http:// only to what is in `allow`")]
    Plain,
    /// An address that is not public, and not allow-listed.
    #[error("a public address, or one in `allow`")]
    Private,
}

/// Reads a URL that may be dialled.
///
/// # Errors
/// `UrlError` says what is allowed.
pub fn url(text: &str, allow: &Allow) -> Result<Url, UrlError> {
    let url = Url::parse(text).map_err(|_| UrlError::Form)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Form);
    }
    let host = url.host_str().ok_or(UrlError::Form)?;
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let listed = allow.host(host) || ip.is_some_and(|ip| allow.ip(ip));
    match url.scheme() {
        "https" => {}
        // A name may stand for an address in a listed network: that shows when it is looked up.
        "http" if listed || (ip.is_none() && !allow.networks.is_empty()) => {}
        "http" => return Err(UrlError::Plain),
        _ => return Err(UrlError::Form),
    }
    let local = host == "localhost" || host.ends_with(".localhost");
    if !listed && (local || ip.is_some_and(|ip| !is_public(ip))) {
        return Err(UrlError::Private);
    }
    Ok(url)
}

/// Looks names up, and gives only what may be dialled.
struct Guarded(Arc<Allow>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let listed = allow.host(&host);
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let may =
                |address: &SocketAddr| listed || is_public(address.ip()) || allow.ip(address.ip());
            let addresses: Vec<SocketAddr> = found.filter(may).collect();
            if addresses.is_empty() {
                return Err(format!("{host} has no address that may be dialled").into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A client that dials only what may be dialled, and gives up after this time.
///
/// # Errors
/// If the system gives no randomness or no root certificates.
pub fn client(allow: &Allow, timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .dns_resolver(Arc::new(Guarded(Arc::new(allow.clone()))))
        .redirect(reqwest::redirect::Policy::none())
        // A proxy of the environment would look names up by itself.
        .no_proxy()
        .timeout(timeout)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[&str]) -> Allow {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        Allow::read(&entries).expect("entries")
    }

    /// Promise: nothing inside is dialled for somebody outside.
    #[test]
    fn only_public_addresses_are_dialled() {
        for text in ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn a_url_is_held_against_the_list() {
        let none = Allow::default();
        assert!(url("https://api.example.com/v1/moderations", &none).is_ok());
        for (text, why) in [
            ("http://api.example.com/", UrlError::Plain),
            ("https://127.0.0.1/", UrlError::Private),
            ("https://[::1]/", UrlError::Private),
            // Other spellings of the same.
            ("https://2130706433/", UrlError::Private),
            ("https://0x7f.1/", UrlError::Private),
            ("https://localhost/", UrlError::Private),
            ("https://169.254.169.254/latest", UrlError::Private),
            ("https://user:secret@example.com/", UrlError::Form),
            ("ftp://example.com/", UrlError::Form),
            ("example.com", UrlError::Form),
        ] {
            assert_eq!(url(text, &none), Err(why), "{text}");
        }
        assert!(url("http://10.1.2.3:8000/", &allow(&["10.0.0.0/8"])).is_ok());
        assert!(url("http://guard.internal/", &allow(&["Guard.internal"])).is_ok());
        assert_eq!(url("http://11.1.2.3/", &allow(&["10.0.0.0/8"])), Err(UrlError::Plain));
        for bad in ["10.0.0.0/33", "10.0.0.0/x", "a b", "", "host/8"] {
            assert_eq!(Allow::read(&[bad.to_owned()]), None, "{bad}");
        }
    }

    /// A name that stands for something inside is refused when it is looked up.
    #[tokio::test]
    async fn a_name_that_points_inside_is_not_dialled() {
        let resolve = |allow| async {
            let name = "localhost".parse::<Name>().expect("a name");
            Guarded(Arc::new(allow)).resolve(name).await.map(Iterator::count)
        };
        assert!(resolve(Allow::default()).await.is_err());
        assert!(resolve(allow(&["127.0.0.0/8", "::1"])).await.expect("listed") > 0);
    }
}
