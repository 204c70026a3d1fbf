//! permessage-deflate beside miniz, another implementation in Rust, answers asserted.
//!
//! `cargo bench --bench deflate` runs criterion and then prints nanoseconds per message and bytes on
//! the wire; `cargo bench --bench deflate -- table` prints only those.

use criterion::{BenchmarkId, Criterion, Throughput};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use ringwire::ws::Kind;
use ringwire::ws::deflate::{Deflater, InflateLimits, Inflater, Inflating};
use std::hint::black_box;
use std::time::{Duration, Instant};

const LIMITS: InflateLimits = InflateLimits { max_message_bytes: 1 << 20, max_ratio: 0 };
const SIZES: [usize; 5] = [64, 128, 256, 1 << 10, 16 << 10];
/// So many messages take turns, that no predictor learns one by heart.
const MESSAGES: usize = 64;

/// Records as services send them.
fn json(len: usize, seed: u64) -> Vec<u8> {
    const NAMES: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::from("[");
    while text.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        text.push_str(&format!(
            "{{\"id\":{},\"user\":\"{}\",\"price\":{}.{:02},\"active\":{},\"tags\":[\"t{}\",\"t{}\"]}},",
            x % 1_000_000,
            NAMES[(x >> 20) as usize % NAMES.len()],
            x % 977,
            x % 100,
            x.is_multiple_of(2),
            (x >> 8) % 20,
            (x >> 12) % 20
        ));
    }
    text.truncate(len);
    text.into_bytes()
}

fn messages(len: usize) -> Vec<Vec<u8>> {
    (1..=MESSAGES as u64).map(|seed| json(len, seed)).collect()
}

/// One of the contestants; takes the number of the message and returns the bytes it made.
type Contestant = Box<dyn FnMut(usize) -> usize>;

fn ours(level: u8, takeover: bool, messages: &[Vec<u8>]) -> Contestant {
    let (messages, mut deflater, mut out) = (messages.to_vec(), Deflater::new(level, 15), Vec::new());
    Box::new(move |i| {
        deflater.compress(black_box(&messages[i % MESSAGES]), takeover, &mut out);
        black_box(&out).len()
    })
}

fn miniz(level: u32, messages: &[Vec<u8>]) -> Contestant {
    let messages = messages.to_vec();
    let (mut stream, mut out) = (Compress::new(Compression::new(level), false), vec![0; 64 << 10]);
    Box::new(move |i| {
        stream.reset();
        let status = stream.compress(black_box(&messages[i % MESSAGES]), &mut out, FlushCompress::Sync);
        status.expect("compresses");
        stream.total_out() as usize - 4
    })
}

fn deflated(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new(6, 15);
    messages
        .iter()
        .map(|message| {
            let mut out = Vec::new();
            deflater.compress(message, false, &mut out);
            out
        })
        .collect()
}

fn our_inflate(kind: Kind, messages: &[Vec<u8>]) -> Contestant {
    let (inputs, mut inflater, mut out) = (deflated(messages), Inflater::new(), vec![0; 64 << 10]);
    Box::new(move |i| {
        inflater.reset();
        let mut input = black_box(&inputs[i % MESSAGES][..]);
        let step = Inflating::new(kind).step(&mut inflater, &mut input, true, &mut out, &LIMITS);
        step.expect("inflates").written
    })
}

fn miniz_inflate(messages: &[Vec<u8>]) -> Contestant {
    let inputs: Vec<Vec<u8>> =
        deflated(messages).into_iter().map(|input| [&input[..], &[0, 0, 0xff, 0xff]].concat()).collect();
    let (mut stream, mut out) = (Decompress::new(false), vec![0; 64 << 10]);
    Box::new(move |i| {
        stream.reset(false);
        let input = black_box(&inputs[i % MESSAGES][..]);
        stream.decompress(input, &mut out, FlushDecompress::Sync).expect("inflates");
        stream.total_out() as usize
    })
}

fn contestants(messages: &[Vec<u8>]) -> Vec<(&'static str, Contestant)> {
    vec![
        ("deflate 1", ours(1, false, messages)),
        ("deflate 1, takeover", ours(1, true, messages)),
        ("deflate 2", ours(2, false, messages)),
        ("deflate 6", ours(6, false, messages)),
        ("deflate 6, takeover", ours(6, true, messages)),
        ("miniz deflate 1", miniz(1, messages)),
        ("miniz deflate 6", miniz(6, messages)),
        ("inflate text", our_inflate(Kind::Text, messages)),
        ("inflate binary", our_inflate(Kind::Binary, messages)),
        ("miniz inflate", miniz_inflate(messages)),
    ]
}

/// What is compressed is inflated again by the other, before anything is timed.
fn assert_answers(messages: &[Vec<u8>]) {
    let mut deflater = Deflater::new(1, 15);
    for message in messages {
        let (mut input, mut out) = (Vec::new(), Vec::with_capacity(64 << 10));
        deflater.compress(message, false, &mut input);
        input.extend_from_slice(&[0, 0, 0xff, 0xff]);
        Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("inflates");
        assert_eq!(&out, message);
    }
    for (name, mut run) in contestants(messages) {
        let bytes = run(0);
        assert!(bytes > 0 && (bytes == messages[0].len() || !name.contains("inflate")), "{name}: {bytes}");
    }
}

fn criterion_benches() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for len in SIZES {
        let mut group = criterion.benchmark_group(format!("{len} B of JSON"));
        group.throughput(Throughput::Bytes(len as u64));
        for (name, mut run) in contestants(&messages(len)) {
            let mut i = 0;
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    i += 1;
                    run(i)
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Median nanoseconds per message; the contestants take turns.
fn print_table() {
    const ROUNDS: usize = 41;
    for len in SIZES {
        println!("\n{len} B of JSON: ns per message, bytes");
        let mut runs = contestants(&messages(len));
        let mut times = vec![Vec::new(); runs.len()];
        let mut sizes = vec![0; runs.len()];
        for _ in 0..ROUNDS {
            for (((_, run), times), size) in runs.iter_mut().zip(&mut times).zip(&mut sizes) {
                let start = Instant::now();
                let bytes: usize = (0..MESSAGES).map(&mut *run).sum();
                times.push(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
                *size = bytes / MESSAGES;
            }
        }
        for (((name, _), times), size) in runs.iter().zip(&mut times).zip(&sizes) {
            times.sort_unstable_by(f64::total_cmp);
            println!("{name:>20} {:8.0} {size:6}", times[ROUNDS / 2]);
        }
    }
}

fn main() {
    SIZES.iter().for_each(|&len| assert_answers(&messages(len)));
    if !std::env::args().any(|argument| argument == "table") {
        criterion_benches();
    }
    print_table();
}
