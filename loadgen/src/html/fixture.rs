//! Made-up results, for the tests of the page.

#[path = "../../tests/fixture/mod.rs"]
mod made_up;

use crate::result::Report;
pub use made_up::{invalidate, latency, load, report};
use serde_json::Value;

/// A run of this name with one load.
pub fn named(name: &str, load: Value) -> (String, Report) {
    whole(name, vec![load])
}

/// A run of this name.
pub fn whole(name: &str, loads: Vec<Value>) -> (String, Report) {
    (name.to_owned(), serde_json::from_value(report(loads)).unwrap())
}

/// A run with loads of these scenarios and names.
pub fn run(loads: &[(&str, &str)]) -> (String, Report) {
    let load = |&(scenario, name): &(&str, &str)| {
        let mut made_up = load(scenario, 1.0);
        made_up["name"] = name.into();
        made_up
    };
    whole("run", loads.iter().map(load).collect())
}

/// A load of the scenario `echo`.
pub fn echo(slow: f64) -> Value {
    load("echo", slow)
}
