//! Share links: `…/videos/{id}/share_links`, and `/share/{id}`, which needs no key but the signature in its address.
//!
//! The signature is checked before anything is asked of the farm: who guesses gets no further. It says that this
//! farm made the address; whether the link is still open is the farm's to say at each request.

use super::connection::{Peer, hold};
use super::content::{self, File};
use super::envelope::ApiError;
use super::fields::Fields;
use super::listing::{self, Paging};
use super::node::Node;
use super::once::{self, Once};
use super::recent::Hash;
use super::route::{self, Caller};
use super::words::{Code, Replay};
use super::{Door, body, create, role, submit};
use crate::documents::Documents;
use crate::farm::{FarmMsg, NewShare, ShareRefused};
use crate::jobs::shares::{Closed, DOWNLOADS_MAX, Read, SHARES_MAX, Share, ShareId, Variant};
use crate::room::Who;
use axum::Extension;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};
use std::sync::Arc;
use zoetrope_protocol::id::{JobId, TenantId};
use zoetrope_protocol::moderation::Audience;

/// The document with the secret that addresses are signed with.
const SECRET: &str = "share-secret";
const SECRET_BYTES: usize = 32;
/// The bucket of tokens for addresses that we did not sign.
const FORGED: &str = "share links with a wrong signature";
/// The longest `Host`: a name of 253 characters and a port.
const HOST_BYTES_MAX: usize = 262;

/// Makes and checks the addresses of share links.
pub struct Links {
    key: hmac::Key,
    public_url: String,
}

impl Links {
    /// Reads the secret, or makes one at the first start. Blocking. `public_url` is where callers reach the API; empty:
    /// where the request for a link was sent.
    ///
    /// # Errors
    /// Those of the documents.
    pub fn open(documents: &dyn Documents, public_url: &str) -> std::io::Result<Links> {
        let secret = match documents.read(SECRET)? {
            Some(secret) if secret.len() == SECRET_BYTES => secret,
            Some(_) => {
                let place = documents.place(SECRET);
                let why = format!("{}: not the {SECRET_BYTES} bytes it must be", place.display());
                return Err(std::io::Error::other(why));
            }
            None => {
                let secret = rand::random::<[u8; SECRET_BYTES]>().to_vec();
                documents.write(SECRET, &secret)?;
                secret
            }
        };
        Ok(Links::of(&secret, public_url))
    }

    /// With this secret.
    pub fn of(secret: &[u8], public_url: &str) -> Links {
        // As a client of the API writes it, it may end in the version; share links stand beside that.
        let public_url = public_url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        Links { key: hmac::Key::new(hmac::HMAC_SHA256, secret), public_url }
    }

    fn message(id: ShareId, expires: u64) -> String {
        format!("zoetrope share link 1\n{id}\n{expires}")
    }

    fn address(&self, share: &Share, base: &str) -> String {
        let expires = share.expires.0 / 1_000;
        let tag = hmac::sign(&self.key, Links::message(share.id, expires).as_bytes());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(tag);
        format!("{base}/share/{}?expires={expires}&signature={signature}", share.id)
    }

    /// What all addresses begin with.
    fn base(&self, headers: &HeaderMap) -> Result<String, ApiError> {
        if !self.public_url.is_empty() {
            return Ok(self.public_url.clone());
        }
        let host = role::asked_host(headers).unwrap_or("");
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
        if !(1..=HOST_BYTES_MAX).contains(&host.len()) || !host.bytes().all(letter) {
            return Err(ApiError::unreadable("The request has no 'Host' that a link could name."));
        }
        Ok(format!("http://{host}"))
    }

    /// Whether this farm signed the address.
    fn is_ours(&self, id: ShareId, query: &[(String, String)]) -> bool {
        let (expires, signature) = (route::last(query, "expires"), route::last(query, "signature"));
        let (Some(expires), Some(signature)) = (expires, signature) else { return false };
        let (Ok(expires), Ok(tag)) =
            (expires.parse::<u64>(), BASE64_URL_SAFE_NO_PAD.decode(signature))
        else {
            return false;
        };
        hmac::verify(&self.key, Links::message(id, expires).as_bytes(), &tag).is_ok()
    }
}

/// `POST /v1/videos/{video_id}/share_links`.
///
/// # Errors
/// 400 for fields that cannot be, 404 for no such video or one without bytes, 409 and 422 for its key.
pub async fn create(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, upload) = request.into_parts();
    let path = format!("/v1/videos/{id}/share_links");
    let key = submit::idempotency_key(&caller, &head.headers, "POST", &path)?;
    let fields = body::read(&door, Who::from(&caller), &head.headers, upload).await?;
    let content = submit::content(&caller, true, &path, &fields);
    let guard = match once::begin(&door, &caller, key, content)? {
        Once::First(guard) => Some(guard),
        Once::Before(answer) => return Ok(answer),
        // The farm knows the link.
        Once::Unkeyed | Once::Forgotten => None,
    };
    let (tenant, job) = (caller.tenant, route::job_id(&id)?);
    let new = match (wish(fields), key) {
        (Ok(new), key) => NewShare { request: key.map(|key| (content, key)), ..new },
        // A key that is known was used for other content: what is wrong with this one is no matter.
        (Err(_), Some(key)) if made_one(&door, tenant, job, key).await? => {
            return Err(ApiError::key_reused());
        }
        (Err(wrong), _) => return Err(wrong),
    };
    // First: nothing is made of what cannot be shown.
    let base = door.state.links.base(&head.headers)?;
    let made = door.state.farm.ask(|reply| FarmMsg::Share(tenant, job, new, reply)).await?;
    let (share, before) = made.map_err(|refused| match refused {
        ShareRefused::NoSuchVideo => ApiError::no_video(&id),
        ShareRefused::Unreadable(view) => match content::published(&view, (door.state.now)()) {
            Err(why) => why,
            Ok(_) => ApiError::not_found(Some(Code::Expired), "This video can no longer be read."),
        },
        ShareRefused::JudgedFor(judged) => ApiError::invalid(
            "audience",
            format!("This video was judged for the audience '{judged}': its links cannot be for a stricter one."),
        ),
        ShareRefused::TooMany => ApiError {
            // No field is at fault.
            param: None,
            ..ApiError::invalid(
                "",
                format!(
                    "This video has {SHARES_MAX} share links that are open, which is the most that \
                     one may have: revoke one with DELETE /v1/videos/{id}/share_links/{{share_id}}."
                ),
            )
        },
        ShareRefused::KeyReused => ApiError::key_reused(),
    })?;
    // The first answer, whatever became of the link since.
    let first = Share { revoked: None, downloads: 0, ..share };
    let bytes = route::json(&show(&door, &first, &base))?;
    if let Some(guard) = guard {
        // The same address again, whichever name of the farm it is asked for by.
        guard.done(content, Some(bytes.clone()));
    }
    let answer = route::ok_bytes(bytes);
    if before { submit::replayed(&door, Replay::Key, answer) } else { Ok(answer) }
}

/// Whether a request with this key made a link to the video.
async fn made_one(door: &Door, tenant: TenantId, job: JobId, key: Hash) -> Result<bool, ApiError> {
    let shares = door.state.farm.ask(|reply| FarmMsg::Shares(tenant, job, reply)).await?;
    let of_key = |share: &Share| share.made_by((door.state.now)(), &key).is_some();
    Ok(shares.is_some_and(|shares| shares.iter().any(of_key)))
}

fn wish(mut fields: Fields) -> Result<NewShare, ApiError> {
    fields.only(&["variants", "expires_after", "max_downloads", "audience"])?;
    let variants = match fields.array("variants")? {
        None => vec![Variant::Video],
        Some(nodes) => variants(nodes)?,
    };
    let downloads = fields.whole("max_downloads")?.map(|asked| {
        let fits = u32::try_from(asked).ok().filter(|n| (1..=DOWNLOADS_MAX).contains(n));
        let message = format!("'max_downloads' must be 1 to {DOWNLOADS_MAX}.");
        fits.ok_or_else(|| ApiError::invalid("max_downloads", message))
    });
    let audience = fields.text("audience")?.map(|asked| {
        let words = Audience::ALL.map(|audience| audience.word().to_owned());
        asked.parse().map_err(|()| ApiError::not_among("audience", &asked, &words))
    });
    Ok(NewShare {
        id: ShareId(rand::random()),
        variants,
        audience: audience.transpose()?,
        expires_after: create::optional_lifetime(&mut fields)?,
        downloads_max: downloads.transpose()?,
        request: None,
    })
}

fn variants(nodes: Vec<Node>) -> Result<Vec<Variant>, ApiError> {
    let words = Variant::ALL.map(|variant| variant.word().to_owned());
    let mut variants = Vec::new();
    for node in nodes {
        let (Node::Text(word) | Node::Form(word)) = &node else {
            return Err(ApiError::wrong_type("variants", "an array of strings", node.article()));
        };
        let variant = word.parse();
        let variant = variant.map_err(|()| ApiError::not_among("variants", word, &words))?;
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    if variants.is_empty() {
        return Err(ApiError::invalid("variants", "'variants' must name at least one file."));
    }
    Ok(variants)
}

/// `GET /v1/videos/{video_id}/share_links`.
///
/// # Errors
/// 400 for a limit, an order or a cursor that cannot be, 404.
pub async fn list(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (tenant, job) = (caller.tenant, route::job_id(&id)?);
    let Paging { limit, ascending, after } = listing::paging(&query)?;
    let shares = door.state.farm.ask(|reply| FarmMsg::Shares(tenant, job, reply)).await?;
    let mut shares = shares.ok_or_else(|| ApiError::no_video(&id))?;
    shares.sort_by_key(|share| (share.created.seconds(), share.id));
    if !ascending {
        shares.reverse();
    }
    let from = match after {
        None => 0,
        Some(after) => {
            let place = shares.iter().position(|share| share.id.to_string() == after);
            let message = "Invalid value: 'after' is no id of a share link of this video.";
            place.ok_or_else(|| ApiError::invalid("after", message))? + 1
        }
    };
    let rest = &shares[from..];
    let page = &rest[..limit.min(rest.len())];
    let base = door.state.links.base(&headers)?;
    let data: Vec<Value> = page.iter().map(|share| show(&door, share, &base)).collect();
    let id_of = |value: Option<&Value>| value.map_or(Value::Null, |value| value["id"].clone());
    let (first_id, last_id) = (id_of(data.first()), id_of(data.last()));
    route::ok(&json!({
        "object": "list",
        "data": data,
        "first_id": first_id,
        "last_id": last_id,
        "has_more": limit > 0 && page.len() < rest.len(),
    }))
}

/// `DELETE /v1/videos/{video_id}/share_links/{share_id}`: the link shows nothing any more.
///
/// # Errors
/// 404.
pub async fn revoke(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path((id, share_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (tenant, job) = (caller.tenant, route::job_id(&id)?);
    let share: ShareId = share_id.parse().map_err(|()| no_link())?;
    let base = door.state.links.base(&headers)?;
    let ask = |reply| FarmMsg::Unshare(tenant, job, share, reply);
    let share = door.state.farm.ask(ask).await?.ok_or_else(no_link)?;
    route::ok(&show(&door, &share, &base))
}

/// `GET /share/{share_id}`: the bytes, for whoever has the address.
///
/// # Errors
/// 404 for a link that is not ours or is closed, 429, and those of the content.
pub async fn open(
    State(door): State<Arc<Door>>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Some(place) = door.room.take(Who::Guest) else {
        return Err(ApiError::overloaded(1));
    };
    let share = id.parse::<ShareId>().ok().filter(|id| door.state.links.is_ours(*id, &query));
    // One bucket for each link that we made, and one for all that we did not.
    let bucket = share.map_or_else(|| FORGED.to_owned(), |share| share.to_string());
    if let Some(seconds) = door.buckets.take(&bucket, door.started.elapsed()).refused {
        return Err(ApiError::rate_limited(seconds));
    }
    let share = share.ok_or_else(no_link)?;
    let variant = match route::last(&query, "variant") {
        None => None,
        Some(word) => Some(content::variant(Some(word))?),
    };
    let ask = async |read| {
        let ask = |reply| FarmMsg::OpenShare(share, variant, read, reply);
        door.state.farm.ask(ask).await?.map_err(closed)
    };
    let (view, variant, _) = ask(Read::Look).await?;
    let video = view.job.to_string();
    let file = File::of(content::published(&view, (door.state.now)())?, variant, &video);
    let read = match file.read(&method, &headers) {
        Read::Part if !door.readers.reads_on(share, peer, (door.state.now)()) => Read::Whole,
        read => read,
    };
    // Counted now that there is something to send.
    let (_, _, counted) = ask(read).await?;
    if counted {
        door.readers.began(share, peer, (door.state.now)());
    }
    let answer = file.answer(&door, &method, &headers).await?;
    Ok(answer.map(|body| hold(body, place)))
}

fn no_link() -> ApiError {
    ApiError::not_found(None, "There is no such share link.")
}

fn closed(why: Closed) -> ApiError {
    match why {
        Closed::Gone | Closed::Audience => no_link(),
        Closed::Expired => ApiError::not_found(None, "This share link has expired."),
        Closed::UsedUp => ApiError::not_found(None, "All downloads of this share link were made."),
        Closed::Variant => ApiError::not_found(None, "This share link does not reach that file."),
    }
}

fn show(door: &Door, share: &Share, base: &str) -> Value {
    json!({
        "id": share.id.to_string(),
        "object": "video.share_link",
        "url": door.state.links.address(share, base),
        "created_at": share.created.0 / 1_000,
        "expires_at": share.expires.0 / 1_000,
        "revoked_at": share.revoked.map(|at| at.0 / 1_000),
        "variants": share.variants.iter().map(|variant| variant.word()).collect::<Vec<_>>(),
        "audience": share.audience.word(),
        "max_downloads": share.downloads_max,
        "downloads": share.downloads_max.map(|_| share.downloads),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{Stand, send};
    use zoetrope_sched::output::JobState;

    #[test]
    fn an_address_stands_beside_the_version_of_the_api() {
        for url in [
            "https://v.example",
            "https://v.example/",
            "https://v.example/v1",
            "https://v.example/v1/",
        ] {
            let base = Links::of(b"secret", url).base(&HeaderMap::new()).ok();
            assert_eq!(base.as_deref(), Some("https://v.example"), "{url}");
        }
    }

    /// Promise: a request whose `Host` no link could name makes and changes nothing.
    #[tokio::test]
    async fn a_link_names_the_host_that_was_asked() {
        let stand = Stand::new().await;
        let links = format!("/v1/videos/{}/share_links", stand.put(1, JobState::Completed));
        let asked = |method: &str, path: &str, host: &str| {
            send(stand.request(method, path).header("host", host.to_owned()))
        };
        for host in ["render_farm:8080", "a~b.example", "[::1]:9", "127.0.0.1"] {
            let made = asked("POST", &links, host).await;
            assert_eq!(made.status, 200, "{host}");
            let url = made.json()["url"].as_str().unwrap().to_owned();
            assert!(url.starts_with(&format!("http://{host}/share/")), "{url}");
        }
        assert_eq!(stand.table.lock().unwrap().shares.len(), 4);
        let link = format!("{links}/{}", stand.table.lock().unwrap().shares[0].id);
        for (method, path) in [("POST", &links), ("DELETE", &link)] {
            assert_eq!(asked(method, path, "a/b").await.code(), (400, None), "{method}");
        }
        let table = stand.table.lock().unwrap();
        assert_eq!((table.shares.len(), table.shares[0].revoked), (4, None));
    }
}
