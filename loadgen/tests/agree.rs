//! loadgen's figures beside those of an independent client, in Python (see `agree/check.py`). Needs
//! what `tests/setup` brings.

use std::path::PathBuf;
use std::process::Command;

#[test]
#[ignore = "needs Python's websockets; `tests/run` runs it"]
fn figures_agree_with_those_of_an_independent_client() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let env = std::env::var_os("RINGWIRE_TEST_ENV").map(PathBuf::from);
    let env = env.unwrap_or_else(|| root.join("../target/test-env"));
    let output = Command::new(env.join("python/bin/python"))
        .arg(root.join("tests/agree/check.py"))
        .arg(env!("CARGO_BIN_EXE_ringwire-loadgen"))
        .output()
        .expect("Python is there: tests/setup");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    assert!(output.status.success(), "{text}");
}
