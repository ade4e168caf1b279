//! The network: connections whose frames keep their order, come late, or not at all. QUIC delivers in order or
//! ends the connection, so loss shows as delay, a partition as silence, and a death as both.

use crate::world::{Event, World};
use serde::Serialize;
use zoetrope_protocol::codec;

/// One connection of a worker.
#[derive(Clone, Debug)]
pub struct Conn {
    /// Whose.
    pub worker: usize,
    /// To which coordinator.
    pub host: usize,
    /// To which life of it.
    pub life: u64,
    /// When the last frame of each direction arrives: to the host, to the worker.
    last: [u64; 2],
    /// What waits for a partition to end, by direction.
    stuck: [Vec<Event>; 2],
    /// One end closed it, and what was in flight is lost.
    pub cut: bool,
}

/// Which directions of a worker's way are cut, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// From the worker to the coordinator.
    pub up_cut_until: u64,
    /// From the coordinator to the worker.
    pub down_cut_until: u64,
}

impl World {
    /// Opens a connection of a worker.
    pub fn open(&mut self, worker: usize, host: usize) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let conn = Conn {
            worker,
            host,
            life: self.hosts[host].life,
            last: [0; 2],
            stuck: [Vec::new(), Vec::new()],
            cut: false,
        };
        self.conns.insert(id, conn);
        id
    }

    /// Whether a direction of a worker's way is open.
    pub fn passes(&self, worker: usize, to_host: bool) -> bool {
        let way = &self.workers[worker].way;
        let until = if to_host { way.up_cut_until } else { way.down_cut_until };
        until <= self.now
    }

    /// Sends a frame of the control stream.
    pub fn send<T: Serialize>(&mut self, conn: u64, to_host: bool, message: &T) {
        let Ok(frame) = codec::frame(message) else {
            return self.checker.breaks("a frame of ours is too long".to_owned());
        };
        let bytes = frame[codec::LENGTH_BYTES..].to_vec();
        self.carry(conn, to_host, true, Event::Frame { conn, to_host, bytes });
    }

    /// Brings an event to the other end; `ordered` behind all that went before.
    pub fn carry(&mut self, conn: u64, to_host: bool, ordered: bool, event: Event) {
        let delay = self.delay();
        let Some(of) = self.conns.get(&conn) else { return };
        let (worker, direction) = (of.worker, usize::from(!to_host));
        let passes = of.stuck[direction].is_empty() && self.passes(worker, to_host);
        let Some(of) = self.conns.get_mut(&conn) else { return };
        if !passes {
            of.stuck[direction].push(event);
            return;
        }
        let mut arrival = self.now + delay;
        if ordered {
            arrival = arrival.max(of.last[direction]);
            of.last[direction] = arrival;
        }
        let after = arrival - self.now;
        self.at(after, event);
    }

    fn delay(&mut self) -> u64 {
        match self.chance.range(0, 63) {
            0 => self.chance.range(50, 2_000),
            1..=8 => self.chance.range(5, 50),
            _ => self.chance.range(0, 5),
        }
    }

    /// A partition may be over: what waited for it goes on.
    pub fn release(&mut self, worker: usize) {
        let ids: Vec<u64> =
            self.conns.iter().filter(|(_, c)| c.worker == worker).map(|(id, _)| *id).collect();
        for id in ids {
            for to_host in [true, false] {
                if !self.passes(worker, to_host) {
                    continue;
                }
                let Some(conn) = self.conns.get_mut(&id) else { continue };
                for event in std::mem::take(&mut conn.stuck[usize::from(!to_host)]) {
                    self.carry(id, to_host, true, event);
                }
            }
        }
    }

    /// One end closes a connection: what is in flight from it is lost, and the other end hears of it, if it can.
    pub fn close(&mut self, conn: u64, by_host: bool) {
        let lossy = self.chance.one_in(2);
        let Some(of) = self.conns.get_mut(&conn) else { return };
        of.cut |= lossy;
        if by_host {
            self.forget_session(conn);
        }
        self.carry(conn, !by_host, true, Event::Closed { conn, to_host: !by_host });
    }
}
