//! `--adapter`, and `merge`, which makes the same model.

use crate::{path, refused, told};

#[test]
fn an_adapter_changes_the_answer_and_merging_it_gives_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (tiny, merged) = (path(&testkit::tiny()), path(&directory.path().join("merged")));
    let adapters = ["thinker", "experts"].map(|case| path(&testkit::adapters().join(case)));
    told(&["merge", &tiny, &adapters[0], &adapters[1], &merged]);
    let ask = |model: &str, more: &[&str]| {
        told(&[&["ask", "hello", "--max-tokens", "6", "--dtype", "f32", "--model", model], more].concat())
    };
    let loaded = ask(&tiny, &["--adapter", &adapters[0], "--adapter", &adapters[1]]);
    assert_eq!(loaded, ask(&merged, &[]));
    assert_ne!(loaded, ask(&tiny, &[]));
    let said = refused(1, &["say", "red cat", "--model", &tiny, "--adapter", "no-such-adapter"]);
    assert!(said.contains("no-such-adapter") && said.contains("adapter_config.json"), "{said}");
    let said = refused(2, &["merge", &tiny, &tiny, &path(&directory.path().join("other"))]);
    assert!(said.contains("adapter_config.json"), "{said}");
    // Nano is quantised.
    refused(2, &["ask", "hello", "--adapter", &adapters[0]]);
}
