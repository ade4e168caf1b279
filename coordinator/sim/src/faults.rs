//! The faults, each at a moment that the seed chooses; and the end of all faults.

use crate::client::Client;
use crate::host::{Host, Point};
use crate::world::{Event, World};
use zoetrope_protocol::id::{Millis, TenantId};
use zoetrope_protocol::wire::DrainKind;
use zoetrope_sched::Input;
use zoetrope_sched::input::TenantPolicy;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Crash,
    CrashAtSync,
    PauseHost,
    Kill,
    Zombie,
    Storm,
    Cut,
    Partition,
    StoreOutage,
    SlowDisk,
    FullDisk,
    Flip,
    ClockJump,
    Leave,
    TenantChange,
    Stray,
    ArtifactLost,
    /// Not a fault: a partition of this worker may be over.
    Release(usize),
}

const POINTS: [Point; 4] =
    [Point::BeforeWrite, Point::BeforeSync, Point::AfterSync, Point::AfterEffects];

impl World {
    /// Chooses when each fault comes.
    pub fn plan_faults(&mut self) {
        let f = self.plan.faults;
        let all = [
            (Fault::Crash, f.crashes),
            (Fault::CrashAtSync, f.crashes_at_sync),
            (Fault::PauseHost, f.pauses),
            (Fault::Kill, f.kills),
            (Fault::Zombie, f.zombies),
            (Fault::Storm, f.storms),
            (Fault::Cut, f.cuts),
            (Fault::Partition, f.partitions),
            (Fault::StoreOutage, f.store_outages),
            (Fault::SlowDisk, f.slow_disks),
            (Fault::FullDisk, f.full_disks),
            (Fault::Flip, f.flips),
            (Fault::ClockJump, f.clock_jumps),
            (Fault::Leave, f.leaves),
            (Fault::TenantChange, f.tenant_changes),
            (Fault::Stray, f.strays),
            (Fault::ArtifactLost, f.artifacts_lost),
        ];
        for (fault, many) in all {
            for _ in 0..many {
                let at = self.chance.range(100, self.plan.faults_until);
                self.at(at, Event::Fault(fault));
            }
        }
    }

    fn any_worker(&mut self) -> usize {
        self.chance.index(self.workers.len())
    }

    /// A fault happens.
    pub fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Release(worker) => return self.release(worker),
            _ if self.healed => return,
            _ => {}
        }
        let now = self.now;
        match fault {
            Fault::Crash => self.crash(0),
            Fault::CrashAtSync => {
                let syncs = self.chance.range(1, 6);
                let point = POINTS[self.chance.index(POINTS.len())];
                self.hosts[0].dies = Some((syncs, point));
            }
            Fault::PauseHost => self.hosts[0].paused_until = now + self.chance.range(500, 20_000),
            Fault::Kill => {
                let (worker, after) = (self.any_worker(), self.chance.range(100, 30_000));
                self.kill(worker, after);
                if self.chance.one_in(4) && worker ^ 1 < self.workers.len() {
                    // Its host is gone, and with it the other worker there.
                    self.kill(worker ^ 1, after);
                }
            }
            Fault::Zombie => {
                let (worker, length) = (self.any_worker(), self.chance.range(1_000, 60_000));
                self.workers[worker].paused_until = now + length;
            }
            Fault::Storm => {
                for worker in 0..self.workers.len() {
                    let after = self.chance.range(100, 5_000);
                    self.kill(worker, after);
                }
            }
            Fault::Cut => {
                let worker = self.any_worker();
                let mine = self.conns.iter().rev().find(|(_, conn)| conn.worker == worker);
                if let Some(conn) = mine.map(|(id, _)| *id) {
                    if let Some(of) = self.conns.get_mut(&conn) {
                        of.cut = true;
                    }
                    // One end hears of it, the other by silence.
                    let (after, to_host) = (self.chance.range(0, 3_000), self.chance.one_in(2));
                    self.at(after, Event::Closed { conn, to_host });
                }
            }
            Fault::Partition => self.partition(),
            Fault::StoreOutage => self.store.down_until = now + self.chance.range(500, 60_000),
            Fault::SlowDisk => self.hosts[0].slow_until = now + self.chance.range(1_000, 30_000),
            Fault::FullDisk => self.hosts[0].full_until = now + self.chance.range(500, 20_000),
            Fault::Flip => {
                if self.hosts[0].running.is_some() {
                    self.crash(0);
                }
                self.hosts[0].disk.flip(&mut self.chance);
            }
            Fault::ClockJump => {
                let by = self.chance.range(0, 7_200_000) as i64 - 3_600_000;
                self.hosts[0].skew += by;
            }
            Fault::Leave => self.operator(),
            Fault::TenantChange => {
                let tenant = TenantId(self.chance.range(1, self.plan.caps.len() as u64) as u32);
                let policy = TenantPolicy {
                    weight: self.chance.range(1, 5) as u32,
                    running_max: self.chance.range(1, 4) as u32,
                };
                self.input(0, Input::TenantSet { tenant, policy });
                self.commit(0);
            }
            Fault::Stray => self.stray(),
            Fault::ArtifactLost => {
                let all: Vec<_> = self.store.list().copied().collect();
                if !all.is_empty() {
                    let lost = all[self.chance.index(all.len())];
                    self.store.lose(&lost);
                    self.checker.artifact_lost(&lost);
                }
            }
            Fault::Release(_) => {}
        }
    }

    fn partition(&mut self) {
        let length = self.chance.range(500, 60_000);
        let until = self.now + length;
        let all = self.chance.one_in(4);
        let (up, down) = [(true, true), (true, false), (false, true)][self.chance.index(3)];
        let one = self.any_worker();
        for worker in 0..self.workers.len() {
            if all || worker == one {
                let way = &mut self.workers[worker].way;
                if up {
                    way.up_cut_until = way.up_cut_until.max(until);
                }
                if down {
                    way.down_cut_until = way.down_cut_until.max(until);
                }
                self.at(length, Event::Fault(Fault::Release(worker)));
            }
        }
    }

    /// An operator moves a job, drains or cordons a worker, or its machine gets notice that it goes.
    fn operator(&mut self) {
        let Some(running) = &self.hosts[0].running else { return };
        let known: Vec<_> = running.books.core.workers().map(|view| view.worker).collect();
        if known.is_empty() {
            return;
        }
        let worker = known[self.chance.index(known.len())];
        let within = Millis(self.chance.range(1_000, 120_000));
        let drain =
            [DrainKind::Immediate, DrainKind::Step, DrainKind::Shard, DrainKind::Deadline(within)]
                [self.chance.index(4)];
        match self.chance.range(0, 3) {
            0 => {
                let jobs: Vec<_> = self.clients.iter().filter_map(Client::acknowledged).collect();
                let to = self.chance.one_in(2).then_some(worker);
                if !jobs.is_empty() {
                    let job = jobs[self.chance.index(jobs.len())];
                    self.input(0, Input::MoveAsked { job, to });
                    self.commit(0);
                }
            }
            1 => {
                self.input(0, Input::DrainAsked { worker, drain });
                self.commit(0);
            }
            2 => {
                self.input(0, Input::CordonSet { worker, cordoned: true });
                self.commit(0);
            }
            _ => {
                let machine = self.any_worker();
                if self.workers[machine].alive {
                    self.leave(machine, drain);
                }
            }
        }
    }

    /// An old copy of the coordinator's machine wakes up; or the one that is to wake up is copied.
    fn stray(&mut self) {
        if self.hosts.len() == 1 {
            let mut copy = Host::new(&self.plan);
            copy.disk = self.hosts[0].disk.clone();
            copy.disk.crash(&mut self.chance);
            copy.stray = true;
            self.hosts.push(copy);
            let (first, second) = (self.chance.range(100, 20_000), self.chance.range(100, 20_000));
            // Its epoch must be an old one: the real one restarts twice before the copy wakes up.
            self.at(first, Event::Fault(Fault::Crash));
            self.at(first + 9_000, Event::Fault(Fault::Crash));
            self.at(first + 20_000 + second, Event::Fault(Fault::Stray));
            return;
        }
        let (Some(running), None) = (&self.hosts[0].running, &self.hosts[1].running) else {
            return;
        };
        let newer = running.books.core.epoch().0;
        let mut books = self.hosts[1].disk.clone();
        let Ok(found) = books.recover() else { return };
        if found.books.core.epoch().0 + 2 <= newer {
            self.start(1);
            // Workers come to it when they dial.
            for worker in 0..self.workers.len() {
                if self.chance.one_in(2) {
                    let mine = self.conns.iter().rev().find(|(_, c)| c.worker == worker);
                    if let Some(conn) = mine.map(|(id, _)| *id) {
                        self.at(self.now % 7, Event::Closed { conn, to_host: false });
                    }
                }
            }
        }
    }

    /// From here on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.healed = true;
        if self.hosts.len() > 1 {
            self.hosts[1].running = None;
            self.hosts[1].life += 1;
        }
        for worker in 0..self.workers.len() {
            let of = &mut self.workers[worker];
            of.way = crate::net::Way::default();
            of.paused_until = 0;
            self.release(worker);
        }
        let host = &mut self.hosts[0];
        (host.paused_until, host.slow_until, host.full_until) = (0, 0, 0);
        host.dies = None;
        self.store.down_until = 0;
        // Whom an operator cordoned, he lets work again.
        let known: Vec<_> = match &self.hosts[0].running {
            Some(running) => running.books.core.workers().filter(|v| v.cordoned).collect(),
            None => Vec::new(),
        };
        for view in known {
            self.input(0, Input::CordonSet { worker: view.worker, cordoned: false });
        }
        self.commit(0);
    }

    /// A second passed.
    pub fn pulse(&mut self) {
        for host in 0..self.hosts.len() {
            self.host_pulse(host);
        }
        for worker in 0..self.workers.len() {
            self.worker_pulse(worker);
        }
        if self.healed && self.now.is_multiple_of(60_000) {
            self.uncordon();
        }
    }

    fn uncordon(&mut self) {
        let Some(running) = &self.hosts[0].running else { return };
        let cordoned: Vec<_> =
            running.books.core.workers().filter(|v| v.cordoned).map(|v| v.worker).collect();
        for worker in cordoned {
            self.input(0, Input::CordonSet { worker, cordoned: false });
        }
        self.commit(0);
    }
}
