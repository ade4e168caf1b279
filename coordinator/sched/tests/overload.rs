//! What is promised under overload, on small farms with the invariants held after every input. The figures are in
//! `README.md`; `cargo run --release -p zoetrope-sched --example overload` makes them.

#[allow(dead_code)]
#[path = "../examples/overload/farm.rs"]
mod farm;
#[allow(dead_code)]
#[path = "../examples/overload/runs.rs"]
mod runs;

use runs::{Size, deadlines, estimates, fairness, flood};

const SMALL: Size = Size { workers: 16, hours: 1, seed: 7, checked: true };

#[test]
fn accepted_deadlines_are_kept_at_twice_the_load() {
    let small = deadlines(SMALL, 2.0);
    assert!(small.accepted > 50 && small.accepted < small.asked, "{small:?}");
    assert!(small.in_time * 100 >= small.accepted * 99, "{small:?}");
    assert!(small.busy > 0.6, "{small:?}");
}

#[test]
fn a_flood_does_not_move_the_others() {
    let small = flood(Size { checked: false, ..SMALL });
    assert!(small.flooded_ms * 100 <= small.quiet_ms * 130, "{small:?}");
}

#[test]
fn equal_tenants_get_equal_gpu_time() {
    let index = fairness(Size { hours: 6, checked: false, ..SMALL });
    assert!(index >= 0.97, "{index}");
}

#[test]
fn estimates_are_of_use() {
    let small = estimates(Size { workers: 8, hours: 2, checked: false, ..SMALL }, 0.85);
    assert!(small.jobs > 100 && small.wrong < 0.3, "{small:?}");
}
