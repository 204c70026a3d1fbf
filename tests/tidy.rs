//! The house rules that a compiler does not keep: which room may import which, where `unsafe` may
//! stand, how long a file may be, and what must not be committed.
//!
//! Each rule is a pure function from text to findings, shown below on texts that break it.

use std::fs;
use std::path::{Path, PathBuf};

/// Every room of `src/`, and the rooms it may name. The table in `src/lib.rs` says what lives there.
const ROOMS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("error", &["config"]),
    ("simd", &[]),
    ("http", &["config"]),
    ("ws", &["config", "http", "simd"]),
    ("tls", &["error"]),
    ("driver", &["config"]),
    // The engine calls the handler, and a handler's `Conn` is a view into the engine.
    ("engine", &["config", "driver", "handler", "http", "simd", "tls", "ws"]),
    ("handler", &["config", "driver", "engine", "http", "tls", "ws"]),
    ("remote", &["engine", "handler", "http", "ws"]),
    ("server", &["config", "driver", "engine", "error", "handler", "remote", "tls"]),
    ("simulation", &["config", "driver", "engine", "handler", "remote", "server", "tls"]),
];

/// What examples and the binary leave alone: it is hidden from the documentation.
const HIDDEN: &[&str] = &["ringwire::driver", "ringwire::engine"];

/// The files that may say `unsafe`, each for the reason it states itself.
const UNSAFE_FILES: &[&str] = &[
    "src/driver/laws/denied.rs",
    "src/driver/laws/ends.rs",
    "src/driver/laws/limits.rs",
    "src/driver/sys.rs",
    "src/driver/uring/buffers.rs",
    "src/driver/uring/ring.rs",
    "src/simd/aarch64.rs",
    "src/simd/x86_64.rs",
    "src/simd/x86_64/utf8.rs",
    "src/ws/text.rs",
    // A counting allocator.
    "tests/alloc.rs",
];

const MAX_LINES: usize = 700;

const UNFINISHED: &[&str] = &["dbg!", "todo!", "unimplemented!"];

/// Paths of one machine and hosts of registries, which a repository has no use for. Spelled so that
/// this file does not contain them.
const FOREIGN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tmp/w", "t-"),
    concat!("/tmp/tar", "get"),
    concat!("bash", "_jobs"),
    concat!("registry.", "npmjs"),
    concat!("static.", "crates"),
    concat!("index.", "crates"),
    concat!("pypi", ".org"),
    concat!("files.", "pythonhosted"),
    concat!("deb.", "debian.org"),
];

#[test]
fn rooms_import_what_they_may() {
    assert_none(rust_files().iter().flat_map(|file| layering(&file.path, &file.text)));
}

#[test]
fn every_room_is_on_the_map() {
    let map = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    assert_none(rooms_in_src().into_iter().filter_map(|room| unmapped(&room, &map)));
}

#[test]
fn unsafe_stands_in_named_files() {
    // What ringwire is compared with are crates of their own, outside the workspace.
    let ours = rust_files().into_iter().filter(|file| !file.path.starts_with("perf/baselines/"));
    assert_none(ours.filter_map(|file| unsafe_rule(&file.path, &file.text, UNSAFE_FILES)));
}

#[test]
fn files_are_short() {
    assert_none(rust_files().iter().filter_map(|file| too_long(&file.path, &file.text)));
}

#[test]
fn nothing_is_left_unfinished() {
    assert_none(rust_files().iter().flat_map(|file| unfinished(&file.path, &file.text)));
}

#[test]
fn no_file_knows_the_machine() {
    let files = files(|path| path.file_name().is_some_and(|name| name != "Cargo.lock"));
    assert!(files.len() > 50, "{} files found", files.len());
    assert_none(files.iter().flat_map(|file| foreign(&file.path, &file.text)));
}

/// What a Rust file may not name: rooms that its room may not import, and hidden ones from outside.
fn layering(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let Some(room) = room_of(path) else {
        let outside = path.starts_with("src/bin/") || path.starts_with("examples/");
        let hidden = HIDDEN.iter().filter(|hidden| outside && code.contains(**hidden));
        return hidden.map(|hidden| format!("{path} names {hidden}, which is no public API")).collect();
    };
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{path}: the room `{room}` is not in the table of this test")];
    };
    let mut findings: Vec<String> = named_rooms(&code)
        .into_iter()
        .filter(|named| *named != room && !allowed.contains(&named.as_str()))
        .map(|named| format!("{path}: `{room}` may not name `crate::{named}`"))
        .collect();
    let depth = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count() - 1;
    findings.extend(
        code.lines()
            .filter(|line| line.trim_start().starts_with("use ") && leaves_by_super(line, depth))
            .map(|line| format!("{path}: say `crate::` where you leave the room: {}", line.trim())),
    );
    findings
}

/// The room of a file of the library; `None` for its root and for everything that is not in it.
fn room_of(path: &str) -> Option<&str> {
    let inner = path.strip_prefix("src/").filter(|inner| !inner.starts_with("bin/") && *inner != "lib.rs")?;
    Some(inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs"))
}

/// The first segments of all paths from `crate::`, those in braces as well.
fn named_rooms(code: &str) -> Vec<String> {
    let segment =
        |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            rooms.push(segment(rest));
            continue;
        };
        let (mut depth, mut begin) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => begin = true,
                c if begin && !c.is_whitespace() => {
                    rooms.push(segment(&group[at..]));
                    begin = false;
                }
                _ => {}
            }
        }
    }
    rooms
}

/// Whether a `use` of a module at this depth goes up to the crate's root by `super`. What rustfmt
/// indents stands in an inline module, which is one step deeper.
fn leaves_by_super(line: &str, depth: usize) -> bool {
    let inline = (line.len() - line.trim_start().len()) / 4;
    line.matches("super::").count() >= depth + inline
}

fn unmapped(room: &str, map: &str) -> Option<String> {
    let said =
        map.lines().filter(|line| line.starts_with("//!")).any(|line| line.contains(&format!("`{room}`")));
    (!said).then(|| format!("the table in src/lib.rs does not say what `{room}` is"))
}

fn unsafe_rule(path: &str, text: &str, allowed: &[&str]) -> Option<String> {
    let says_unsafe = words(&code_of(text)).any(|word| word == "unsafe");
    match (says_unsafe, allowed.contains(&path)) {
        (true, false) => Some(format!("{path} says `unsafe` and is not one of the files that may")),
        (false, true) => Some(format!("{path} has no `unsafe` any more: take it off the list")),
        (true, true) if !has_reason(text) => Some(format!("{path} gives no reason for its `unsafe`")),
        _ => None,
    }
}

/// Whether the file, or the items that need it, opt out of the lint and say why.
fn has_reason(text: &str) -> bool {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
    one_line.contains("allow(unsafe_code, reason = \"")
}

fn too_long(path: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| format!("{path} has {lines} lines, more than {MAX_LINES}: make it two"))
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let found = UNFINISHED.iter().filter(|mark| code.contains(**mark));
    found.map(|mark| format!("{path} says {mark}")).collect()
}

fn foreign(path: &str, text: &str) -> Vec<String> {
    // `$prefix/home/x` is below some other place.
    let below = |at: usize| text[..at].ends_with(|c: char| c.is_alphanumeric() || "_})".contains(c));
    let names = |place: &str| text.match_indices(place).any(|(at, _)| !place.starts_with('/') || !below(at));
    let found = FOREIGN.iter().filter(|place| names(place));
    found.map(|place| format!("{path} names {place}")).collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The text without comments and without what stands in string and character literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest),
            'r' | 'b' | 'c' if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of a comment that may contain others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        at += match here {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a literal in quotes of the kind it begins with.
fn quoted(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            byte if byte == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"` and the like; 0 if this is none.
fn raw_string(text: &str) -> usize {
    let name = text.len() - text.trim_start_matches(['b', 'c']).len();
    let Some(rest) = text[name.min(1)..].strip_prefix('r') else { return 0 };
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let Some(inner) = rest[hashes..].strip_prefix('"') else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
    text.len() - inner.len() + length
}

/// The length of a character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text),
        _ => 0,
    }
}

struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files() -> Vec<File> {
    let files = files(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(
        files.iter().any(|file| file.path == "src/lib.rs") && files.len() > 30,
        "the sources are not found"
    );
    files
}

/// All text files that `wanted` picks, but for what is built or fetched.
fn files(wanted: impl Fn(&Path) -> bool) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = ["target", ".git", ".cache", "node_modules", "corpus", "artifacts", "__pycache__"];
            if skipped.iter().any(|skip| name == *skip) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&path)
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(root()).expect("under the root").to_string_lossy().into_owned();
                found.push(File { path, text });
            }
        }
    }
    found
}

fn rooms_in_src() -> Vec<String> {
    let entries = fs::read_dir(root().join("src")).expect("src").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned());
    names.filter(|name| !["lib", "bin"].contains(&name.as_str())).collect()
}

fn assert_none(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// The rules on texts that break them, and on the nearest ones that do not.
mod rules {
    use super::*;

    #[test]
    fn a_lower_room_may_not_name_a_higher_one() {
        assert_eq!(
            layering("src/ws/frame.rs", "use crate::driver::Token;"),
            ["src/ws/frame.rs: `ws` may not name `crate::driver`"]
        );
        assert_eq!(layering("src/ws/frame.rs", "fn f() { crate::engine::run() }").len(), 1);
        assert_eq!(
            layering("src/http/mod.rs", "use crate::{\n    config::Limits,\n    ws::{a, b},\n};").len(),
            1
        );
        assert_eq!(layering("src/driver/uring/ring.rs", "pub(crate) use crate::Message;").len(), 1);
        assert_eq!(layering("src/simd/mod.rs", "use super::ws;").len(), 1);
        assert_eq!(layering("src/driver/epoll/mod.rs", "use super::super::ws;").len(), 1);
        assert_eq!(layering("src/config.rs", "use super::ws;").len(), 1);
    }

    #[test]
    fn a_room_may_name_itself_and_lower_ones() {
        for (path, text) in [
            ("src/ws/frame.rs", "use crate::simd; use crate::{config::{A, B}, http, ws::close};"),
            (
                "src/ws/frame.rs",
                "// use crate::driver;\n/* crate::engine */ const A: &str = \"crate::server\";",
            ),
            ("src/driver/epoll/mod.rs", "use super::sys;"),
            ("src/driver/sim/tests/mod.rs", "use super::super::Sim;"),
            ("src/engine/wheel.rs", "mod tests {\n    use super::super::Core;\n}"),
            ("src/lib.rs", "pub use crate::driver::sim;"),
            ("src/bin/ringwire/main.rs", "use crate::serve;"),
        ] {
            assert_none(layering(path, text));
        }
    }

    #[test]
    fn a_new_room_must_enter_the_table() {
        assert_eq!(layering("src/quic.rs", "").len(), 1);
        assert!(unmapped("quic", "//! | `ws` | the protocol |\nmod quic; // `quic`").is_some());
        assert!(unmapped("ws", "//! | [`ws`] | the protocol |").is_none());
    }

    #[test]
    fn outsiders_use_the_public_api() {
        assert_eq!(layering("examples/echo.rs", "use ringwire::driver::Token;").len(), 1);
        assert_eq!(layering("src/bin/ringwire/main.rs", "ringwire::engine::Core::new()").len(), 1);
        assert_none(layering("examples/echo.rs", "use ringwire::{Handler, sim};"));
    }

    #[test]
    fn unsafe_needs_a_place_and_a_reason() {
        let block = "fn f() { unsafe { g() } }";
        let with_reason = format!("#![allow(unsafe_code, reason = \"g\")]\n{block}");
        assert!(unsafe_rule("src/a.rs", block, &[]).is_some());
        assert!(unsafe_rule("src/a.rs", &with_reason, &[]).is_some());
        assert!(unsafe_rule("src/a.rs", block, &["src/a.rs"]).is_some());
        assert!(unsafe_rule("src/a.rs", "fn f() {}", &["src/a.rs"]).is_some());
        assert!(unsafe_rule("src/a.rs", &with_reason, &["src/a.rs"]).is_none());
        assert!(unsafe_rule("src/a.rs", "#![deny(unsafe_code)] // no unsafe here", &[]).is_none());
    }

    #[test]
    fn length_and_leftovers_are_found() {
        assert!(too_long("a.rs", &"x\n".repeat(MAX_LINES + 1)).is_some());
        assert!(too_long("a.rs", &"x\n".repeat(MAX_LINES)).is_none());
        for mark in UNFINISHED {
            assert_eq!(unfinished("a.rs", &format!("fn f() {{ {mark}(); }}")).len(), 1);
            assert_eq!(unfinished("a.rs", &format!("/// # {mark}()\n")).len(), 0);
        }
        for place in FOREIGN {
            assert_eq!(foreign("a.md", &format!("see {place}x")).len(), 1);
        }
        assert_none(foreign("a.sh", &format!("cd $prefix{}x", FOREIGN[0])));
    }

    #[test]
    fn literals_and_comments_are_no_code() {
        let text =
            r####"a /* b /* c */ d */ e "f \" g" h r#"i " j"# k 'l' m '\'' n b"o" p br"q" 'r s // t"####;
        let code: Vec<String> = code_of(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(code, ["a", "e", "h", "k", "m", "n", "b", "p", "'r", "s"]);
        assert_eq!(code_of("a // b\nc").lines().count(), 2);
    }
}
