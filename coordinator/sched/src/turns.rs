//! Whose turn it is among the flows that wait for a kind: a tournament of four at each table. The first is known at
//! once, and a flow whose virtual time changes plays again on the way to the top alone.

use crate::index::Turn;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use zoetrope_protocol::id::TenantId;

/// Flows that play at one table: their turns fill a line of the cache.
const TABLE: usize = 4;
/// After every turn there is.
const NOBODY: u128 = u128::MAX;

/// A flow's place in [`Turns`].
pub(crate) type Seat = u32;

/// The turns of the flows that wait for one kind in one class.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Who plays at which table, then where the winners of these play, and so on; the last round has one table.
    rounds: Vec<Vec<[u128; TABLE]>>,
    first: u128,
    /// Seats without a flow.
    empty: Vec<Seat>,
    len: usize,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { rounds: Vec::new(), first: NOBODY, empty: Vec::new(), len: 0 }
    }
}

impl Turns {
    /// So many flows have their turn.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.first == NOBODY
    }

    /// The first.
    pub fn first(&self) -> Option<Turn> {
        (self.first != NOBODY).then(|| unpack(self.first))
    }

    /// The first as a number in the order of turns.
    pub fn order(&self) -> u128 {
        self.first
    }

    /// The first, and as a rule the second: the better of those that lost to it at the last table.
    pub fn first_two(&self) -> impl Iterator<Item = Turn> {
        let [a, b, c, d] = self.rounds.last().map_or([NOBODY; TABLE], |tables| tables[0]);
        let (ab, cd) = (a.min(b), c.min(d));
        let second = ab.max(cd).min(if ab < cd { a.max(b) } else { c.max(d) });
        [self.first, second].into_iter().filter(|player| *player != NOBODY).map(unpack)
    }

    /// Whether all are behind a turn.
    pub fn all_after(&self, turn: Turn) -> bool {
        pack(turn) < self.first
    }

    /// Gives a flow a seat, for the moment without a turn.
    pub fn sit(&mut self) -> Seat {
        if let Some(seat) = self.empty.pop() {
            return seat;
        }
        let players = self.rounds.first().map_or(0, |tables| tables.len() * TABLE);
        let mut tables = players / TABLE + 1;
        for round in 0.. {
            if round == self.rounds.len() {
                // One more round: at its first table plays who won so far.
                self.rounds.push(vec![[self.first, NOBODY, NOBODY, NOBODY]]);
            }
            self.rounds[round].resize(tables, [NOBODY; TABLE]);
            if tables == 1 {
                break;
            }
            tables = tables.div_ceil(TABLE);
        }
        self.empty.extend((players + 1..players + TABLE).rev().map(|seat| seat as Seat));
        players as Seat
    }

    /// Takes a flow's seat back.
    pub fn leave(&mut self, seat: Seat) {
        self.set(seat, None);
        self.empty.push(seat);
    }

    /// Sets the turn of a flow; none for one that may not have its turn now.
    pub fn set(&mut self, seat: Seat, turn: Option<Turn>) {
        let mut at = seat as usize;
        let mut winner = turn.map_or(NOBODY, pack);
        let before = self.rounds[0][at / TABLE][at % TABLE];
        self.len = self.len + usize::from(before == NOBODY) - usize::from(winner == NOBODY);
        for tables in &mut self.rounds {
            let table = &mut tables[at / TABLE];
            let player = &mut table[at % TABLE];
            if *player == winner {
                return;
            }
            *player = winner;
            let [a, b, c, d] = *table;
            winner = a.min(b).min(c.min(d));
            at /= TABLE;
        }
        self.first = winner;
    }

    /// The turn of a seat.
    pub fn turn(&self, seat: Seat) -> Option<Turn> {
        let turn = self.rounds[0][seat as usize / TABLE][seat as usize % TABLE];
        (turn != NOBODY).then(|| unpack(turn))
    }

    /// All, the first first. Costs something only from the second on.
    pub fn iter(&self) -> impl Iterator<Item = Turn> + '_ {
        let first = self.first();
        let rest = first.into_iter().flat_map(|_| self.after_first());
        first.into_iter().chain(rest)
    }

    /// What the first one gives for whom it gives something.
    pub fn find_map<T>(&self, give: impl Fn(Turn) -> Option<T>) -> Option<T> {
        let first = self.first()?;
        give(first).or_else(|| self.after_first().find_map(give))
    }

    fn after_first(&self) -> impl Iterator<Item = Turn> + '_ {
        // (turn, its round, its place there); the winner plays behind the last round.
        let mut heap = BinaryHeap::from([Reverse((self.first, self.rounds.len(), 0))]);
        let all = std::iter::from_fn(move || {
            loop {
                let Reverse((turn, round, at)) = heap.pop()?;
                if round == 0 {
                    return Some(unpack(turn));
                }
                let table = (at * TABLE..).zip(self.rounds[round - 1][at]);
                let playing = table.filter(|(_, player)| *player != NOBODY);
                heap.extend(playing.map(|(at, player)| Reverse((player, round - 1, at))));
            }
        });
        all.skip(1)
    }
}

/// One number in the order of turns.
fn pack(turn: Turn) -> u128 {
    u128::from(turn.virtual_time) << 64 | u128::from(turn.tenant.0) << 32 | u128::from(turn.place)
}

fn unpack(turn: u128) -> Turn {
    let tenant = TenantId((turn >> 32) as u32);
    Turn { virtual_time: (turn >> 64) as u64, tenant, place: turn as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Held against a sorted map, while flows come, go and change.
    #[test]
    fn the_order_is_that_of_the_turns() {
        let mut turns = Turns::default();
        let mut plain: BTreeMap<Turn, Seat> = BTreeMap::new();
        let mut silent: Vec<Seat> = Vec::new();
        let mut chance = 3_u64;
        for place in 0..2_000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let time = (chance >> 33) % 50;
            let turn = Turn { virtual_time: time, tenant: TenantId(place / 2), place };
            let seat = silent.pop().unwrap_or_else(|| turns.sit());
            turns.set(seat, Some(turn));
            plain.insert(turn, seat);
            match chance % 7 {
                0 | 1 => {
                    let (turn, seat) = plain.pop_first().expect("one is there");
                    assert_eq!(turns.turn(seat), Some(turn));
                    turns.leave(seat);
                }
                2 => {
                    let (_, seat) = plain.pop_last().expect("one is there");
                    turns.set(seat, None);
                    silent.push(seat);
                }
                _ => {}
            }
            assert_eq!(turns.first(), plain.keys().next().copied());
            assert_eq!(turns.len(), plain.len());
            let two: Vec<Turn> = turns.first_two().collect();
            assert_eq!(two.first(), plain.keys().next());
            assert!(two.iter().all(|turn| plain.contains_key(turn)) && two.is_sorted());
            if place % 100 == 0 {
                assert!(turns.iter().eq(plain.keys().copied()));
            }
        }
    }
}
