//! The fuzz targets in an ordinary test: the committed corpus is replayed, and random inputs are tried.
//! How to explore is in `fuzz/README.md`.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the targets are a library of their own as well, and a panic is a failed test"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// Runs all files of one target; a failure names the file.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 3, "no corpus for {target}");
    for file in files {
        println!("{}", file.display());
        run(&fs::read(&file).unwrap());
    }
}

#[test]
fn controller_corpus() {
    replay("controller", targets::controller::run);
}

#[test]
fn db_query_corpus() {
    replay("db_query", targets::db_query::run);
}

#[test]
fn join_corpus() {
    replay("join", targets::join::run);
}

#[test]
fn message_corpus() {
    replay("message", targets::message::run);
}

#[test]
fn task_metadata_corpus() {
    replay("task_metadata", targets::task_metadata::run);
}

#[test]
fn txt_corpus() {
    replay("txt", targets::txt::run);
}

#[test]
fn zmtp_corpus() {
    replay("zmtp", targets::zmtp::run);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_controller_survives_anything(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        targets::controller::run(&data);
    }

    #[test]
    fn a_door_survives_anything(data in prop::collection::vec(any::<u8>(), 0..600)) {
        targets::join::run(&data);
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written(data in prop::collection::vec(any::<u8>(), 0..300)) {
        targets::txt::run(&data);
    }

    #[test]
    fn a_connection_survives_anything(data in prop::collection::vec(any::<u8>(), 0..600)) {
        targets::zmtp::run(&data);
    }

    #[test]
    fn a_scheduler_survives_anything(data in prop::collection::vec(any::<u8>(), 0..600)) {
        targets::task_metadata::run(&data);
    }
}
