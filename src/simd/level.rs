//! Which instruction set runs: detected once, at first use, and overridden by `RINGWIRE_SIMD`.
//!
//! [`Usable`] is the proof the kernels rely on: it exists only for a level this CPU has.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set the kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain integers, on any CPU.
    Scalar,
    /// x86-64's baseline, 16-byte vectors.
    Sse2,
    /// 32-byte vectors.
    Avx2,
    /// 64-byte vectors; needs AVX-512 F, BW and VBMI (Ice Lake, Zen 4 and later).
    Avx512,
    /// AArch64's baseline, 16-byte vectors.
    Neon,
}

const ALL: [Level; 5] = [Level::Scalar, Level::Sse2, Level::Avx2, Level::Avx512, Level::Neon];

impl Level {
    /// The name `RINGWIRE_SIMD` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Sse2 => "sse2",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Scalar | Self::Sse2 => true,
            Self::Avx2 => has!("avx2"),
            Self::Avx512 => has!("avx512f") && has!("avx512bw") && has!("avx512vbmi"),
            Self::Neon => false,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Sse2 | Self::Avx2 | Self::Avx512 => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why `RINGWIRE_SIMD` was not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelError {
    /// It names no level.
    Unknown(String),
    /// This CPU does not have the level.
    Unavailable(Level),
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(text) => write!(f, "`{text}` is not a SIMD level: give one of")?,
            Self::Unavailable(level) => write!(f, "this CPU has no {level}: give one of")?,
        }
        available().try_for_each(|level| write!(f, " {level}"))
    }
}

impl std::error::Error for LevelError {}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = ALL.into_iter().find(|level| level.name() == text);
        named.ok_or_else(|| LevelError::Unknown(text.to_owned()))
    }
}

/// The levels this CPU has, slowest first; never empty.
pub fn available() -> impl Iterator<Item = Level> {
    ALL.into_iter().filter(|level| level.is_available())
}

/// What `RINGWIRE_SIMD` asks for: `None` where it is unset or empty, an error where it cannot be
/// followed, in which case the best level runs and whoever starts the process should say so.
pub fn forced() -> Result<Option<Level>, LevelError> {
    match std::env::var_os("RINGWIRE_SIMD") {
        Some(text) if !text.is_empty() => {
            let level: Level = text.to_string_lossy().parse()?;
            if level.is_available() { Ok(Some(level)) } else { Err(LevelError::Unavailable(level)) }
        }
        _ => Ok(None),
    }
}

/// The level that runs. Chosen at first use and kept: later changes of the environment or of
/// what [`forced`] returns have no effect.
///
/// ```
/// use ringwire::simd::{available, level};
/// assert!(available().any(|one| one == level()));
/// ```
#[inline]
pub fn level() -> Level {
    usable().get()
}

/// A level this CPU has.
#[derive(Clone, Copy)]
pub(super) struct Usable(Level);

impl Usable {
    /// `None` where the CPU lacks it.
    pub(super) fn new(level: Level) -> Option<Self> {
        level.is_available().then_some(Self(level))
    }

    #[inline]
    pub(super) fn get(self) -> Level {
        self.0
    }
}

/// `UNCHOSEN`, or the level as a number. Relaxed: whoever comes first chooses the same.
static CHOSEN: AtomicU8 = AtomicU8::new(UNCHOSEN);
const UNCHOSEN: u8 = u8::MAX;
const SCALAR: u8 = Level::Scalar as u8;
const SSE2: u8 = Level::Sse2 as u8;
const AVX2: u8 = Level::Avx2 as u8;
const AVX512: u8 = Level::Avx512 as u8;
const NEON: u8 = Level::Neon as u8;

/// [`level`] with its proof.
#[inline]
pub(super) fn usable() -> Usable {
    match CHOSEN.load(Ordering::Relaxed) {
        AVX512 => Usable(Level::Avx512),
        AVX2 => Usable(Level::Avx2),
        SSE2 => Usable(Level::Sse2),
        NEON => Usable(Level::Neon),
        SCALAR => Usable(Level::Scalar),
        _ => choose(),
    }
}

#[cold]
fn choose() -> Usable {
    let best = || available().last().unwrap_or(Level::Scalar);
    let level = forced().ok().flatten().unwrap_or_else(best);
    CHOSEN.store(level as u8, Ordering::Relaxed);
    Usable(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What the tests below run in a process of its own: the level is chosen once per process.
    #[test]
    fn tell_the_level() {
        println!("runs {}, forced {:?}", level(), forced());
    }

    fn told(simd: &str) -> String {
        let test = std::env::current_exe().unwrap();
        let output = Command::new(test)
            .args(["--exact", "simd::level::tests::tell_the_level", "--nocapture"])
            .env("RINGWIRE_SIMD", simd)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn every_available_level_can_be_forced() {
        for level in available() {
            let expected = format!("runs {level}, forced Ok(Some({level:?}))");
            assert!(told(level.name()).contains(&expected), "{}", told(level.name()));
        }
    }

    #[test]
    fn what_cannot_be_forced_leaves_the_best_and_says_so() {
        let best = available().last().unwrap();
        assert!(told("").contains(&format!("runs {best}, forced Ok(None)")));
        assert!(told("sse9").contains(&format!("runs {best}, forced Err(Unknown(\"sse9\"))")));
        let foreign = ALL.into_iter().find(|level| !level.is_available()).unwrap();
        let expected = format!("runs {best}, forced Err(Unavailable({foreign:?}))");
        assert!(told(foreign.name()).contains(&expected));
    }
}
