//! Scenario files: phases of loads that run at once, one phase after the other, and loads that run
//! behind all of them.
//!
//! ```toml
//! url = "ws://127.0.0.1:9001/"   # whatever stands here holds for every load that does not say otherwise
//!
//! [[background]]
//! scenario = "idle"              # a load: the scenario's options by their names on the command line
//! connections = 5000
//!
//! [[phase]]
//! name = "evening"
//! [[phase.load]]
//! scenario = "rate"
//! rate = 10_000
//! duration = "30s"
//! [[phase.load]]
//! scenario = "churn"
//! rate = 50
//! duration = "30s"
//! ```

use crate::cli::{LoadCommand, Spec};
use crate::result::{Load, Verdict};
use crate::run::Runner;
use clap::Parser;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use toml::{Table, Value};

/// How often a background load is looked at while it connects.
const LOOK: Duration = Duration::from_millis(20);

/// A file, read and resolved.
#[derive(Debug)]
pub struct File {
    background: Vec<Spec>,
    phases: Vec<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    background: Vec<Table>,
    #[serde(default)]
    phase: Vec<RawPhase>,
    #[serde(flatten)]
    defaults: Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPhase {
    name: Option<String>,
    #[serde(default)]
    load: Vec<Table>,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct OneLoad {
    #[command(subcommand)]
    load: LoadCommand,
}

impl File {
    /// Reads a file; `url` stands in for its own.
    ///
    /// # Errors
    /// In words, with the place.
    pub fn read(text: &str, url: Option<&str>) -> Result<Self, String> {
        let mut raw: Raw = toml::from_str(text).map_err(|error| error.to_string())?;
        if let Some(url) = url {
            raw.defaults.insert("url".to_owned(), Value::from(url));
        }
        if raw.phase.is_empty() {
            return Err("there is no [[phase]]".to_owned());
        }
        let read = |prefix: &str, table: &Table| {
            spec(prefix, table, &raw.defaults).map_err(|why| format!("{prefix}: {why}"))
        };
        let background = raw.background.iter().map(|table| read("background", table));
        let background = background.collect::<Result<Vec<_>, _>>()?;
        let mut phases = Vec::new();
        for (number, phase) in (1..).zip(&raw.phase) {
            let name = phase.name.clone().unwrap_or_else(|| format!("phase {number}"));
            if phase.load.is_empty() {
                return Err(format!("{name}: there is no [[phase.load]]"));
            }
            phases.push(phase.load.iter().map(|table| read(&name, table)).collect::<Result<_, _>>()?);
        }
        Ok(Self { background, phases })
    }

    /// Runs all of it: the loads in the order in which they began, and why it could not go on.
    pub fn run(&self, runner: &Runner) -> (Vec<Load>, Result<(), String>) {
        let done = Arc::new(AtomicBool::new(false));
        let mut results = Vec::new();
        thread::scope(|scope| {
            let behind: Vec<_> = self
                .background
                .iter()
                .map(|spec| {
                    let flag = Arc::new(AtomicBool::new(false));
                    let (until, open) = (done.clone(), flag.clone());
                    (scope.spawn(move || runner.run_behind(spec, until, open)), flag)
                })
                .collect();
            for (thread, open) in &behind {
                while !open.load(Ordering::Acquire) && !thread.is_finished() {
                    thread::sleep(LOOK);
                }
            }
            let all_open = behind.iter().all(|(thread, _)| !thread.is_finished());
            let mut phases = Vec::new();
            for phase in self.phases.iter().take_while(|_| all_open) {
                let threads: Vec<_> =
                    phase.iter().map(|spec| scope.spawn(|| runner.run_alone(spec))).collect();
                let ended: Vec<_> = threads.into_iter().map(join).collect();
                let goes_on =
                    ended.iter().all(|end| matches!(end, Ok(load) if load.verdict < Verdict::Broken));
                phases.extend(ended);
                if !goes_on || runner.is_interrupted() {
                    break;
                }
            }
            done.store(true, Ordering::Release);
            results.extend(behind.into_iter().map(|(thread, _)| join(thread)));
            results.extend(phases);
        });
        let mut loads = Vec::new();
        let mut end = Ok(());
        for result in results {
            match result {
                Ok(load) => loads.push(load),
                Err(why) => end = Err(why),
            }
        }
        loads.sort_by(|one, other| one.began_s.total_cmp(&other.began_s));
        (loads, end)
    }
}

fn join(thread: thread::ScopedJoinHandle<'_, Result<Load, String>>) -> Result<Load, String> {
    thread.join().unwrap_or_else(|_| Err("a load panicked".to_owned()))
}

/// A load's table as a command line, so that both take the same and say the same.
fn spec(prefix: &str, table: &Table, defaults: &Table) -> Result<Spec, String> {
    let mut table = table.clone();
    for (key, value) in defaults {
        table.entry(key).or_insert_with(|| value.clone());
    }
    let Some(Value::String(scenario)) = table.remove("scenario") else {
        return Err("a load needs a scenario: echo, rate, idle, broadcast, churn or storm".to_owned());
    };
    let name = match table.remove("name") {
        Some(Value::String(name)) => name,
        _ => scenario.clone(),
    };
    let url = table.remove("url").map(|url| text(&url)).transpose()?;
    let url = url.ok_or("there is no url")?;
    let mut line = vec![scenario, url, format!("--name={prefix}/{name}")];
    for (key, value) in &table {
        let key = key.replace('_', "-");
        match value {
            Value::Boolean(false) => {}
            Value::Boolean(true) => line.push(format!("--{key}")),
            value => line.push(format!("--{key}={}", text(value)?)),
        }
    }
    let one = OneLoad::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        // What is wrong stands in front of the usage.
        let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
        lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
    })?;
    if one.load.output().is_used() || one.load.helpers().are_wanted() {
        return Err(
            "json, html, fail-if, quiet, coordinate and processes belong on the command line".to_owned()
        );
    }
    one.load.spec()
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Array(values) => Ok(values.iter().map(text).collect::<Result<Vec<_>, _>>()?.join(",")),
        other => Err(format!("`{other}` is neither a text nor a number nor a list of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        url = "ws://127.0.0.1:9001/"
        workers = 1
        [[background]]
        scenario = "idle"
        connections = 7
        [[phase]]
        name = "evening"
        [[phase.load]]
        scenario = "rate"
        name = "chat"
        rate = 1_000
        arrivals = "even"
        duration = "2s"
        text = true
        [[phase.load]]
        scenario = "echo"
        url = ["ws://127.0.0.1:1/", "ws://127.0.0.1:2/"]
        deflate = false
    "#;

    #[test]
    fn a_file_is_read_as_command_lines_are() {
        let file = File::read(WHOLE, None).unwrap();
        assert_eq!(file.background[0].name, "background/idle");
        assert_eq!(file.background[0].plan.connections, 7);
        let [chat, echo] = &file.phases[0][..] else { panic!("two loads") };
        assert_eq!((&*chat.name, chat.times.duration), ("evening/chat", Duration::from_secs(2)));
        assert!(chat.plan.shape.text);
        assert_eq!(echo.plan.targets.len(), 2);
        let file = File::read(WHOLE, Some("ws://127.0.0.1:3/")).unwrap();
        assert_eq!(file.background[0].plan.targets[0].addr.port(), 3);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let load = |line: &str| {
            let text = format!("url = 'ws://127.0.0.1:1/'\n[[phase]]\nname = 'p'\n[[phase.load]]\n{line}\n");
            File::read(&text, None).unwrap_err()
        };
        for (line, said) in [
            ("", "p: a load needs a scenario"),
            ("scenario = 'ehco'", "ehco"),
            ("scenario = 'echo'\nconections = 3", "--conections"),
            ("scenario = 'rate'", "--rate"),
            ("scenario = 'echo'\nsize = { a = 1 }", "neither a text nor a number"),
            ("scenario = 'echo'\njson = 'x'", "belong on the command line"),
            ("scenario = 'echo'\nurl = 'http://x'", "give ws://"),
        ] {
            let error = load(line);
            assert!(error.contains(said), "{line}: {error}");
        }
        assert!(File::read("url = 'ws://127.0.0.1:1/'", None).unwrap_err().contains("no [[phase]]"));
        assert!(File::read("[[phase]]\nname = 'p'", None).unwrap_err().contains("[[phase.load]]"));
        assert!(File::read("[[phase]\n", None).unwrap_err().contains("line 1"));
    }
}
