//! Which loads of several runs belong together, and what the runs are called.

use crate::result::{Load, Report, Verdict};

/// How many colours `page.css` has for runs.
const COLOURS: usize = 6;

/// One report, and how the page refers to it.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// `A`, `B`, …: next to the colour, so that nothing hangs on it.
    pub tag: String,
    /// The number of its colour.
    pub colour: usize,
    /// As the caller calls it.
    pub name: &'a str,
    /// What was measured.
    pub report: &'a Report,
}

impl<'a> Run<'a> {
    /// In the order given.
    pub fn all(reports: &'a [(String, Report)]) -> Vec<Self> {
        let run = |(at, (name, report)): (usize, &'a (String, Report))| Self {
            tag: tag(at),
            colour: at % COLOURS,
            name,
            report,
        };
        reports.iter().enumerate().map(run).collect()
    }

    /// Tag and name.
    pub fn title(&self) -> String {
        format!("{} · {}", self.tag, self.name)
    }
}

fn tag(at: usize) -> String {
    let letter = char::from(b'A' + (at % 26) as u8);
    if at < 26 { letter.to_string() } else { format!("{letter}{}", at / 26) }
}

/// The same load in several runs.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The load's name, and the scenario where that is another word.
    pub title: String,
    /// See [`Load::scenario`].
    pub scenario: &'a str,
    /// One for each run, in their order; `None` where a run has no such load.
    pub loads: Vec<Option<&'a Load>>,
}

impl<'a> Group<'a> {
    /// Loads belong together by scenario and name, and the first of a name to the first. Where no run has
    /// more than one of a scenario its name does not matter.
    pub fn all(runs: &[Run<'a>]) -> Vec<Self> {
        let mut groups: Vec<(Key<'a>, Self)> = Vec::new();
        for (at, run) in runs.iter().enumerate() {
            for (key, load) in keys(run, runs) {
                let place = groups.iter().position(|group| group.0 == key).unwrap_or_else(|| {
                    groups.push((key, Self::new(load, runs.len())));
                    groups.len() - 1
                });
                groups[place].1.loads[at] = Some(load);
            }
        }
        groups.into_iter().map(|group| group.1).collect()
    }

    fn new(load: &'a Load, runs: usize) -> Self {
        let title = if load.name == load.scenario {
            load.name.clone()
        } else {
            format!("{} ({})", load.name, load.scenario)
        };
        Self { title, scenario: &load.scenario, loads: vec![None; runs] }
    }

    /// Those that are there, each with its run.
    pub fn present<'g>(&'g self, runs: &'g [Run<'a>]) -> impl Iterator<Item = (&'g Run<'a>, &'a Load)> {
        runs.iter().zip(&self.loads).filter_map(|(run, load)| Some((run, (*load)?)))
    }

    /// The worst verdict.
    pub fn verdict(&self) -> Verdict {
        self.loads.iter().flatten().map(|load| load.verdict).max().unwrap_or_default()
    }
}

/// Scenario, name, and which of that name.
type Key<'a> = (&'a str, &'a str, usize);

fn keys<'a>(run: &Run<'a>, runs: &[Run<'_>]) -> Vec<(Key<'a>, &'a Load)> {
    let mut keys: Vec<(Key<'a>, &'a Load)> = Vec::new();
    for load in &run.report.loads {
        let of_scenario =
            |run: &Run<'_>| run.report.loads.iter().filter(|l| l.scenario == load.scenario).count();
        let name = if runs.iter().all(|run| of_scenario(run) <= 1) { "" } else { load.name.as_str() };
        let before = keys.iter().filter(|(key, _)| (key.0, key.1) == (load.scenario.as_str(), name)).count();
        keys.push(((&load.scenario, name, before), load));
    }
    keys
}

/// A verdict as one word and a sign, so that it is read without colour.
pub fn word(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Ok => ("✓", "ok"),
        Verdict::Invalid => ("⚠", "invalid"),
        Verdict::Failed => ("✗", "failed"),
        Verdict::Broken => ("✗", "broken"),
    }
}

/// What a verdict means.
pub fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "Every answer came, and was checked.",
        Verdict::Invalid => "The generator could not keep up: the figures say nothing about the server.",
        Verdict::Failed => {
            "Something was lost, doubled, corrupted, reordered, closed or refused, an attack did harm, or a \
             threshold was broken."
        }
        Verdict::Broken => "It could not be run to its end: what was measured until then is shown.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::fixture;

    fn titles(groups: &[Group<'_>]) -> Vec<(String, Vec<bool>)> {
        let present = |group: &Group<'_>| group.loads.iter().map(Option::is_some).collect();
        groups.iter().map(|group| (group.title.clone(), present(group))).collect()
    }

    #[test]
    fn the_only_loads_of_a_scenario_belong_together_whatever_their_names() {
        let reports =
            [fixture::run(&[("echo", "ours")]), fixture::run(&[("echo", "theirs"), ("idle", "idle")])];
        let runs = Run::all(&reports);
        let expected = [("ours (echo)".to_owned(), vec![true, true]), ("idle".to_owned(), vec![false, true])];
        assert_eq!(titles(&Group::all(&runs)), expected);
    }

    #[test]
    fn loads_of_one_scenario_belong_together_by_name_and_order() {
        let one = fixture::run(&[("rate", "low"), ("rate", "high"), ("rate", "low")]);
        let other = fixture::run(&[("rate", "high"), ("rate", "low")]);
        let reports = [one, other];
        let runs = Run::all(&reports);
        let expected = [("low", true), ("high", true), ("low", false)]
            .map(|(name, both)| (format!("{name} (rate)"), vec![true, both]));
        assert_eq!(titles(&Group::all(&runs)), expected);
    }

    #[test]
    fn tags_go_on_after_z() {
        assert_eq!([0, 25, 26, 53].map(tag), ["A", "Z", "A1", "B2"]);
    }
}
