//! Unmasking and UTF-8 beside what they are measured against, answers checked before the clock runs.
//!
//! `cargo bench --bench simd` runs criterion and then prints the ratios, which come out of rounds
//! in which both sides take turns; `cargo bench --bench simd -- ratios` prints only those.

use criterion::{BenchmarkId, Criterion, Throughput};
use ringwire::simd::{self, Utf8};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const SIZES: [usize; 6] = [20, 125, 1 << 10, 16 << 10, 64 << 10, 1 << 20];
/// A server's view of a payload: behind a client's header of 8 bytes.
const HEADER_BYTES: usize = 8;
const PAGE_BYTES: usize = 4096;

const ASCII: &str = "The quick brown fox jumps over the lazy dog. ";
const MIXED: &str = "你好，世界🙂 今日は🚀とても良い天気ですね。안녕하세요 👩‍💻 ";

/// `len` bytes of `pattern`, cut at a character boundary and filled up with spaces.
fn text(pattern: &str, len: usize) -> Vec<u8> {
    let mut text = pattern.repeat(len / pattern.len() + 1);
    while text.len() > len {
        text.pop();
    }
    let mut text = text.into_bytes();
    text.resize(len, b' ');
    text
}

/// How many payloads a [`Burst`] holds.
fn burst_count(len: usize) -> usize {
    ((16 << 10) / (HEADER_BYTES + len)).max(1)
}

/// Payloads behind their headers as a receive buffer holds them, 16 KiB or one payload of them, and
/// as much room again for `copy_within` to copy to. Rounds go over all of them: a round over one
/// would measure how well a CPU loads what it has not finished storing.
struct Burst {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    count: usize,
}

impl Burst {
    fn new(pattern: &str, len: usize) -> Self {
        let count = burst_count(len);
        let frame = [vec![0; HEADER_BYTES], text(pattern, len)].concat();
        // Every burst begins at a page: where in a cache line frames lie is worth 15 %.
        let mut memory: Vec<u8> = Vec::with_capacity(2 * count * frame.len() + PAGE_BYTES);
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        memory.resize(start, 0);
        memory.extend(frame.repeat(2 * count));
        Self { memory, start, len, count }
    }

    fn payloads(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let frames = self.memory[self.start..].chunks_exact_mut(HEADER_BYTES + self.len).take(self.count);
        frames.map(|frame| black_box(&mut frame[HEADER_BYTES..]))
    }

    /// Copies every payload, `distance` bytes up or down in memory.
    fn copy_payloads(&mut self, distance: isize) {
        let stride = HEADER_BYTES + self.len;
        for frame in 0..self.count {
            let start = self.start + frame * stride + HEADER_BYTES;
            self.memory.copy_within(start..start + self.len, start.wrapping_add_signed(distance));
            black_box(&mut self.memory);
        }
    }
}

/// Two contestants that do the same work in their own way.
struct Pair {
    name: &'static str,
    len: usize,
    count: usize,
    ours: Box<dyn FnMut()>,
    theirs: Box<dyn FnMut()>,
}

impl Pair {
    fn new(
        name: &'static str,
        len: usize,
        ours: impl FnMut() + 'static,
        theirs: impl FnMut() + 'static,
    ) -> Self {
        Self { name, len, count: burst_count(len), ours: Box::new(ours), theirs: Box::new(theirs) }
    }
}

/// Masks a text, runs `operation` on it and insists on the text.
fn assert_unmasks(pattern: &str, len: usize, operation: impl FnOnce(&mut [u8])) {
    let mut bytes = text(pattern, len);
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte ^= MASK[i % 4];
    }
    operation(&mut bytes);
    assert_eq!(bytes, text(pattern, len));
}

/// A mask that changes nothing: a text stays the same text from round to round, the work is the same.
fn idle_mask() -> [u8; 4] {
    black_box([0; 4])
}

fn unmask_all(burst: &mut Burst) {
    let mask = idle_mask();
    for payload in burst.payloads() {
        assert!(simd::unmask(payload, mask, 0));
    }
}

fn unmask_against_copy(len: usize) -> Pair {
    assert_unmasks(ASCII, len, |bytes| assert!(simd::unmask(bytes, MASK, 0)));
    let (mut a, mut b) = (Burst::new(ASCII, len), Burst::new(ASCII, len));
    let half = (b.count * (HEADER_BYTES + len)).cast_signed();
    Pair::new(
        "unmask / copy_within elsewhere",
        len,
        move || unmask_all(&mut a),
        move || b.copy_payloads(half),
    )
}

fn unmask_against_shift(len: usize) -> Pair {
    let (mut a, mut b) = (Burst::new(ASCII, len), Burst::new(ASCII, len));
    Pair::new("unmask / copy_within by 8 bytes", len, move || unmask_all(&mut a), move || b.copy_payloads(-8))
}

fn ascii_text_against_unmask(len: usize) -> Pair {
    assert_unmasks(ASCII, len, |bytes| assert!(simd::unmask_validate_whole(bytes, MASK, 0)));
    let (mut a, mut b) = (Burst::new(ASCII, len), Burst::new(ASCII, len));
    let ours = move || {
        let mask = idle_mask();
        for payload in a.payloads() {
            assert!(simd::unmask_validate_whole(payload, mask, 0));
        }
    };
    Pair::new("unmask+validate ASCII / unmask", len, ours, move || unmask_all(&mut b))
}

fn mixed_text_against_two_passes(len: usize) -> Pair {
    assert_unmasks(MIXED, len, |bytes| assert!(simd::unmask_validate_whole(bytes, MASK, 0)));
    let (mut a, mut b) = (Burst::new(MIXED, len), Burst::new(MIXED, len));
    let ours = move || {
        let mask = idle_mask();
        for payload in a.payloads() {
            assert!(simd::unmask_validate_whole(payload, mask, 0));
        }
    };
    let theirs = move || {
        let mask = idle_mask();
        for payload in b.payloads() {
            simd::unmask(payload, mask, 0);
            assert!(simdutf8::basic::from_utf8(payload).is_ok());
        }
    };
    Pair::new("unmask+validate CJK / unmask, simdutf8", len, ours, theirs)
}

fn mixed_text_against_simdutf8(len: usize) -> Pair {
    let (mut a, mut b) = (Burst::new(MIXED, len), Burst::new(MIXED, len));
    let ours = move || {
        for payload in a.payloads() {
            let mut utf8 = Utf8::default();
            assert!(utf8.validate(payload).is_ok() && utf8.finish().is_ok());
        }
    };
    let theirs = move || {
        for payload in b.payloads() {
            assert!(simdutf8::basic::from_utf8(payload).is_ok());
        }
    };
    Pair::new("validate CJK / simdutf8", len, ours, theirs)
}

const PAIRS: [fn(usize) -> Pair; 5] = [
    unmask_against_copy,
    unmask_against_shift,
    ascii_text_against_unmask,
    mixed_text_against_two_passes,
    mixed_text_against_simdutf8,
];

fn run_criterion() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    for (pair, len) in PAIRS.into_iter().flat_map(|pair| SIZES.map(|len| (pair, len))) {
        let mut pair = pair(len);
        let mut group = criterion.benchmark_group(pair.name.replace(" / ", " against "));
        group.throughput(Throughput::Bytes((len * pair.count) as u64));
        group.bench_function(BenchmarkId::new("ours", len), |bencher| bencher.iter(&mut pair.ours));
        group.bench_function(BenchmarkId::new("theirs", len), |bencher| bencher.iter(&mut pair.theirs));
    }
    criterion.final_summary();
}

/// Nanoseconds per call over `calls` calls.
fn time(calls: u32, contestant: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        contestant();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Both sides in turn for 201 rounds of about 100 µs each; medians of the times and of the
/// rounds' ratios.
fn print_ratios() {
    println!("\nSIMD level {}; ratio is time of the first over time of the second", simd::level());
    println!("{:<40} {:>9} {:>11} {:>11} {:>7}", "first / second", "bytes", "first ns", "second ns", "ratio");
    for (pair, len) in PAIRS.into_iter().flat_map(|pair| SIZES.map(|len| (pair, len))) {
        let mut pair = pair(len);
        let calls = (100_000.0 / time(10, &mut pair.theirs)).max(1.0) as u32;
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..201 {
            ours.push(time(calls, &mut pair.ours));
            theirs.push(time(calls, &mut pair.theirs));
            ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
        }
        let payloads = pair.count as f64;
        let (ours, theirs) = (median(&mut ours) / payloads, median(&mut theirs) / payloads);
        let ratio = median(&mut ratios);
        println!("{:<40} {:>9} {ours:>11.1} {theirs:>11.1} {ratio:>7.2}", pair.name, pair.len);
    }
}

fn main() {
    run_criterion();
    // `cargo test --benches` only asks whether it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        print_ratios();
    }
}
