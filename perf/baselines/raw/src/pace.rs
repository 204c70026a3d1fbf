//! How fast a core is where nothing waits: slower by up to a half while somebody else runs on the other
//! hardware thread of the same physical core, of which a virtual machine is not told.

use std::hint::black_box;
use std::time::Instant;

const BATCHES: usize = 9;
const STEPS: u64 = 30_000;
/// Chains of instructions that do not wait for each other: enough to keep every unit busy.
const CHAINS: usize = 8;

/// Prints picoseconds of a step, the median of some batches.
pub fn run(core: usize) {
    super::distance::pin(core);
    let mut batches = [0; BATCHES];
    for batch in &mut batches {
        let began = Instant::now();
        black_box(walk(STEPS));
        *batch = began.elapsed().as_nanos() * 1_000 / u128::from(STEPS);
    }
    batches.sort_unstable();
    println!("{}", batches[BATCHES / 2]);
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
