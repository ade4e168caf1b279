//! Registers this coordinator in etcd and runs for leader: who is there, who leads, and whether it is still us.
//!
//! One lease of three seconds carries both the registration and, while this one leads, the election key. The lease
//! is renewed each second, and only an answer counts. The election key is looked at instead of watched: four small
//! reads a second from each coordinator never hang, miss nothing and need no care after a compaction. What follows
//! from leading is not decided here; `cluster` hears of it through [`Standing`].

use crate::etcd::{Etcd, EtcdError, Fence};
use crate::leadership::{LEASE, Leadership, RENEW_EVERY};
use crate::metrics::Metrics;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zoetrope_protocol::metric;

/// How often the election key is looked at; a failover waits half of it on average.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A leader without news of its lease for so long gives up, so that its workers look for another: by then etcd
/// can have had one for three seconds.
const STAND_DOWN: Duration = Duration::from_secs(6);
/// How long a leader that stepped aside leaves the election to others.
const ASIDE: Duration = Duration::from_secs(10);
/// How often etcd is asked for its size.
const SIZE_EVERY: Duration = Duration::from_secs(10);
/// How often a leader looks who else is there.
const MEMBERS_EVERY: Duration = Duration::from_secs(2);
/// Coordinators that are looked at: more than a farm has.
const MEMBERS_MAX: i64 = 64;
/// The election key.
const LEADER: &str = "leader";
/// What stands before the keys of registrations.
const MEMBERS: &str = "coordinators/";

/// A coordinator as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Random, chosen at each start of the process.
    pub id: String,
    /// Where its HTTP door is.
    pub http: String,
    /// Where workers reach it.
    pub link: String,
}

/// What this coordinator is at the moment.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Not the leader.
    Standby {
        /// Who is, if anybody.
        leader: Option<Member>,
    },
    /// The leader, for as long as this holds.
    Leading(Arc<Leadership>),
}

/// Registers and runs for leader.
pub struct RegistryActor;

/// What the registry is told.
pub enum RegistryMsg {
    /// A quarter of a second passed.
    Tick,
    /// A round of questions to etcd ended.
    Ended(Round),
    /// The term is over and all of its work has stopped: give the election key back. Answered when etcd has it,
    /// or cannot be asked.
    Resign {
        /// Whether to leave the next election to others.
        aside: bool,
        /// Who waits.
        reply: RpcReplyPort<()>,
    },
    /// What an operator may see.
    Observe(RpcReplyPort<RegistryView>),
}

/// The registry at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct RegistryView {
    /// Who leads.
    pub leader: Option<Member>,
    /// All coordinators that are registered, in the order of their ids.
    pub coordinators: Vec<Member>,
}

/// What the registry needs.
pub struct RegistryArguments {
    /// The farm's etcd.
    pub etcd: Etcd,
    /// This coordinator.
    pub me: Member,
    /// Gets what this coordinator is.
    pub standing: watch::Sender<Standing>,
    /// Gets where workers reach the coordinators.
    pub links: watch::Sender<Vec<String>>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

/// What one round of questions knew and found out.
#[derive(Default)]
pub struct Round {
    lease: Option<Lease>,
    /// The lease at its beginning.
    began: Option<i64>,
    /// A lease that is to end, because a term under it did.
    revoke: Option<i64>,
    /// Whether it has.
    revoked: bool,
    leader: Option<Option<Member>>,
    /// The revision of the election key, where it is ours.
    elected: Option<i64>,
    /// The election key is not the one that this coordinator leads by.
    deposed: bool,
    members: Option<Vec<Member>>,
    error: Option<EtcdError>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    /// When its newest confirmed renewal was asked for.
    confirmed: Instant,
}

/// The registry's own.
pub struct RegistryState {
    arguments: RegistryArguments,
    lease: Option<Lease>,
    revoke: Option<i64>,
    leading: Option<Arc<Leadership>>,
    leader: Option<Member>,
    members: Vec<Member>,
    looked: Option<Instant>,
    sized: Option<Instant>,
    aside: Option<Instant>,
    busy: bool,
    /// Whether trouble with etcd was told already.
    told: bool,
}

#[ractor::async_trait]
impl Actor for RegistryActor {
    type Msg = RegistryMsg;
    type State = RegistryState;
    type Arguments = RegistryArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<RegistryMsg>,
        arguments: RegistryArguments,
    ) -> Result<RegistryState, ActorProcessingErr> {
        tokio::spawn(tick(myself));
        Ok(RegistryState {
            arguments,
            lease: None,
            revoke: None,
            leading: None,
            leader: None,
            members: Vec::new(),
            looked: None,
            sized: None,
            aside: None,
            busy: false,
            told: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RegistryMsg>,
        message: RegistryMsg,
        state: &mut RegistryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryMsg::Tick => state.tick(&myself),
            RegistryMsg::Ended(round) => state.ended(round),
            RegistryMsg::Resign { aside, reply } => state.resign(aside, reply),
            RegistryMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }
}

impl RegistryState {
    fn tick(&mut self, myself: &ActorRef<RegistryMsg>) {
        self.look_at_term();
        if self.busy {
            return;
        }
        let due = |last: Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
        let renew = self.lease.is_some_and(|lease| lease.confirmed.elapsed() >= RENEW_EVERY);
        let members = due(self.looked, MEMBERS_EVERY);
        if self.leading.is_some() && !renew && !members && self.revoke.is_none() {
            return;
        }
        self.busy = true;
        let aside = self.aside.is_some_and(|until| until > Instant::now());
        let asks = Asks {
            etcd: self.arguments.etcd.clone(),
            me: self.arguments.me.clone(),
            renew,
            leads_by: self.leading.as_ref().and_then(|term| Some(term.fence()?.revision)),
            run: !aside,
            members,
        };
        let began = self.lease.map(|lease| lease.id);
        let round = Round { lease: self.lease, began, revoke: self.revoke, ..Round::default() };
        let myself = myself.clone();
        tokio::spawn(async move {
            let round = asks.round(round).await;
            // Without a registry nobody needs to know.
            drop(myself.cast(RegistryMsg::Ended(round)));
        });
        if due(self.sized, SIZE_EVERY) {
            self.sized = Some(Instant::now());
            let (etcd, metrics) = (self.arguments.etcd.clone(), self.arguments.metrics.clone());
            tokio::spawn(async move {
                if let Ok(bytes) = etcd.size().await {
                    metrics.set(&metric::ETCD_SIZE, &[], bytes as f64);
                }
            });
        }
    }

    /// A term ends when somebody found out that it did, or when there was no news for too long.
    fn look_at_term(&mut self) {
        let Some(leading) = &self.leading else { return };
        let silent = self.lease.is_none_or(|lease| lease.confirmed.elapsed() >= STAND_DOWN);
        if silent && !leading.lost().is_cancelled() {
            tracing::warn!("no news of the lease for too long: this coordinator no longer leads");
            leading.lose();
        }
        if leading.lost().is_cancelled() {
            self.over();
        }
    }

    /// What the old term still has under way carries its election key, so that key must not be used again: the
    /// lease ends, and the next term gets a new one.
    fn over(&mut self) {
        if let Some(leading) = self.leading.take() {
            leading.lose();
        }
        self.revoke = self.lease.take().map(|lease| lease.id).or(self.revoke);
        self.leader = None;
        self.arguments.standing.send_replace(Standing::Standby { leader: None });
    }

    fn ended(&mut self, round: Round) {
        self.busy = false;
        if round.revoked && self.revoke == round.revoke {
            self.revoke = None;
        }
        self.tell(round.error.as_ref());
        if self.lease.map(|lease| lease.id) != round.began {
            // The term ended while this round was under way, and its lease was put away.
            return;
        }
        self.lease = round.lease;
        match (&self.leading, self.lease) {
            (Some(_), Some(_)) if round.deposed => {
                tracing::warn!("the election key is gone: this coordinator no longer leads");
                self.over();
            }
            (Some(leading), Some(lease)) => leading.confirm(lease.confirmed),
            (Some(_), None) => {
                tracing::warn!("the lease has ended: this coordinator no longer leads");
                self.over();
            }
            (None, _) => {}
        }
        if let Some(members) = round.members {
            self.looked = Some(Instant::now());
            let links: Vec<String> = members.iter().map(|member| member.link.clone()).collect();
            self.arguments.links.send_if_modified(|known| {
                let changed = *known != links;
                *known = links;
                changed
            });
            self.members = members;
        }
        if self.leading.is_some() {
            return;
        }
        if let (Some(revision), Some(lease)) = (round.elected, self.lease) {
            let fence = Fence { key: LEADER.to_owned(), revision };
            let leadership = Leadership::elected(fence, lease.confirmed);
            self.leading = Some(leadership.clone());
            self.leader = Some(self.arguments.me.clone());
            self.arguments.standing.send_replace(Standing::Leading(leadership));
        } else if let Some(leader) = round.leader
            && leader != self.leader
        {
            self.leader = leader.clone();
            self.arguments.standing.send_replace(Standing::Standby { leader });
        }
    }

    fn tell(&mut self, error: Option<&EtcdError>) {
        match error {
            Some(error) if !self.told => {
                tracing::warn!(%error, "etcd is in trouble");
                self.told = true;
            }
            None if self.told => {
                tracing::info!("etcd answers again");
                self.told = false;
            }
            _ => {}
        }
    }

    fn resign(&mut self, aside: bool, reply: RpcReplyPort<()>) {
        if aside {
            self.aside = Some(Instant::now() + ASIDE);
        }
        self.over();
        let (etcd, lease) = (self.arguments.etcd.clone(), self.revoke);
        tokio::spawn(async move {
            if let Some(lease) = lease
                && let Err(error) = etcd.revoke(lease).await
            {
                tracing::warn!(%error, "the lease was not given back; it ends by itself");
            }
            // Who asked may be gone.
            drop(reply.send(()));
        });
    }

    fn observe(&self, reply: RpcReplyPort<RegistryView>) {
        let view = RegistryView { leader: self.leader.clone(), coordinators: self.members.clone() };
        // Who asked may be gone.
        drop(reply.send(view));
    }
}

/// A term does not outlive the one that renews it.
impl Drop for RegistryState {
    fn drop(&mut self) {
        if let Some(leading) = &self.leading {
            leading.lose();
        }
    }
}

/// What a round asks.
struct Asks {
    etcd: Etcd,
    me: Member,
    renew: bool,
    /// The revision of the election key that this coordinator leads by.
    leads_by: Option<i64>,
    run: bool,
    members: bool,
}

impl Asks {
    async fn round(&self, mut round: Round) -> Round {
        if let Err(error) = self.ask(&mut round).await {
            if matches!(error, EtcdError::LeaseGone) {
                round.lease = None;
            }
            round.error = Some(error);
        }
        round
    }

    async fn ask(&self, round: &mut Round) -> Result<(), EtcdError> {
        if let Some(old) = round.revoke.filter(|_| !round.revoked) {
            self.etcd.revoke(old).await?;
            round.revoked = true;
        }
        let lease = self.lease(round).await?;
        match self.leads_by {
            None => self.look(round, lease).await?,
            // A lease that holds says nothing of a key that somebody removed.
            Some(revision) => {
                let key = self.etcd.get(LEADER).await?;
                round.deposed = key.is_none_or(|key| key.created != revision);
            }
        }
        if self.members {
            let end = format!("{}0", MEMBERS.trim_end_matches('/'));
            let all = self.etcd.range(MEMBERS, &end, MEMBERS_MAX).await?;
            round.members = Some(all.iter().filter_map(|entry| member(&entry.value)).collect());
        }
        Ok(())
    }

    async fn lease(&self, round: &mut Round) -> Result<Lease, EtcdError> {
        // The time of the question counts, not that of the answer: etcd began to count somewhere between.
        let asked = Instant::now();
        match round.lease {
            Some(mut lease) => {
                if self.renew {
                    self.etcd.renew(lease.id).await?;
                    lease.confirmed = asked;
                    round.lease = Some(lease);
                }
                Ok(lease)
            }
            None => {
                let lease = Lease { id: self.etcd.grant(LEASE).await?, confirmed: asked };
                let key = format!("{MEMBERS}{}", self.me.id);
                self.etcd.put_leased(&key, &text(&self.me), lease.id).await?;
                round.lease = Some(lease);
                Ok(lease)
            }
        }
    }

    async fn look(&self, round: &mut Round, lease: Lease) -> Result<(), EtcdError> {
        let found = match self.etcd.get(LEADER).await? {
            Some(entry) => Some(entry),
            None if self.run => Some(self.etcd.claim(LEADER, &text(&self.me), lease.id).await?),
            None => None,
        };
        let leader = found.as_ref().and_then(|entry| member(&entry.value));
        // Also where an earlier claim of this lease was not answered.
        let ours = leader.as_ref().is_some_and(|leader| leader.id == self.me.id);
        round.elected =
            found.filter(|entry| ours && entry.lease == lease.id).map(|entry| entry.created);
        round.leader = Some(leader);
        Ok(())
    }
}

fn text(member: &Member) -> Vec<u8> {
    serde_json::to_vec(member).expect("three texts are JSON")
}

fn member(text: &[u8]) -> Option<Member> {
    serde_json::from_slice(text).ok()
}

async fn tick(registry: ActorRef<RegistryMsg>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        if registry.cast(RegistryMsg::Tick).is_err() {
            return;
        }
    }
}
