//! Claims that wait for the signer: what was asked, what must be asked again, what is given up.
//!
//! Pure: the time is an argument. Part of [`Transfers`](super::transfer::Transfers).

use super::transfer::Patience;
use crate::gpu::attempt::AttemptKey;
use crate::gpu::courier::{ClaimRequest, CourierError, Given, Question};
use std::collections::BTreeMap;
use std::time::Instant;
use zoetrope_protocol::job::Cause;

struct Open {
    request: ClaimRequest,
    /// None: to be asked.
    asked: Option<Instant>,
}

/// All open questions to the signer: one for each attempt, which waits for the answer.
#[derive(Default)]
pub struct Claims {
    open: BTreeMap<AttemptKey, Open>,
}

impl Claims {
    /// Takes a question on.
    pub fn ask(&mut self, request: ClaimRequest) {
        // The gpu thread asks one at a time; a sender that is replaced tells its asker that it was given up.
        self.open.insert(request.key, Open { request, asked: None });
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Questions to be asked; they count as asked from now on.
    pub fn to_say(&mut self, now: Instant) -> Vec<(AttemptKey, Question)> {
        let due = self.open.iter_mut().filter(|(_, open)| open.asked.is_none());
        due.map(|(key, open)| {
            open.asked = Some(now);
            (*key, open.request.question.clone())
        })
        .collect()
    }

    /// The link is gone: everything is asked again on the next one, without costing a try.
    pub fn link_lost(&mut self) {
        for open in self.open.values_mut() {
            open.asked = None;
        }
    }

    /// An answer came. One to another question than the open one is old news.
    pub fn answered(&mut self, key: AttemptKey, answer: Result<Given, (Cause, String)>) {
        let Some(open) = self.open.get(&key) else { return };
        let fits = match (&open.request.question, &answer) {
            (Question::Terms, Ok(Given::Terms(_)))
            | (Question::Sign { .. }, Ok(Given::Signature(_)))
            | (_, Err(_)) => true,
            (_, Ok(_)) => false,
        };
        if !fits {
            return;
        }
        let answer = answer.map_err(|(cause, reason)| match cause {
            Cause::DependencyDown => CourierError::Down(reason),
            Cause::CheckFailed => CourierError::Refused(reason),
            Cause::ArtifactMissing => CourierError::Missing(reason),
            _ => CourierError::GivenUp,
        });
        if let Some(open) = self.open.remove(&key) {
            open.request.reply.send(answer).ok(); // the gpu thread may have given up
        }
    }

    /// Looks for answers that did not come.
    pub fn overdue(&mut self, patience: Patience, now: Instant) {
        let late = |open: &Open| {
            open.asked.is_some_and(|at| now.saturating_duration_since(at) >= patience.answer)
        };
        let keys: Vec<AttemptKey> =
            self.open.iter().filter(|(_, open)| late(open)).map(|(key, _)| *key).collect();
        for key in keys {
            let reason = "the signer's answer did not come in time".to_owned();
            self.answered(key, Err((Cause::DependencyDown, reason)));
        }
    }

    /// Ends the questions of one attempt, or of all.
    pub fn give_up(&mut self, of: Option<AttemptKey>, error: &CourierError) {
        let keys: Vec<AttemptKey> =
            self.open.keys().copied().filter(|key| of.is_none_or(|of| of == *key)).collect();
        for key in keys {
            if let Some(open) = self.open.remove(&key) {
                open.request.reply.send(Err(error.clone())).ok(); // as above
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;
    use zoetrope_protocol::ArtifactId;

    type Answer = oneshot::Receiver<Result<Given, CourierError>>;

    fn asked(claims: &mut Claims) -> Answer {
        let (reply, answer) = oneshot::channel();
        let question =
            Question::Sign { unsigned: ArtifactId([1; 32]), manifest: vec![1], scores: None };
        claims.ask(ClaimRequest { key: AttemptKey(1), question, reply });
        answer
    }

    /// Promise: a lost link costs nothing, silence ends it as a dependency that is down, and only the right answer counts.
    #[test]
    fn a_claim_is_asked_again_until_it_is_answered_or_given_up() {
        let mut claims = Claims::default();
        let mut answer = asked(&mut claims);
        let (patience, mut now) = (Patience::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(claims.to_say(now).len(), 1);
            assert!(claims.to_say(now).is_empty());
            claims.link_lost();
        }
        claims.to_say(now);
        claims.answered(AttemptKey(2), Ok(Given::Signature(vec![2])));
        assert!(answer.try_recv().is_err(), "another attempt's answer");
        claims.answered(AttemptKey(1), Ok(Given::Signature(vec![2])));
        assert!(matches!(answer.try_recv(), Ok(Ok(Given::Signature(_)))));

        let mut answer = asked(&mut claims);
        assert_eq!(claims.to_say(now).len(), 1);
        now += patience.answer;
        claims.overdue(patience, now);
        assert!(matches!(answer.try_recv(), Ok(Err(CourierError::Down(_)))));
        assert!(claims.is_empty());

        let mut answer = asked(&mut claims);
        claims.give_up(None, &CourierError::GivenUp);
        assert!(matches!(answer.try_recv(), Ok(Err(CourierError::GivenUp))));
    }
}
