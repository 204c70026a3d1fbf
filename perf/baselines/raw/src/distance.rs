//! How long a write takes from one core to the other and back: what is shared between them costs that.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const BATCHES: usize = 9;
const TURNS: u32 = 1_000;

/// A cache line of its own, and the one that is fetched with it.
#[repr(align(128))]
struct Line(AtomicU32);

static LINE: Line = Line(AtomicU32::new(0));

/// Prints nanoseconds of a round trip, the median of some batches.
pub fn run(here: usize, there: usize) {
    let rounds = BATCHES as u32 * TURNS;
    let other = std::thread::spawn(move || {
        pin(there);
        (0..rounds).for_each(|n| pass(2 * n + 1));
    });
    pin(here);
    let mut batches = [0; BATCHES];
    for (at, batch) in batches.iter_mut().enumerate() {
        let began = Instant::now();
        for n in 0..TURNS {
            pass(2 * (at as u32 * TURNS + n));
        }
        *batch = began.elapsed().as_nanos() / u128::from(TURNS);
    }
    // The last pass of ours is answered as well.
    other.join().expect("it does not panic");
    batches.sort_unstable();
    println!("{}", batches[BATCHES / 2]);
}

/// Waits for a number and writes the next one.
fn pass(number: u32) {
    while LINE.0.load(Ordering::Acquire) != number {
        spin_loop();
    }
    LINE.0.store(number + 1, Ordering::Release);
}

/// Keeps the calling thread on a core.
pub fn pin(core: usize) {
    // SAFETY: a set is plain bits, and lives as long as the call that reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
