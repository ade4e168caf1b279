//! Places for greetings, shared by addresses: one that fills them holds up itself and not the farm's workers.
//!
//! As long as half of the places are free anybody may have them, as the workers of one large host that return at once;
//! then an address has a few. Pure, but for the lock around the counts. Called by `endpoint.rs`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Greetings that go on at a time. 10,000 workers that return at once are greeted within seconds.
const ALL_MAX: usize = 256;
/// Of one address, once half of them are taken: a host has a worker for each gpu.
const EACH_MAX: usize = 16;

/// The places.
#[derive(Debug, Default)]
pub(super) struct Greetings(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Greeting {
    greetings: Arc<Greetings>,
    from: IpAddr,
}

impl Greetings {
    /// Takes a place, if there is one for this address.
    pub fn take(self: &Arc<Self>, from: IpAddr) -> Option<Greeting> {
        let from = whose(from);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by.get(&from).copied().unwrap_or(0);
        if taken.all >= ALL_MAX || (taken.all >= ALL_MAX / 2 && own >= EACH_MAX) {
            return None;
        }
        taken.all += 1;
        taken.by.insert(from, own + 1);
        Some(Greeting { greetings: self.clone(), from })
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut taken = self.greetings.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        // Those who hold none are forgotten: the table is no longer than the places.
        if let Some(own) = taken.by.get_mut(&self.from) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.from);
            }
        }
    }
}

/// Who has an IPv6 address has the 2⁶⁴ of its network.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_places_to_the_others() {
        let greetings = Arc::new(Greetings::default());
        let of = |address: &str| greetings.take(address.parse().expect("an address"));
        let many: Vec<Greeting> = (0..ALL_MAX).map_while(|_| of("2001:db8::1")).collect();
        assert_eq!(many.len(), ALL_MAX / 2);
        assert!(of("2001:db8::2").is_none(), "of the same network");
        let others: Vec<Greeting> = (0..ALL_MAX).map_while(|_| of("192.0.2.1")).collect();
        assert_eq!(others.len(), EACH_MAX);
        assert!(of("192.0.2.2").is_some() && of("::ffff:192.0.2.1").is_none());
        drop((many, others));
        assert!(greetings.0.lock().expect("no panic").by.is_empty());
    }
}
