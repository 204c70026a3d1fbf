//! `ringwire doctor`: what was found, for people and with `--json` for scripts.
//!
//! The findings are the crate's own ([`ringwire::doctor`]); this file only adds what `serve` would
//! do with them.

use clap::Args;
use ringwire::doctor::{self, Report, probe};
use ringwire::{DriverChoice, available_cores, simd};
use serde_json::json;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};

#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the report. Denials are findings, not failures: only output that cannot be written is.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let findings = Findings::now();
    let text = if options.json { findings.json() } else { findings.text() };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

struct Findings {
    report: Report,
    driver: &'static str,
    reason: String,
    cores: Vec<usize>,
    simd: simd::Level,
    forced: Result<Option<simd::Level>, simd::LevelError>,
}

impl Findings {
    fn now() -> Self {
        let report = probe();
        let (driver, reason) = match report.choose(DriverChoice::Auto) {
            Ok((chosen, reason)) => (chosen.name(), reason),
            Err(refused) => ("none", refused.to_string()),
        };
        let (cores, simd, forced) = (available_cores(), simd::level(), simd::forced());
        Self { report, driver, reason, cores, simd, forced }
    }

    fn text(&self) -> String {
        let mut out = format!("driver    {}: {}\n", self.driver, self.reason);
        let levels: Vec<_> = simd::available().map(simd::Level::name).collect();
        let _ = write!(out, "SIMD      {} (this CPU has {}", self.simd, levels.join(", "));
        let _ = match &self.forced {
            Ok(None) => writeln!(out, ")"),
            Ok(Some(_)) => writeln!(out, "; forced by RINGWIRE_SIMD: unset it to get the best)"),
            Err(error) => writeln!(out, ")\n          RINGWIRE_SIMD is ignored: {error}"),
        };
        let cores: Vec<_> = self.cores.iter().map(usize::to_string).collect();
        let _ = match cores.len() {
            0 => writeln!(out, "cores     unknown: nothing is pinned"),
            n => writeln!(
                out,
                "cores     {n} ({}): one shard each unless --shards says else",
                cores.join(", ")
            ),
        };
        let _ = match doctor::kernel_tls() {
            Ok(()) => writeln!(out, "TLS       also in the kernel: serve --tls --ktls"),
            Err(why) => writeln!(out, "TLS       not in the kernel: {why}"),
        };
        let _ = write!(out, "{}", self.report);
        out
    }

    fn json(&self) -> String {
        let report = &self.report;
        let feature = |feature: &ringwire::doctor::Feature| {
            json!({
                "name": feature.name,
                "available": feature.available,
                "required": feature.required,
                "advice": feature.advice,
            })
        };
        let limit = |limit: &ringwire::doctor::Limit| json!({ "name": limit.name, "value": limit.value, "advice": limit.advice });
        let findings = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": report.kernel,
            "driver": self.driver,
            "driver_reason": self.reason,
            "io_uring_denial": report.denial.as_ref().map(ToString::to_string),
            "features": report.features.iter().map(feature).collect::<Vec<_>>(),
            "limits": report.limits.iter().map(limit).collect::<Vec<_>>(),
            "cores": self.cores,
            "kernel_tls_denial": doctor::kernel_tls().err(),
            "simd": {
                "level": self.simd.name(),
                "available": simd::available().map(simd::Level::name).collect::<Vec<_>>(),
                "forced": matches!(self.forced, Ok(Some(_))),
                "ignored": self.forced.as_ref().err().map(ToString::to_string),
            },
        });
        findings.to_string() + "\n"
    }
}
