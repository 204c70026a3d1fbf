//! The scenarios as sequences of steps, and the results they leave, however they end.

use crate::board::{Metric, Phase};
use crate::conduct::{Conductor, Measured, Stop};
use crate::plan::Traffic;
use crate::result::{Broadcast, Churn, Echo, Idle, Latency, Load, Message, Rate, Storm, Verdict, Wave};
use std::time::Duration;

/// After subscriptions have been sent, before something is published.
const SETTLE: Duration = Duration::from_millis(500);

/// How long the parts of a load last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Load before it is measured.
    pub warmup: Duration,
    /// Of the measurement, or of holding idle connections.
    pub duration: Duration,
    /// Of a storm.
    pub waves: u32,
    /// Between two waves.
    pub pause: Duration,
    /// The 99th percentile of the generator's own lateness beyond which the run is invalid.
    pub max_send_lag: Duration,
}

/// Runs a load to its end.
pub fn run(mut conductor: Conductor<'_>, name: &str, began_s: f64, times: &Times) -> Load {
    let mut load = blank(&conductor, name, began_s);
    conductor.note_memory(0);
    let end = steps(&mut conductor, &mut load, times);
    // A load that lost its connections has nothing on its way that is worth waiting for.
    let unanswered = match end {
        Err(Stop::Broken(_)) => 0,
        _ if matches!(conductor.plan.traffic, Traffic::Churn { .. }) => 0,
        _ => conductor.drain(),
    };
    conclude(&conductor, &mut load);
    load.memory = conductor.memory();
    let is_broken = matches!(end, Err(Stop::Broken(_) | Stop::Interrupted));
    let (series, mut errors) = conductor.finish(unanswered);
    match end {
        Err(Stop::Broken(why)) => errors.notes.insert(0, why),
        Err(Stop::Interrupted) => errors.notes.insert(0, "interrupted before its end".to_owned()),
        Err(Stop::Faults) | Ok(_) => {}
    }
    (load.series, load.errors) = (series, errors);
    load.verdict = verdict(&mut load, is_broken, times);
    load
}

fn blank(conductor: &Conductor<'_>, name: &str, began_s: f64) -> Load {
    let plan = &conductor.plan;
    let (processes, workers, driver) = conductor.crew();
    let sends = !matches!(plan.traffic, Traffic::Silent | Traffic::Churn { .. }) || plan.echo_on_open;
    let message = sends.then(|| Message {
        size: plan.shape.sizes.to_string(),
        mean_bytes: plan.shape.sizes.mean(),
        kind: plan.shape.kind_name().to_owned(),
        fragments: plan.shape.fragments,
        deflate: plan.shape.deflate,
    });
    Load {
        urls: plan.targets.iter().map(|target| target.url(plan.raw)).collect(),
        driver,
        processes,
        workers,
        connections: plan.connections,
        raw: plan.raw,
        message,
        ..Load::blank(name, &plan.scenario, began_s)
    }
}

/// The steps of the load's scenario. What they measured stands in `load` whatever they return.
fn steps(conductor: &mut Conductor<'_>, load: &mut Load, times: &Times) -> Result<(), Stop> {
    if let Traffic::Churn { .. } = conductor.plan.traffic {
        let end = measure(conductor, times).map(|(measured, stop)| {
            load.churn = Some(churn(conductor, &measured));
            load.cpu = Some(measured.cpu(measured.ended));
            stop
        });
        return end.and_then(|stop| stop);
    }
    let (ramp, end) = conductor.connect();
    conductor.note_memory(1);
    load.ramp = ramp;
    end?;
    conductor.forget_times();
    if load.scenario == "storm" {
        return storm(conductor, load, times);
    }
    if let Traffic::Broadcast { subscribe: Some(_), .. } = conductor.plan.traffic {
        conductor.wait(SETTLE, |_| false)?;
    }
    let (measured, stop) = measure(conductor, times)?;
    // Connections that work hold buffers for what they do: no figure of theirs.
    if load.scenario == "idle" {
        conductor.note_memory(2);
    }
    load.cpu = Some(measured.cpu(measured.received));
    match &conductor.plan.traffic {
        _ if load.scenario == "idle" => load.idle = Some(idle(conductor, &measured)),
        Traffic::Closed { depth } => load.echo = Some(echo(conductor, &measured, *depth)),
        Traffic::Open { .. } => load.rate = Some(rate(conductor, &measured, times)),
        Traffic::Broadcast { .. } => load.broadcast = Some(broadcast(conductor, &measured)),
        Traffic::Silent | Traffic::Churn { .. } => {}
    }
    stop
}

/// Warms up and measures. The inner result says whether the measurement was cut short.
fn measure(conductor: &mut Conductor<'_>, times: &Times) -> Result<(Measured, Result<(), Stop>), Stop> {
    if !times.warmup.is_zero() {
        conductor.pass_warmup(times.warmup)?;
        conductor.forget_times();
    }
    let before = conductor.sample();
    let stop = conductor.pass(Phase::Measure, times.duration);
    Ok((conductor.since(&before), stop))
}

fn storm(conductor: &mut Conductor<'_>, load: &mut Load, times: &Times) -> Result<(), Stop> {
    let storm = load.storm.insert(Storm { waves: Vec::new() });
    let before = conductor.sample();
    for _ in 0..times.waves {
        conductor.leave()?;
        conductor.wait(times.pause, |_| false)?;
        let (ramp, end) = conductor.connect();
        storm.waves.push(Wave {
            reconnected: ramp.opened,
            duration_s: ramp.duration_s,
            retries: ramp.failed,
            latency: ramp.latency,
        });
        end?;
    }
    let measured = conductor.since(&before);
    load.cpu = Some(measured.cpu(measured.ended));
    Ok(())
}

/// What came while the load drained belongs to the measurement as well: without the slowest
/// answers its percentiles would flatter.
fn conclude(conductor: &Conductor<'_>, load: &mut Load) {
    let latency = |metric| conductor.latency(metric);
    if let Some(echo) = &mut load.echo {
        echo.latency = latency(Metric::Latency);
    }
    if let Some(rate) = &mut load.rate {
        rate.latency = latency(Metric::Latency);
        rate.send_lag = latency(Metric::SendLag);
    }
    if let Some(idle) = &mut load.idle {
        idle.heartbeat = idle.heartbeat.take().map(|_| latency(Metric::Latency));
    }
    if let Some(broadcast) = &mut load.broadcast {
        broadcast.latency = latency(Metric::Latency);
        broadcast.first = latency(Metric::First);
        broadcast.median = latency(Metric::Median);
        broadcast.last = latency(Metric::Last);
    }
}

fn echo(conductor: &Conductor<'_>, measured: &Measured, depth: u64) -> Echo {
    let messages_per_s = measured.received as f64 / measured.seconds;
    Echo {
        loop_: "closed".to_owned(),
        depth,
        duration_s: measured.seconds,
        messages: measured.received,
        messages_per_s,
        bytes_per_s: messages_per_s * conductor.plan.shape.sizes.mean(),
        latency: Latency::default(),
    }
}

fn rate(conductor: &Conductor<'_>, measured: &Measured, times: &Times) -> Rate {
    let (asked_per_s, arrivals) = match conductor.plan.traffic {
        Traffic::Open { per_s, arrivals, .. } => (per_s, arrivals.name()),
        _ => (0.0, ""),
    };
    Rate {
        loop_: "open".to_owned(),
        arrivals: arrivals.to_owned(),
        asked_per_s,
        sent_per_s: measured.sent as f64 / measured.seconds,
        messages_per_s: measured.received as f64 / measured.seconds,
        duration_s: measured.seconds,
        messages: measured.received,
        latency: Latency::default(),
        send_lag: Latency::default(),
        max_send_lag_ns: times.max_send_lag.as_nanos() as u64,
    }
}

fn idle(conductor: &Conductor<'_>, measured: &Measured) -> Idle {
    let sampled = match conductor.plan.traffic {
        Traffic::Open { connections, .. } => connections,
        _ => 0,
    };
    Idle {
        echo_once: conductor.plan.echo_on_open,
        hold_s: measured.seconds,
        sampled,
        heartbeat: (sampled > 0).then(Latency::default),
    }
}

fn broadcast(conductor: &Conductor<'_>, measured: &Measured) -> Broadcast {
    let plan = &conductor.plan;
    let subscribers = plan.traffic.subscribers(plan.connections).unwrap_or(0);
    Broadcast {
        subscribers,
        publishers: plan.connections - subscribers,
        published_per_s: measured.sent as f64 / measured.seconds,
        published: measured.sent,
        delivered: measured.received,
        delivered_per_s: measured.received as f64 / measured.seconds,
        duration_s: measured.seconds,
        first: Latency::default(),
        median: Latency::default(),
        last: Latency::default(),
        latency: Latency::default(),
    }
}

fn churn(conductor: &Conductor<'_>, measured: &Measured) -> Churn {
    Churn {
        duration_s: measured.seconds,
        handshakes: measured.ended,
        handshakes_per_s: measured.ended as f64 / measured.seconds,
        latency: conductor.latency(Metric::Connect),
    }
}

/// What the errors and the generator's own lateness make of a load.
fn verdict(load: &mut Load, broken: bool, times: &Times) -> Verdict {
    let nothing_came = load.echo.as_ref().is_some_and(|echo| echo.messages == 0)
        || load.rate.as_ref().is_some_and(|rate| rate.messages == 0)
        || load.broadcast.as_ref().is_some_and(|broadcast| broadcast.delivered == 0)
        || load.churn.as_ref().is_some_and(|churn| churn.handshakes == 0);
    if nothing_came && !broken {
        load.errors.notes.push("no answer came in the time that was measured".to_owned());
    }
    if broken {
        return Verdict::Broken;
    }
    if !load.errors.is_empty() {
        return Verdict::Failed;
    }
    let Some(rate) = &load.rate else { return Verdict::Ok };
    let late = Duration::from_nanos(rate.send_lag.p99_ns);
    if late <= times.max_send_lag {
        return Verdict::Ok;
    }
    load.errors.notes.push(format!(
        "the generator could not keep up: one message in a hundred left {late:.1?} late or later, and \
         {:?} is allowed (--max-send-lag): give it more cores, workers or processes, or ask for less",
        times.max_send_lag
    ));
    Verdict::Invalid
}
