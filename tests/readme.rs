//! The README's tables say what the code does: every limit, its default, and metrics that exist.

use ringwire::{Admission, Deadlines, DeflateConfig, Limits, Rates};
use std::fmt::Debug;

const README: &str = include_str!("../README.md");

#[test]
fn limits_and_their_defaults() {
    assert_eq!(wrong_rows(&Limits::default(), README), Vec::<String>::new());
}

#[test]
fn deadlines_and_their_defaults() {
    assert_eq!(wrong_rows(&Deadlines::default(), README), Vec::<String>::new());
}

#[test]
fn compression_and_its_defaults() {
    assert_eq!(wrong_rows(&DeflateConfig::default(), README), Vec::<String>::new());
}

#[test]
fn admission_and_rates_and_their_defaults() {
    assert_eq!(wrong_rows(&Admission::default(), README), Vec::<String>::new());
    assert_eq!(wrong_rows(&Rates::default(), README), Vec::<String>::new());
}

#[test]
fn metrics_exist() {
    let metrics =
        [include_str!("../src/engine/stats.rs"), include_str!("../src/engine/prometheus.rs")].concat();
    let named: Vec<&str> = README
        .match_indices("ringwire_")
        .map(|(at, _)| README[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    let unknown: Vec<&&str> = named.iter().filter(|name| !metrics.contains(**name)).collect();
    assert!(unknown.is_empty(), "no such metric: {unknown:?}");
}

#[test]
fn a_wrong_or_missing_row_is_found() {
    let table =
        README.replace("`max_headers` | 64 |", "`max_headers` | 65 |").replace("`head_ms`", "`heads_ms`");
    assert_eq!(wrong_rows(&Limits::default(), &table), ["max_headers is 64"]);
    assert_eq!(wrong_rows(&Deadlines::default(), &table), ["head_ms is 10000"]);
}

/// The fields whose row ``| `name` | 1,024 bytes |`` is not in the table with that value.
fn wrong_rows(values: &impl Debug, table: &str) -> Vec<String> {
    let text = format!("{values:?}");
    let fields: Vec<(&str, &str)> = text
        .split_once('{')
        .into_iter()
        .flat_map(|(_, fields)| fields.trim_end_matches([' ', '}']).split(','))
        .filter_map(|field| field.trim().split_once(": "))
        // What is no plain value has rows of its own.
        .filter(|(_, value)| !value.contains('{'))
        .collect();
    assert!(fields.len() >= 5, "{text}");
    let has_row = |name: &str, value: &str| {
        table.lines().filter(|line| line.starts_with(&format!("| `{name}` |"))).any(|line| {
            let default = line.split('|').nth(2).unwrap_or("").trim().replace(',', "");
            default.split(' ').next() == Some(value)
        })
    };
    let wrong = fields.into_iter().filter(|(name, value)| !has_row(name, value.trim()));
    wrong.map(|(name, value)| format!("{name} is {}", value.trim())).collect()
}
