//! Artifacts on their way in and out.

use super::super::LinkMsg;
use super::super::line::close_code;
use super::super::stream::{StreamError, receive_artifact, send_artifact};
use super::super::transfer::{Lost, UploadId};
use super::LinkState;
use crate::gpu::attempt::{Attempt, AttemptKey};
use crate::gpu::courier::{
    ClaimRequest, CourierError, FetchRequest, Given, Question, StoreRequest,
};
use quinn::RecvStream;
use ractor::ActorRef;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use zoetrope_protocol::job::{Cause, Role};
use zoetrope_protocol::version::LinkVersion;
use zoetrope_protocol::wire::{ArtifactHeader, CloseCode, FromWorker};
use zoetrope_protocol::{ArtifactId, ShardId};

impl LinkState {
    pub(in crate::link) fn incoming(
        &mut self,
        myself: &ActorRef<LinkMsg>,
        session: u64,
        header: ArtifactHeader,
        mut stream: RecvStream,
    ) {
        if session != self.session || !self.transfers.expects(header.artifact, header.bytes) {
            stream.stop(close_code(CloseCode::Protocol)).ok();
            return;
        }
        let table = &mut self.agent.table;
        let waiting = self.transfers.who_wait(header.artifact);
        let attempts: Vec<Arc<Attempt>> = waiting
            .filter_map(|key| table.entry(key).map(|entry| entry.work.attempt.clone()))
            .collect();
        let moved = move |bytes| attempts.iter().for_each(|attempt| attempt.carry(bytes));
        let (link, path) = (myself.clone(), self.arguments.cache.temporary_path());
        tokio::spawn(async move {
            let result = receive_artifact(stream, header, path, moved).await;
            let artifact = header.artifact;
            link.cast(LinkMsg::Received { session, artifact, result }).ok();
        });
    }

    /// The shard of an attempt that may still have something moved or signed. Dropped or stopped meanwhile it may not: the
    /// answer's sender is dropped with the request, and the gpu thread gives up.
    fn wanted(&mut self, key: AttemptKey) -> Option<ShardId> {
        let entry = self.agent.table.entry(key)?;
        (!entry.work.attempt.stops_now()).then_some(entry.held.shard)
    }

    pub(in crate::link) fn store(&mut self, myself: &ActorRef<LinkMsg>, request: StoreRequest) {
        if let Some(shard) = self.wanted(request.key) {
            self.transfers.store(request, shard, Instant::now());
            self.show_spool();
            self.send_due(myself);
        }
    }

    pub(in crate::link) fn fetch(&mut self, request: FetchRequest) {
        if self.wanted(request.key).is_some() {
            self.transfers.fetch(request);
            self.ask_due();
        }
    }

    pub(in crate::link) fn claim(&mut self, request: ClaimRequest) {
        if self.wanted(request.key).is_some() {
            self.transfers.claims.ask(request);
            self.ask_due();
        }
    }

    /// The signer's answer. The fence is left out: the same claim of the same shard is as good under any.
    pub(super) fn claim_answered(
        &mut self,
        shard: ShardId,
        answer: Result<Given, (Cause, String)>,
    ) {
        if let Some(key) = self.agent.table.live_of(shard) {
            self.transfers.claims.answered(key, answer);
        }
    }

    pub(super) fn send_due(&mut self, myself: &ActorRef<LinkMsg>) {
        let Some(up) = self.up() else { return };
        let (connection, sends) = (up.line.connection.clone(), up.sends.clone());
        let version = up.line.version;
        for send in self.transfers.to_send(Instant::now()) {
            if send.artifact.role == Role::Draft && version < LinkVersion::DRAFTS {
                self.transfers.refused(send.id);
                continue;
            }
            let Some(entry) = self.agent.table.entry(send.key) else { continue };
            let header = ArtifactHeader {
                held: Some(entry.held),
                role: Some(send.artifact.role),
                artifact: send.artifact.artifact,
                bytes: send.artifact.bytes,
            };
            let (link, session) = (myself.clone(), self.session);
            let (connection, sends) = (connection.clone(), sends.clone());
            let attempt = entry.work.attempt.clone();
            let moved = move |bytes| attempt.carry(bytes);
            tokio::spawn(async move {
                let Ok(_turn) = sends.acquire().await else { return };
                let result = send_artifact(connection, header, send.payload, moved).await;
                link.cast(LinkMsg::Sent { session, upload: send.id, result }).ok();
            });
        }
    }

    pub(super) fn ask_due(&mut self) {
        let Some(version) = self.up().map(|up| up.line.version) else { return };
        for artifact in self.transfers.to_ask(Instant::now()) {
            self.say(&FromWorker::Fetch(artifact));
        }
        for (key, question) in self.transfers.claims.to_say(Instant::now()) {
            let Some(entry) = self.agent.table.entry(key) else { continue };
            let held = entry.held;
            self.say(&match question {
                Question::Terms => FromWorker::TermsAsked(held),
                Question::Sign { unsigned, manifest, scores } if version >= LinkVersion::PROVEN => {
                    FromWorker::SignProven { held, unsigned, manifest, scores }
                }
                Question::Sign { unsigned, manifest, .. } => {
                    FromWorker::SignAsked { held, unsigned, manifest }
                }
            });
        }
    }

    pub(in crate::link) fn sent(
        &mut self,
        session: u64,
        upload: UploadId,
        result: Result<(), StreamError>,
    ) {
        if session == self.session {
            let result = result.map_err(|error| match error {
                StreamError::Disk(_) => CourierError::Disk(error.to_string()),
                _ => CourierError::Down(error.to_string()),
            });
            self.transfers.sent(upload, result, Instant::now());
        }
    }

    pub(in crate::link) fn received(
        &mut self,
        session: u64,
        artifact: ArtifactId,
        result: Result<PathBuf, StreamError>,
    ) {
        // A whole file is good whatever became of its connection; a failure of an old one is old news.
        if result.is_ok() || session == self.session {
            let result = result.map_err(|error| match error {
                StreamError::Damaged(_) => Lost::Damaged(error.to_string()),
                StreamError::Disk(_) => Lost::Disk(error.to_string()),
                _ => Lost::Down(error.to_string()),
            });
            let patience = self.arguments.times.patience;
            let left = self.transfers.received(artifact, result, patience, Instant::now());
            if let Some(path) = left {
                // Its attempt was given up meanwhile. What cannot be removed goes when the worker starts again.
                tokio::spawn(async move { tokio::fs::remove_file(path).await.ok() });
            }
        }
    }

    pub(super) fn show_spool(&mut self) {
        let now = i64::try_from(self.transfers.spool_bytes()).unwrap_or(i64::MAX);
        self.arguments.metrics.spool_changed(now - self.spool_shown);
        self.spool_shown = now;
    }
}
