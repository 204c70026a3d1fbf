//! `report`: reads what runs wrote with `--json`, prints their figures side by side, and writes the page.

use crate::result::{Report, SCHEMA};
use crate::{html, run};
use clap::Args;
use serde::Deserialize;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A run of an hour with a point each tenth of a second takes about 20 MiB.
const MAX_FILE_BYTES: u64 = 256 << 20;

#[derive(Args, Debug)]
pub struct ReportArgs {
    /// What `--json` wrote.
    #[arg(required = true, value_name = "JSON")]
    files: Vec<PathBuf>,
    /// The page [default: as the first file, with .html].
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The verdicts are those of the runs: this succeeds if all could be read and the page written.
///
/// # Errors
/// In words.
pub fn report(args: &ReportArgs) -> Result<ExitCode, String> {
    let page = args.html.clone().unwrap_or_else(|| args.files[0].with_extension("html"));
    if args.files.iter().any(|file| same(file, &page)) {
        return Err(format!("{}: this is a file to read; name another with --html", page.display()));
    }
    let names = names(&args.files);
    let reports = args.files.iter().zip(names).map(|(file, name)| Ok((name, read(file)?)));
    let reports = reports.collect::<Result<Vec<_>, String>>()?;
    run::write(&page, &html::render(&reports))?;
    let text = format!("{}\n{}\n", html::text(&reports), page.display());
    match std::io::stdout().write_all(text.as_bytes()) {
        // Who reads, as `head` does, has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// The files' names without directory and ending, or as given where those are not distinct.
fn names(files: &[PathBuf]) -> Vec<String> {
    let stem = |file: &PathBuf| file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    let stems: Vec<String> = files.iter().map(stem).collect();
    let name = |(file, stem): (&PathBuf, &String)| {
        let distinct = stems.iter().filter(|other| *other == stem).count() == 1;
        if distinct { stem.clone() } else { file.display().to_string() }
    };
    files.iter().zip(&stems).map(name).collect()
}

fn read(path: &Path) -> Result<Report, String> {
    let in_file = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|error| in_file(&error))?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(|error| in_file(&error))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(in_file(&format!("larger than {} MiB: not a report", MAX_FILE_BYTES >> 20)));
    }
    parse(&text).map_err(|why| in_file(&why))
}

fn parse(text: &[u8]) -> Result<Report, String> {
    #[derive(Deserialize)]
    struct Versioned {
        schema: u64,
    }
    if text.trim_ascii().is_empty() {
        return Err("empty: the run that was to write it did not come to its end".to_owned());
    }
    let versioned: Versioned = serde_json::from_slice(text)
        .map_err(|error| format!("not a report that ringwire-loadgen wrote with --json ({error})"))?;
    if versioned.schema > u64::from(SCHEMA) {
        return Err(format!(
            "written by a newer ringwire-loadgen (schema {}; this one reads up to {SCHEMA}): update it",
            versioned.schema
        ));
    }
    serde_json::from_slice(text).map_err(|error| format!("a report that is not whole: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_report_is_told_apart() {
        let why = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert!(why(" \n").starts_with("empty"), "{}", why(""));
        assert!(why("<html>").starts_with("not a report"), "{}", why("<html>"));
        assert!(why("{\"name\": 1}").contains("missing field `schema`"));
        assert!(why("{\"schema\": 2, \"what\": []}").contains("schema 2; this one reads up to 1"));
        assert!(why("{\"schema\": 1}").contains("not whole: missing field"));
    }

    #[test]
    fn runs_are_called_as_their_files() {
        let names_of = |files: &[&str]| names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names_of(&["out/a.json", "b.json"]), ["a", "b"]);
        assert_eq!(names_of(&["one/a.json", "two/a.json", "b"]), ["one/a.json", "two/a.json", "b"]);
    }
}
