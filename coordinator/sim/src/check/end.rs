//! What must hold when everything is over.

use crate::world::World;
use std::collections::BTreeMap;
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_sched::Output;
use zoetrope_sched::output::JobState;

impl World {
    /// Holds the end against the promises.
    pub fn check_end(&mut self) -> Result<(), String> {
        let Some(running) = &self.hosts[0].running else { return Err("no coordinator".to_owned()) };
        let books = &running.books;
        books.core.check()?;
        self.checker.replay(books)?;
        let mut made: BTreeMap<JobId, Millis> = BTreeMap::new();
        for made_here in &self.checker.log {
            for output in &made_here.outputs {
                if let Output::AttemptEnded { held, gpu, .. } = output {
                    let sum = made.entry(held.shard.job).or_default();
                    *sum = sum.plus(*gpu);
                }
            }
        }
        for client in &self.clients {
            let Some(job) = client.acknowledged() else {
                return Err("a caller has no job".to_owned());
            };
            let row = books.table.row(job);
            let Some(row) = row else { return Err(format!("nothing lost: {job} is gone")) };
            if !row.is_terminal() {
                return Err(format!("live: {job} is {:?}", row.state));
            }
            if row.gpu != made.get(&job).copied().unwrap_or_default() {
                return Err(format!("books balance: gpu time of {job}"));
            }
            let published = row.state == JobState::Completed && !row.deleted;
            match (published, self.store.pointers.get(&job)) {
                (true, None) => return Err(format!("published once: {job} has no pointer")),
                (true, there) if there != row.assets.as_ref() => {
                    return Err(format!("published once: {job} points elsewhere"));
                }
                (false, Some(_)) => {
                    return Err(format!(
                        "cancel is final: {job} is {:?} and has a pointer",
                        row.state
                    ));
                }
                _ => {}
            }
            for asset in row.assets.iter().filter(|_| published).flat_map(|a| a.artifacts()) {
                if !self.store.has(&asset) && !self.checker.lost.contains(&asset) {
                    return Err(format!("books balance: {asset:?} of {job} is missing"));
                }
            }
            match row.state {
                JobState::Completed => self.checker.completed += 1,
                _ => self.checker.failed += 1,
            }
        }
        let unused = self.store.list().find(|artifact| !books.table.uses(artifact));
        if let Some(artifact) = unused {
            return Err(format!("books balance: nobody uses {artifact:?}, and it stays"));
        }
        Ok(())
    }
}
