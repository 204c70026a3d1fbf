//! The figures of a load as rows, and those of several runs side by side with their ratio to the first.
//! What the page and the text show comes from here, so that they agree.

use super::group::{Group, word};
use super::units::{Unit, ratio};
use crate::result::{
    Broadcast, Cpu, Echo, Errors, Idle, Latency, Load, MemoryGrowth, Message, Rate, Storm, Verdict,
};

/// One figure of one load.
#[derive(Clone, Debug)]
pub struct Figure {
    section: &'static str,
    name: String,
    text: String,
    number: Option<f64>,
    better: Better,
    headline: bool,
}

/// Which of two figures is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    More,
    /// Less is better.
    Less,
    /// Neither: there is no ratio.
    Neither,
}

/// A figure of all runs.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the figure belongs to.
    pub section: &'static str,
    /// What it is.
    pub name: String,
    /// One for each run, in their order.
    pub cells: Vec<Option<Cell>>,
    /// A setting, and the runs do not agree on it.
    pub differs: bool,
    /// One of those to see first.
    pub headline: bool,
}

/// A figure of one run.
#[derive(Clone, Debug)]
pub struct Cell {
    /// With its unit.
    pub text: String,
    /// To the first run's, where both mean something.
    pub ratio: Option<Ratio>,
    /// The load was invalid, and so this says nothing about the server.
    pub invalid: bool,
}

/// How a figure compares.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// `×1.32`.
    pub text: String,
    /// Whether that is better; `None` where it is about the same or cannot be said.
    pub better: Option<bool>,
}

/// Below this part a ratio is within what two runs of one program differ by.
const SAME: f64 = 0.03;
/// The section of settings.
pub const SETUP: &str = "Setup";
/// The section of verdict and errors.
pub const OUTCOME: &str = "Outcome";
const OWN_LATENESS: &str = "The generator's own lateness";
/// The sections that do not become wrong in an invalid run: they tell why it is one.
const PLAIN: [&str; 3] = [SETUP, OUTCOME, OWN_LATENESS];
/// The section of an attack's rows.
pub const ATTACKS: &str = "Attacks";

/// All figures of a group, in order.
pub fn rows(group: &Group<'_>) -> Vec<Row> {
    let columns: Vec<Option<Vec<Figure>>> = group.loads.iter().map(|load| Some(figures((*load)?))).collect();
    let mut keys: Vec<(&'static str, &str)> = Vec::new();
    for figures in columns.iter().flatten() {
        let mut after = 0;
        for figure in figures {
            let key = (figure.section, figure.name.as_str());
            let at = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                keys.insert(after, key);
                after
            });
            after = at + 1;
        }
    }
    keys.iter().map(|key| row(key, &columns, group)).collect()
}

fn row(key: &(&'static str, &str), columns: &[Option<Vec<Figure>>], group: &Group<'_>) -> Row {
    let find = |column: &'_ Option<Vec<Figure>>| -> Option<Figure> {
        column.as_ref()?.iter().find(|figure| (figure.section, figure.name.as_str()) == *key).cloned()
    };
    let found: Vec<Option<Figure>> = columns.iter().map(find).collect();
    let first = found.first().cloned().flatten().filter(|_| group.loads.first().is_some_and(|l| counts(*l)));
    let cells = found.iter().zip(&group.loads).enumerate().map(|(at, (figure, load))| {
        let figure = figure.as_ref()?;
        let compared = first.as_ref().filter(|_| at > 0 && counts(*load));
        Some(Cell {
            text: figure.text.clone(),
            ratio: compared.and_then(|first| compare(figure, first)),
            invalid: load.is_some_and(|load| load.verdict == Verdict::Invalid) && !PLAIN.contains(&key.0),
        })
    });
    let mut texts = found.iter().flatten().map(|figure| &figure.text);
    let one = texts.next();
    Row {
        section: key.0,
        name: key.1.to_owned(),
        cells: cells.collect(),
        differs: key.0 == SETUP && texts.any(|text| Some(text) != one),
        headline: found.iter().flatten().any(|figure| figure.headline),
    }
}

/// Whether a load's figures say something about the server.
fn counts(load: Option<&Load>) -> bool {
    load.is_some_and(|load| matches!(load.verdict, Verdict::Ok | Verdict::Failed))
}

fn compare(figure: &Figure, first: &Figure) -> Option<Ratio> {
    let (number, first) = (figure.number?, first.number?);
    if first <= 0.0 || number < 0.0 || figure.better == Better::Neither {
        return None;
    }
    let same = (number / first - 1.0).abs() < SAME;
    let better = match figure.better {
        _ if same => None,
        Better::More => Some(number > first),
        _ => Some(number < first),
    };
    Some(Ratio { text: ratio(number, first), better })
}

/// Collects figures of one load.
struct Sheet {
    section: &'static str,
    figures: Vec<Figure>,
}

impl Sheet {
    fn section(&mut self, section: &'static str) -> &mut Self {
        self.section = section;
        self
    }

    fn add(&mut self, name: &str, number: f64, unit: Unit, better: Better) -> &mut Self {
        self.push(name, unit.value(number), Some(number), better)
    }

    fn maybe(&mut self, name: &str, number: Option<f64>, unit: Unit, better: Better) -> &mut Self {
        if let Some(number) = number {
            self.add(name, number, unit, better);
        }
        self
    }

    fn text(&mut self, name: &str, text: impl Into<String>) -> &mut Self {
        self.push(name, text.into(), None, Better::Neither)
    }

    fn push(&mut self, name: &str, text: String, number: Option<f64>, better: Better) -> &mut Self {
        let (section, name) = (self.section, name.to_owned());
        self.figures.push(Figure { section, name, text, number, better, headline: false });
        self
    }

    /// The figure added last is one of those to see first.
    fn headline(&mut self) -> &mut Self {
        if let Some(figure) = self.figures.last_mut() {
            figure.headline = true;
        }
        self
    }

    /// All percentiles that so many values can tell.
    fn latency(&mut self, latency: &Latency, headline: bool) {
        let count = latency.count;
        let values = [
            ("p50", 1, latency.p50_ns, headline),
            ("p90", 10, latency.p90_ns, false),
            ("p99", 100, latency.p99_ns, headline),
            ("p99.9", 1_000, latency.p999_ns, headline),
            ("p99.99", 10_000, latency.p9999_ns, false),
            ("max", 1, latency.max_ns, false),
        ];
        for (name, _, value, headline) in values.into_iter().filter(|value| count >= value.1) {
            self.add(name, value as f64, Unit::Nanoseconds, Better::Less);
            if headline {
                self.headline();
            }
        }
        if count > 0 {
            self.add("mean", latency.mean_ns, Unit::Nanoseconds, Better::Less);
        }
    }
}

fn figures(load: &Load) -> Vec<Figure> {
    let mut sheet = Sheet { section: SETUP, figures: Vec::new() };
    setup(&mut sheet, load);
    let (sign, verdict) = word(load.verdict);
    sheet.section(OUTCOME).text("verdict", format!("{sign} {verdict}"));
    sheet.push("errors", errors_text(&load.errors), None, Better::Less);
    if let Some(of) = &load.echo {
        echo(&mut sheet, of);
    }
    if let Some(of) = &load.rate {
        rate(&mut sheet, of);
    }
    if let Some(of) = &load.broadcast {
        broadcast(&mut sheet, of);
    }
    if let Some(of) = &load.churn {
        let handshakes =
            sheet.section("Throughput").add("handshakes", of.handshakes_per_s, Unit::PerSecond, Better::More);
        handshakes.headline().add("in all", of.handshakes as f64, Unit::Count, Better::More);
        sheet
            .section("Latency from asking for a connection to its open WebSocket")
            .latency(&of.latency, true);
    }
    if let Some(of) = &load.storm {
        storm(&mut sheet, of);
    }
    if let Some(of) = &load.idle {
        idle(&mut sheet, of);
    }
    ramp(&mut sheet, load);
    if let Some(of) = &load.memory {
        memory(&mut sheet, of);
    }
    if let Some(of) = &load.cpu {
        cpu(&mut sheet, of);
    }
    for row in load.attack.iter().flat_map(|attack| &attack.rows) {
        sheet.section(ATTACKS).text(&row.name, row.outcome.clone());
    }
    sheet.figures
}

fn setup(sheet: &mut Sheet, load: &Load) {
    sheet.text("server", load.urls.join(" "));
    sheet.add("connections", load.connections as f64, Unit::Count, Better::Neither);
    if let Some(message) = &load.message {
        sheet.text("messages", message_text(message));
    }
    if let Some(echo) = &load.echo {
        sheet.add("messages of a burst", echo.depth as f64, Unit::Count, Better::Neither);
        sheet.add("measured for", echo.duration_s, Unit::Seconds, Better::Neither);
    }
    if let Some(rate) = &load.rate {
        sheet.text(
            "asked for",
            format!("{}, {} arrivals", Unit::PerSecond.value(rate.asked_per_s), rate.arrivals),
        );
        sheet.add("measured for", rate.duration_s, Unit::Seconds, Better::Neither);
    }
    if let Some(broadcast) = &load.broadcast {
        sheet.add("subscribers", broadcast.subscribers as f64, Unit::Count, Better::Neither);
        sheet.add("publishers", broadcast.publishers as f64, Unit::Count, Better::Neither);
    }
    if load.raw {
        sheet.text("wire", "bare TCP, no WebSocket");
    }
    let plural =
        |number: u32, one: &str| if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") };
    let processes =
        if load.processes > 1 { format!(", {} processes", load.processes) } else { String::new() };
    sheet.text("generator", format!("{}, {}{processes}", load.driver, plural(load.workers, "worker")));
}

fn message_text(message: &Message) -> String {
    let mut text = format!("{} B {}", message.size, message.kind);
    if message.fragments > 1 {
        text += &format!(", {} fragments", message.fragments);
    }
    if message.deflate {
        text += ", deflated";
    }
    text
}

/// The counts that are not zero.
pub fn errors_text(errors: &Errors) -> String {
    let counts = [
        (errors.lost, "lost"),
        (errors.doubled, "doubled"),
        (errors.reordered, "reordered"),
        (errors.corrupted, "corrupted"),
        (errors.closed, "closed early"),
        (errors.refused, "refused"),
    ];
    let texts: Vec<String> = counts
        .into_iter()
        .filter(|count| count.0 > 0)
        .map(|(count, what)| format!("{} {what}", Unit::Count.value(count as f64)))
        .collect();
    match texts.is_empty() {
        true if errors.notes.is_empty() => "none".to_owned(),
        true => "see the notes".to_owned(),
        false => texts.join(", "),
    }
}

fn echo(sheet: &mut Sheet, echo: &Echo) {
    sheet
        .section("Throughput")
        .add("messages", echo.messages_per_s, Unit::PerSecond, Better::More)
        .headline();
    sheet.add("payload, one way", echo.bytes_per_s, Unit::BytesPerSecond, Better::More);
    sheet.add("messages in all", echo.messages as f64, Unit::Count, Better::More);
    sheet.section(if echo.depth == 1 {
        "Latency, closed loop: not the latency at a given rate"
    } else {
        "Latency of a burst, closed loop: not the latency at a given rate"
    });
    sheet.latency(&echo.latency, true);
}

fn rate(sheet: &mut Sheet, rate: &Rate) {
    sheet
        .section("Throughput")
        .add("answered", rate.messages_per_s, Unit::PerSecond, Better::More)
        .headline();
    sheet.add("sent", rate.sent_per_s, Unit::PerSecond, Better::Neither);
    sheet.add("answered in all", rate.messages as f64, Unit::Count, Better::More);
    sheet.section("Latency from the time a message was due").latency(&rate.latency, true);
    sheet.section(OWN_LATENESS);
    sheet.add("p50", rate.send_lag.p50_ns as f64, Unit::Nanoseconds, Better::Neither);
    sheet.add("p99", rate.send_lag.p99_ns as f64, Unit::Nanoseconds, Better::Neither);
    sheet.add("max", rate.send_lag.max_ns as f64, Unit::Nanoseconds, Better::Neither);
    sheet.add("p99 allowed", rate.max_send_lag_ns as f64, Unit::Nanoseconds, Better::Neither);
}

fn broadcast(sheet: &mut Sheet, broadcast: &Broadcast) {
    sheet
        .section("Throughput")
        .add("delivered", broadcast.delivered_per_s, Unit::PerSecond, Better::More)
        .headline();
    sheet.add("delivered in all", broadcast.delivered as f64, Unit::Count, Better::More);
    sheet.add("published", broadcast.published_per_s, Unit::PerSecond, Better::Neither);
    for (section, latency, headline) in [
        ("Latency to the first subscriber", &broadcast.first, false),
        ("Latency to the subscriber in the middle", &broadcast.median, false),
        ("Latency to the last subscriber", &broadcast.last, true),
    ] {
        sheet.section(section).latency(latency, headline);
    }
}

fn storm(sheet: &mut Sheet, storm: &Storm) {
    let waves = &storm.waves;
    sheet.section("Waves").add("waves", waves.len() as f64, Unit::Count, Better::Neither);
    let slowest = waves.iter().max_by(|a, b| a.duration_s.total_cmp(&b.duration_s));
    sheet.maybe("slowest wave", slowest.map(|wave| wave.duration_s), Unit::Seconds, Better::Less).headline();
    let worst = waves.iter().map(|wave| wave.latency.p99_ns).max();
    sheet.maybe("worst p99 of a wave", worst.map(|ns| ns as f64), Unit::Nanoseconds, Better::Less).headline();
    let retries = waves.iter().map(|wave| wave.retries).fold(0, u64::saturating_add);
    sheet.add("attempts made again", retries as f64, Unit::Count, Better::Less).headline();
}

fn idle(sheet: &mut Sheet, idle: &Idle) {
    sheet.section("Held").add("for", idle.hold_s, Unit::Seconds, Better::Neither);
    sheet.text("after one echo each", if idle.echo_once { "yes" } else { "no" });
    if let Some(heartbeat) = &idle.heartbeat {
        sheet.add("sampled connections", idle.sampled as f64, Unit::Count, Better::Neither);
        sheet.section("Latency of an echo now and then, from the time it was due").latency(heartbeat, true);
    }
}

fn ramp(sheet: &mut Sheet, load: &Load) {
    let ramp = &load.ramp;
    if ramp.opened + ramp.failed == 0 {
        return;
    }
    sheet.section("Ramp").add("opened", ramp.opened as f64, Unit::Count, Better::Neither);
    if ramp.failed > 0 {
        sheet.add("failed", ramp.failed as f64, Unit::Count, Better::Less);
    }
    sheet.add("took", ramp.duration_s, Unit::Seconds, Better::Less);
    sheet.add("rate", ramp.opened_per_s, Unit::PerSecond, Better::More);
    if load.scenario == "idle" {
        sheet.headline();
    }
    if ramp.latency.count > 0 {
        sheet.add("handshake p50", ramp.latency.p50_ns as f64, Unit::Nanoseconds, Better::Less);
        sheet.add("handshake p99", ramp.latency.p99_ns as f64, Unit::Nanoseconds, Better::Less);
        sheet.add("handshake max", ramp.latency.max_ns as f64, Unit::Nanoseconds, Better::Less);
    }
}

fn memory(sheet: &mut Sheet, memory: &MemoryGrowth) {
    sheet.section("The server's memory");
    sheet
        .add("resident per connection", memory.rss_bytes_per_connection, Unit::Bytes, Better::Less)
        .headline();
    sheet.add("of that anonymous", memory.anonymous_bytes_per_connection, Unit::Bytes, Better::Less);
    sheet.maybe("kernel slab per connection", memory.kernel_bytes_per_connection, Unit::Bytes, Better::Less);
    sheet.add("resident before", memory.before.rss as f64, Unit::Bytes, Better::Less);
    sheet.add("resident, all open", memory.open.rss as f64, Unit::Bytes, Better::Less);
    sheet.add("resident at the end", memory.held.rss as f64, Unit::Bytes, Better::Less);
}

fn cpu(sheet: &mut Sheet, cpu: &Cpu) {
    sheet.section("CPU").maybe("server", cpu.server_cpus, Unit::Cpus, Better::Less);
    sheet.maybe("server per message", cpu.server_ns_per_message, Unit::Nanoseconds, Better::Less);
    sheet.maybe("user part", cpu.server_user_ns_per_message, Unit::Nanoseconds, Better::Less);
    sheet.maybe("system part", cpu.server_system_ns_per_message, Unit::Nanoseconds, Better::Less);
    sheet.add("generator", cpu.own_cpus, Unit::Cpus, Better::Neither);
    if cpu.own_ns_per_message > 0.0 {
        sheet.add("generator per message", cpu.own_ns_per_message, Unit::Nanoseconds, Better::Neither);
    }
}
