//! `piparallel card`: what a card's file says, applied at boot.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use crate::card::Card;

/// What `card` can be told.
#[derive(Args, Clone, Debug)]
pub struct CardOptions {
    /// The FAT partition with piparallel.toml
    #[arg(long, value_name = "DIR", default_value = "/boot/firmware")]
    boot: PathBuf,
    /// The system that is set up
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// # Errors
/// The file has mistakes; they are in the report beside it.
pub fn run(options: &CardOptions) -> anyhow::Result<Exit> {
    let card = Card {
        boot: options.boot.clone(),
        root: options.root.clone(),
    };
    let problems = card.import();
    for problem in &problems {
        eprintln!("piparallel: {problem}");
    }
    Ok(match problems.is_empty() {
        true => Exit::Success,
        false => Exit::Failure,
    })
}
