//! The timer wheel and the slot table, each against what one would take from the shelf.
//!
//! `cargo bench --bench engine`. Answers are asserted before anything is timed.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ringwire::driver::{PeerAddr, Token};
use ringwire::engine::slot::{PeerTable, Phase, Slot};
use ringwire::engine::table::Table;
use ringwire::engine::wheel::{Links, Nodes, Wheel};
use ringwire::ws::{Role, Session};
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::Duration;

const TIMERS: u32 = 100_000;

struct Bare(Vec<Links>);

impl Nodes for Bare {
    fn links(&mut self, index: u32) -> &mut Links {
        &mut self.0[index as usize]
    }
}

/// A spread of deadlines like idle timers': anywhere within 170 s of 8-ms ticks.
fn tick_of(index: u32) -> u32 {
    1 + index.wrapping_mul(2_654_435_761) % 21_250
}

fn armed_wheel() -> (Wheel, Bare) {
    let mut nodes = Bare(vec![Links::IDLE; TIMERS as usize]);
    let mut wheel = Wheel::new(0);
    for index in 0..TIMERS {
        wheel.arm(&mut nodes, index, tick_of(index));
    }
    (wheel, nodes)
}

fn armed_map() -> BTreeMap<(u32, u32), ()> {
    (0..TIMERS).map(|index| ((tick_of(index), index), ())).collect()
}

fn fire_wheel((mut wheel, mut nodes): (Wheel, Bare)) -> usize {
    let mut due = Vec::new();
    let mut fired = 0;
    for tick in 0..=21_250 {
        wheel.advance(&mut nodes, tick, &mut due);
        fired += due.len();
        due.clear();
    }
    fired
}

fn fire_map(mut map: BTreeMap<(u32, u32), ()>) -> usize {
    let mut fired = 0;
    for tick in 0..=21_250 {
        while map.first_key_value().is_some_and(|((when, _), ())| *when <= tick) {
            map.pop_first();
            fired += 1;
        }
    }
    fired
}

fn wheel(c: &mut Criterion) {
    assert_eq!(fire_wheel(armed_wheel()), TIMERS as usize);
    assert_eq!(fire_map(armed_map()), TIMERS as usize);
    let mut group = c.benchmark_group("100,000 timers");
    group.bench_function("arm: wheel", |b| b.iter(armed_wheel));
    group.bench_function("arm: BTreeMap", |b| b.iter(armed_map));
    group.bench_function("fire all: wheel", |b| {
        b.iter_batched(armed_wheel, fire_wheel, BatchSize::LargeInput);
    });
    group.bench_function("fire all: BTreeMap", |b| {
        b.iter_batched(armed_map, fire_map, BatchSize::LargeInput);
    });
    group.finish();
}

fn slot(peers: &mut PeerTable, generation: u32) -> Slot {
    Slot::new(peers, PeerAddr::Unix, generation, 0, Phase::Open, Session::new(Role::Server))
}

fn table(c: &mut Criterion) {
    let mut peers = PeerTable::default();
    let mut table = Table::<u64>::default();
    let mut map = HashMap::new();
    let mut tokens: Vec<Token> =
        (0..TIMERS).map(|_| table.insert(|generation| slot(&mut peers, generation))).collect();
    for token in &tokens {
        map.insert((token.slot, token.generation), slot(&mut peers, token.generation));
    }
    // Events come in an order of their own.
    tokens.sort_by_key(|token| token.slot.wrapping_mul(2_654_435_761));
    let stale = Token { generation: tokens[0].generation + 1, ..tokens[0] };
    assert!(table.get(stale).is_none() && table.get(tokens[0]).is_some());
    let mut group = c.benchmark_group("find 100,000 connections by token");
    group.bench_function("table", |b| {
        b.iter(|| tokens.iter().filter(|token| table.get(black_box(**token)).is_some()).count());
    });
    group.bench_function("HashMap", |b| {
        b.iter(|| {
            let found = |token: &&Token| map.contains_key(&black_box((token.slot, token.generation)));
            tokens.iter().filter(found).count()
        });
    });
    group.finish();
    let mut group = c.benchmark_group("open and close a connection");
    group.bench_function("table", |b| {
        b.iter(|| {
            let token = table.insert(|generation| slot(&mut peers, generation));
            table.remove(black_box(token)).is_some()
        });
    });
    let mut generation = TIMERS + 1;
    group.bench_function("HashMap", |b| {
        b.iter(|| {
            generation += 1;
            map.insert((TIMERS, generation), slot(&mut peers, generation));
            map.remove(&black_box((TIMERS, generation))).is_some()
        });
    });
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! { name = benches; config = quick(); targets = wheel, table }
criterion_main!(benches);
