//! etcd, as far as a farm needs it. The one file that names etcd-client.
//!
//! The crate is a thin stub, so what it leaves out is here: a limit in time for every request, a new connection
//! to the next endpoint after one that failed, and errors that say what to do next. Writes are fenced: each is a
//! transaction that first compares the leader's election key, so what a deposed leader still has under way
//! changes nothing. A request whose outcome is unknown is an error here; whoever repeats it must be able to.

use crate::metrics::Metrics;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity,
    PutOptions, SortOrder, SortTarget, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use zoetrope_protocol::metric;

/// Small requests: a round trip and one sync of the server's disk. Two tries fit into the 2 s that a leader may
/// go on without news of its lease.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(900);
/// A transaction of 1 MiB, or a page of 2 MiB, over 10 Mbit/s.
const BULK_TIMEOUT: Duration = Duration::from_secs(3);
/// Reaching another machine: three lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that is silent for so long is asked whether it lives, and has as long again to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Operations in one transaction: the server's `--max-txn-ops`.
pub const OPS_MAX: usize = 128;
/// Bytes in one transaction; the server takes 1.5 MiB a request.
pub const TXN_BYTES_MAX: usize = 1 << 20;

/// Where etcd is, and how it is spoken to.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// `http://host:2379` or `https://…`, tried in turn.
    pub endpoints: Vec<String>,
    /// What stands before every key of the farm.
    pub prefix: String,
    /// PEM of the authority that etcd's certificate is of; with it all endpoints are `https`.
    pub authority: Option<Vec<u8>>,
    /// PEM of our certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why etcd did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Nobody answered in time, or in words that say nothing. The request may have been carried out.
    #[error("etcd does not answer: {0}")]
    Unreachable(String),
    /// The quota is used up; nothing was written.
    #[error("etcd is full (NOSPACE): compact, defragment and disarm it, or raise its quota")]
    NoSpace,
    /// The lease has ended.
    #[error("the lease in etcd has ended")]
    LeaseGone,
    /// It will not do it however often it is asked.
    #[error("etcd refuses: {0}")]
    Refused(String),
}

/// The proof of leadership that every write carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The election key.
    pub key: String,
    /// The revision that created it. Another leader's key has another one.
    pub revision: i64,
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Set a key.
    Put(String, Vec<u8>),
    /// Remove one key.
    Delete(String),
    /// Remove all keys from the first, up to and without the second.
    DeleteRange(String, String),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, without the farm's prefix.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that created it.
    pub created: i64,
    /// The lease that it ends with; 0 for none.
    pub lease: i64,
}

/// A client of the farm's etcd. Cloning is cheap.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

struct Inner {
    options: EtcdOptions,
    connection: Mutex<Connection>,
    metrics: Arc<Metrics>,
}

/// The connection in use. It is replaced when a request on it fails, by one to the next endpoint: the crate's
/// own balancer forgets endpoints that failed once.
struct Connection {
    client: Option<Client>,
    /// Counts replacements, so that many failed requests replace it once.
    number: usize,
}

impl Etcd {
    /// A client that connects when it is first used.
    pub fn new(options: EtcdOptions, metrics: Arc<Metrics>) -> Etcd {
        let connection = Mutex::new(Connection { client: None, number: 0 });
        Etcd { inner: Arc::new(Inner { options, connection, metrics }) }
    }

    fn key(&self, key: &str) -> String {
        format!("{}/{key}", self.inner.options.prefix)
    }

    /// One key.
    ///
    /// # Errors
    /// `Unreachable`, `Refused`.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, EtcdError> {
        let full = self.key(key);
        let ask = |mut client: Client| async move { client.get(full, None).await };
        let mut found = self.request("get", REQUEST_TIMEOUT, ask).await?;
        Ok(found.take_kvs().into_iter().next().and_then(|kv| self.entry(kv)))
    }

    /// Keys from `from` up to and without `to`, ascending, at most `limit`.
    ///
    /// # Errors
    /// `Unreachable`, `Refused`.
    pub async fn range(&self, from: &str, to: &str, limit: i64) -> Result<Vec<Entry>, EtcdError> {
        let (from, to) = (self.key(from), self.key(to));
        let options = GetOptions::new()
            .with_range(to)
            .with_limit(limit)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let ask = |mut client: Client| async move { client.get(from, Some(options)).await };
        let mut found = self.request("range", BULK_TIMEOUT, ask).await?;
        Ok(found.take_kvs().into_iter().filter_map(|kv| self.entry(kv)).collect())
    }

    fn entry(&self, kv: etcd_client::KeyValue) -> Option<Entry> {
        let (created, lease) = (kv.create_revision(), kv.lease());
        let (key, value) = kv.into_key_value();
        let key = String::from_utf8(key).ok()?;
        let key = key.strip_prefix(&self.inner.options.prefix)?.strip_prefix('/')?.to_owned();
        Some(Entry { key, value, created, lease })
    }

    /// Writes all of it at one instant if `fence` holds then: the revision of the write, or none if another
    /// leads.
    ///
    /// # Errors
    /// All of them. After `Unreachable` it may have been written, or be written yet: only what can be written
    /// twice may be asked for.
    pub async fn write(&self, fence: &Fence, ops: &[Op]) -> Result<Option<i64>, EtcdError> {
        let operations: Vec<TxnOp> = ops.iter().map(|op| self.operation(op)).collect();
        let compare =
            Compare::create_revision(self.key(&fence.key), CompareOp::Equal, fence.revision);
        let txn = Txn::new().when([compare]).and_then(operations);
        let ask = |mut client: Client| async move { client.txn(txn).await };
        let done = self.request("txn", BULK_TIMEOUT, ask).await?;
        let revision = done.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(done.succeeded().then_some(revision))
    }

    fn operation(&self, op: &Op) -> TxnOp {
        match op {
            Op::Put(key, value) => TxnOp::put(self.key(key), value.clone(), None),
            Op::Delete(key) => TxnOp::delete(self.key(key), None),
            Op::DeleteRange(from, to) => {
                let range = etcd_client::DeleteOptions::new().with_range(self.key(to));
                TxnOp::delete(self.key(from), Some(range))
            }
        }
    }

    /// Makes a key that ends with `lease`, unless it is there: what is there then, ours or another's.
    ///
    /// # Errors
    /// All of them. After `Unreachable` the key may be ours: ask again.
    pub async fn claim(&self, key: &str, value: &[u8], lease: i64) -> Result<Entry, EtcdError> {
        let full = self.key(key);
        let absent = Compare::create_revision(full.clone(), CompareOp::Equal, 0);
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(full.clone(), value, Some(options));
        let read = || TxnOp::get(full.clone(), None);
        let txn = Txn::new().when([absent]).and_then([put, read()]).or_else([read()]);
        let ask = |mut client: Client| async move { client.txn(txn).await };
        let done = self.request("claim", REQUEST_TIMEOUT, ask).await?;
        let read = done.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next(),
            _ => None,
        });
        let entry = read.and_then(|kv| self.entry(kv));
        entry.ok_or_else(|| EtcdError::Unreachable("a claim was answered without a key".to_owned()))
    }

    /// Sets a key that ends with `lease`, whoever leads.
    ///
    /// # Errors
    /// All of them.
    pub async fn put_leased(&self, key: &str, value: &[u8], lease: i64) -> Result<(), EtcdError> {
        let (key, value) = (self.key(key), value.to_vec());
        let options = PutOptions::new().with_lease(lease);
        let ask = |mut client: Client| async move { client.put(key, value, Some(options)).await };
        self.request("put", REQUEST_TIMEOUT, ask).await.map(drop)
    }

    /// A new lease.
    ///
    /// # Errors
    /// All of them.
    pub async fn grant(&self, ttl: Duration) -> Result<i64, EtcdError> {
        let seconds = ttl.as_secs().max(1) as i64;
        let ask = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        Ok(self.request("grant", REQUEST_TIMEOUT, ask).await?.id())
    }

    /// Renews a lease. Only the answer counts: queueing the question proves nothing.
    ///
    /// # Errors
    /// `LeaseGone`, `Unreachable`.
    pub async fn renew(&self, lease: i64) -> Result<(), EtcdError> {
        let ask =
            |mut client: Client| async move { client.lease_keep_alive(lease).await.map(drop) };
        self.request("renew", REQUEST_TIMEOUT, ask).await
    }

    /// Ends a lease, and every key with it.
    ///
    /// # Errors
    /// All of them; a lease that has ended is fine.
    pub async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        let ask = |mut client: Client| async move { client.lease_revoke(lease).await.map(drop) };
        match self.request("revoke", REQUEST_TIMEOUT, ask).await {
            Err(EtcdError::LeaseGone) => Ok(()),
            other => other,
        }
    }

    /// Lets etcd forget what keys held before `revision`. One that is forgotten already is fine.
    ///
    /// # Errors
    /// `Unreachable`, `Refused`.
    pub async fn compact(&self, revision: i64) -> Result<(), EtcdError> {
        let ask =
            |mut client: Client| async move { client.compact(revision, None).await.map(drop) };
        match self.request("compact", BULK_TIMEOUT, ask).await {
            Err(EtcdError::Refused(why)) if why.contains("compacted") => Ok(()),
            other => other,
        }
    }

    /// Bytes of the server's database file, which its quota is about.
    ///
    /// # Errors
    /// `Unreachable`, `Refused`.
    pub async fn size(&self) -> Result<u64, EtcdError> {
        let ask = |mut client: Client| async move { client.status().await };
        let status = self.request("status", REQUEST_TIMEOUT, ask).await?;
        Ok(u64::try_from(status.db_size()).unwrap_or(0))
    }

    async fn request<T, F>(
        &self,
        op: &'static str,
        limit: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let began = Instant::now();
        let number = self.connection().number;
        let asked = async { ask(self.client(number).await?).await };
        let result = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(meaning(&error)),
            Err(_) => Err(EtcdError::Unreachable(format!("no answer within {limit:?}"))),
        };
        if matches!(result, Err(EtcdError::Unreachable(_))) {
            self.leave(number);
        }
        self.inner.metrics.observe(&metric::ETCD_REQUEST_DURATION, &[op], began.elapsed());
        result
    }

    /// The connection in use, or a new one of this number.
    async fn client(&self, number: usize) -> Result<Client, Error> {
        if let Some(client) = &self.connection().client {
            return Ok(client.clone());
        }
        let endpoints = &self.inner.options.endpoints;
        let endpoint = &endpoints[number % endpoints.len().max(1)];
        let client = Client::connect([endpoint], Some(self.connect_options())).await?;
        let mut connection = self.connection();
        if connection.number == number {
            connection.client = Some(client.clone());
        }
        Ok(client)
    }

    fn connect_options(&self) -> ConnectOptions {
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_require_leader(true);
        let EtcdOptions { authority, identity, .. } = &self.inner.options;
        if authority.is_none() && identity.is_none() {
            return options;
        }
        let mut tls = TlsOptions::new();
        if let Some(pem) = authority {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        options.with_tls(tls)
    }

    /// A request on this connection failed: the next one goes to the next endpoint.
    fn leave(&self, number: usize) {
        let mut connection = self.connection();
        if connection.number == number {
            connection.client = None;
            connection.number += 1;
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Each change is whole before the lock is given back.
        self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an error of the crate means for the caller.
fn meaning(error: &Error) -> EtcdError {
    let text = error.to_string();
    match error {
        Error::LeaseKeepAliveError(_) => EtcdError::LeaseGone,
        Error::GRpcStatus(status) => {
            let said = status.message();
            if said.contains("database space exceeded") {
                EtcdError::NoSpace
            } else if said.contains("lease not found") {
                EtcdError::LeaseGone
            } else if REFUSALS.iter().any(|refusal| said.contains(refusal)) {
                EtcdError::Refused(said.to_owned())
            } else {
                EtcdError::Unreachable(text)
            }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) => EtcdError::Refused(text),
        _ => EtcdError::Unreachable(text),
    }
}

/// What etcd says where trying again does not help.
const REFUSALS: [&str; 6] = [
    "too many operations in txn request",
    "request is too large",
    "duplicate key given in txn request",
    "permission denied",
    "has been compacted",
    "user name is empty",
];
