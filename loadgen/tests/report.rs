//! The subcommand `report`: from files that runs wrote to a table and a page.

mod fixture;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A directory of this test's own, empty.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn write(directory: &Path, name: &str, report: &Value) {
    fs::write(directory.join(name), report.to_string()).unwrap();
}

fn report(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen"));
    command.current_dir(directory).arg("report").args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn refusal(directory: &Path, args: &[&str]) -> String {
    let output = report(directory, args);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn two_runs_become_a_table_and_a_page() {
    let directory = directory("two");
    let mut late = fixture::load("rate", 2.5);
    fixture::invalidate(&mut late);
    let mut ours = fixture::report(vec![fixture::load("rate", 1.0), fixture::load("attack", 1.0)]);
    ours["thresholds"] = json!([{"condition": "p99>2ms", "load": "rate", "measured": 0.41, "fails": false}]);
    write(&directory, "ours.json", &ours);
    write(&directory, "late.json", &fixture::report(vec![late]));

    let output = report(&directory, &["ours.json", "late.json"]);
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    for part in [
        "A · ours",
        "B · late",
        "⚠ invalid",
        " ! B · late: the generator was late",
        "Latency from the time a message was due",
        "ping-flood",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert_eq!(text.lines().last(), Some("ours.html"));
    let page = fs::read_to_string(directory.join("ours.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("class=\"line c1 invalid\"") && page.contains("✗ failed"));
}

#[test]
fn one_run_of_every_scenario_becomes_a_page_where_it_is_asked_for() {
    let directory = directory("one");
    let scenarios = ["echo", "rate", "idle", "broadcast", "churn", "storm", "attack"];
    let loads = scenarios.iter().map(|scenario| fixture::load(scenario, 1.0)).collect();
    write(&directory, "tour.json", &fixture::report(loads));
    let output = report(&directory, &["tour.json", "--html", "page.html"]);
    assert!(output.status.success(), "{output:?}");
    assert!(scenarios.iter().all(|scenario| stdout(&output).lines().any(|line| line == *scenario)));
    assert!(directory.join("page.html").exists() && !directory.join("tour.html").exists());

    for slow in [1.0, 1.4, 2.2] {
        let loads = scenarios[..6].iter().map(|scenario| fixture::load(scenario, slow)).collect();
        write(&directory, &format!("slow-{slow}.json"), &fixture::report(loads));
    }
    let output =
        report(&directory, &["slow-1.json", "slow-1.4.json", "slow-2.2.json", "--html", "three.html"]);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("(×2.20)"), "{}", stdout(&output));
}

#[test]
fn what_cannot_be_read_or_written_is_said_and_nothing_is_written() {
    let directory = directory("refused");
    let good = fixture::report(vec![fixture::load("echo", 1.0)]);
    write(&directory, "good.json", &good);
    let mut newer = good.clone();
    newer["schema"] = 2.into();
    write(&directory, "newer.json", &newer);
    let mut part = good.clone();
    part["loads"][0].as_object_mut().unwrap().remove("ramp");
    write(&directory, "part.json", &part);
    write(&directory, "other.json", &json!({"scenario": "echo", "ok": true}));
    fs::write(directory.join("empty.json"), "").unwrap();
    fs::write(directory.join("cut.json"), &good.to_string()[..900]).unwrap();

    for (file, why) in [
        ("none.json", "none.json: No such file"),
        (".", ".: Is a directory"),
        ("newer.json", "newer.json: written by a newer ringwire-loadgen (schema 2; this one reads up to 1)"),
        ("part.json", "part.json: a report that is not whole: missing field `ramp`"),
        ("other.json", "other.json: not a report"),
        ("empty.json", "empty.json: empty"),
        ("cut.json", "cut.json: not a report"),
    ] {
        let stderr = refusal(&directory, &["good.json", file]);
        assert!(stderr.contains(why), "{file}: {stderr}");
    }
    assert!(
        refusal(&directory, &["good.json", "--html", "no/such/page.html"])
            .contains("no/such/page.html: No such")
    );
    assert!(
        refusal(&directory, &["good.json", "--html", "./good.json"]).contains("name another with --html")
    );
    assert_eq!(fs::read_to_string(directory.join("good.json")).unwrap(), good.to_string());
    assert!(!directory.join("good.html").exists());
    assert_eq!(report(&directory, &[]).status.code(), Some(2));
}
