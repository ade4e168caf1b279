//! The segments of a decode shard on their way to the store: one beside the chunk in hand.
//!
//! Packing and hashing one take as long as decoding does on a fast gpu, so that is not the gpu thread's to do. Called there
//! alone.

use super::attempt::{Attempt, Progress};
use super::courier::{Courier, CourierError, Pending};
use crate::beside::{Beside, Waiting};
use crate::engine::EngineError;
use std::sync::Arc;
use zoetrope_protocol::job::{ArtifactRef, Role};
use zoetrope_protocol::wire::Phase;

/// The segments of one attempt.
pub struct Segments<'a> {
    attempt: &'a Arc<Attempt>,
    courier: &'a Arc<Courier>,
    /// Comes to one that is sent.
    pending: Option<Beside<Result<Pending, CourierError>>>,
    made: Vec<ArtifactRef>,
    /// What went wrong with one, which the engine only saw as a sink that failed.
    failure: Option<CourierError>,
}

impl<'a> Segments<'a> {
    /// None yet.
    pub fn new(attempt: &'a Arc<Attempt>, courier: &'a Arc<Courier>) -> Self {
        Segments { attempt, courier, pending: None, made: vec![], failure: None }
    }

    /// Sends one on its way, once the one before it has arrived.
    ///
    /// # Errors
    /// `Sink`: [`Segments::settle`] then says why.
    pub fn keep(&mut self, chunk: u32, bytes: Vec<u8>) -> Result<(), EngineError> {
        let sent = self.settle_pending().and_then(|()| self.send(chunk, bytes));
        sent.map_err(|error| {
            let told = EngineError::Sink(error.to_string());
            self.failure = Some(error);
            told
        })
    }

    fn send(&mut self, chunk: u32, bytes: Vec<u8>) -> Result<(), CourierError> {
        let (attempt, courier) = (self.attempt.clone(), self.courier.clone());
        let store = move || {
            crate::start::stand_back();
            courier.store(&attempt, Role::Segment { chunk }, bytes)
        };
        let started = Beside::start("segment", store);
        self.pending = Some(started.map_err(|error| CourierError::Disk(error.to_string()))?);
        Ok(())
    }

    fn settle_pending(&mut self) -> Result<(), CourierError> {
        if let Some(pending) = self.pending.take() {
            let died = |_| CourierError::Disk("the thread that packs a segment died".into());
            let sent = pending.wait(Waiting::QUIETLY).map_err(died)??;
            self.made.push(sent.wait(self.attempt)?);
        }
        Ok(())
    }

    /// All that was stored, once it is.
    ///
    /// # Errors
    /// Why one was not.
    pub fn settle(mut self, give_up: bool) -> Result<Vec<ArtifactRef>, CourierError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if !give_up {
            self.attempt.show(Progress { phase: Phase::Sending, done: 0, total: 1 });
            self.settle_pending()?;
        }
        Ok(self.made)
    }
}
