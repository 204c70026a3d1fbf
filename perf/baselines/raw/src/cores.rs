//! What a virtual machine is not told of its cores: how far apart two of them are, and whether somebody else runs on
//! the same physical one.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const BATCHES: usize = 9;
const TURNS: u32 = 1_000;
const STEPS: u64 = 30_000;
/// Chains of instructions that do not wait for each other: enough to keep every unit busy.
const CHAINS: usize = 8;

/// A cache line of its own, and the one that is fetched with it.
#[repr(align(128))]
struct Line(AtomicU32);

static LINE: Line = Line(AtomicU32::new(0));

/// Prints how many nanoseconds a write takes from one core to the other and back: what is shared between them costs
/// that.
pub fn distance(here: usize, there: usize) {
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
    print_median(batches);
}

/// Waits for a number and writes the next one.
fn pass(number: u32) {
    while LINE.0.load(Ordering::Acquire) != number {
        spin_loop();
    }
    LINE.0.store(number + 1, Ordering::Release);
}

/// Prints how many picoseconds a step takes where nothing waits: up to twice as many while somebody else runs on the
/// other hardware thread of the same physical core.
pub fn pace(core: usize) {
    pin(core);
    let mut batches = [0; BATCHES];
    for batch in &mut batches {
        let began = Instant::now();
        black_box(walk(STEPS));
        *batch = began.elapsed().as_nanos() * 1_000 / u128::from(STEPS);
    }
    print_median(batches);
}

fn walk(steps: u64) -> [u64; CHAINS] {
    let mut chains = [1_u64; CHAINS];
    for step in 0..steps {
        for chain in &mut chains {
            *chain = chain.wrapping_add(step).rotate_left(7) ^ step;
        }
        // Or the compiler would take the chains together.
        black_box(&chains);
    }
    chains
}

fn print_median(mut batches: [u128; BATCHES]) {
    batches.sort_unstable();
    println!("{}", batches[BATCHES / 2]);
}

fn pin(core: usize) {
    // SAFETY: a set is plain bits, and lives as long as the call that reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
