//! Writes the seeds: `seeds CORPORA` makes `CORPORA/<target>/seed-<n>`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let corpora = std::env::args_os().nth(1).map(PathBuf::from).expect("usage: seeds CORPORA");
    for (n, (target, input)) in ringwire_fuzz::seeds::seeds().into_iter().enumerate() {
        let corpus = corpora.join(target);
        std::fs::create_dir_all(&corpus)?;
        std::fs::write(corpus.join(format!("seed-{n:03}")), input)?;
    }
    Ok(())
}
