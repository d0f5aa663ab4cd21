//! The command line: one file for each subcommand, none of which holds logic of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tokio::runtime::{LocalOptions, LocalRuntime};

use exit::Exit;

/// `piparallel approve`, `pair`, `revoke`, `rotate-key`, `client-key`.
pub mod admission;
/// `piparallel card`.
pub mod card;
/// `piparallel config`.
pub mod config;
/// `piparallel connect` and `disconnect`.
pub mod connect;
/// `piparallel console`.
pub mod console;
/// `piparallel controller`.
pub mod controller;
/// `piparallel discover`.
pub mod discover;
/// `piparallel engines`.
pub mod engines;
/// Exit codes and error lines.
pub mod exit;
/// `piparallel ipcontroller`.
pub mod ipcontroller;
/// `piparallel node`.
pub mod node;
/// `piparallel nodes` and `pending`.
pub mod nodes;
/// Options that subcommands share.
pub mod options;
/// A block of text kept up to date.
pub mod screen;
/// The state of a pool as a table.
pub mod snapshot;
/// `piparallel status`.
pub mod status;
/// `piparallel identify`, `drain`, `resume`, `restart-engines`.
pub mod tending;
/// `piparallel up`.
pub mod up;

/// Rows of engines in a block that has to fit on a screen.
const ENGINES_ON_SCREEN: usize = 16;

/// An IPython Parallel pool in one program: the controller, its engines, and a look at them.
///
/// Stock ipyparallel clients (8.x and 9.x) connect with `ipp.Client()`; stock engines do the work.
#[derive(Debug, Parser)]
#[command(name = "piparallel", version, max_term_width = 100)]
#[command(
    after_help = "First steps: `piparallel up`, then `piparallel status` from another shell."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a pool on this machine: a controller and engines, until Ctrl-C
    Up(up::UpOptions),
    /// Run a controller alone, for engines on other machines
    Controller(options::ControllerOptions),
    /// Run a controller with the command line of stock ipcontroller
    ///
    /// For programs that start ipcontroller: `c.ControllerLauncher.controller_cmd =
    /// ["piparallel", "ipcontroller"]`. The same happens when piparallel is called under the name
    /// ipcontroller.
    #[command(disable_help_flag = true)]
    Ipcontroller {
        /// Options of ipcontroller, see `piparallel ipcontroller --help`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        args: Vec<String>,
    },
    /// Show engines, their queues and heartbeats, and the tasks of a running pool
    ///
    /// Exit code 3 means that there is no controller.
    Status(status::StatusOptions),
    /// Run the service of a node: find its pool, join it, run engines, or be the controller
    Node(node::NodeCommand),
    /// Run the engines of this machine's node, as another user (engines.apart)
    Engines(engines::EnginesCommand),
    /// Let this machine work with a pool: a plain ipp.Client() finds it then
    Connect(connect::ConnectOptions),
    /// End that
    Disconnect(connect::DisconnectOptions),
    /// Show every node of the pool: state, engines, load, temperature, power, versions
    Nodes(options::ServiceOptions),
    /// Show what this node is, and which controller it belongs to
    State(options::ServiceOptions),
    /// Accept the next controller that knows the join key, if the former was set up anew
    ForgetController(options::ServiceOptions),
    /// Show the nodes and laptops that wait to be let in
    Pending(options::ServiceOptions),
    /// Let a pending node in, by its fingerprint
    Approve(options::OneNode),
    /// Let in whoever comes, for some minutes
    Pair(admission::PairOptions),
    /// Cut a node off at once and for good, with its engines
    Revoke(options::OneNode),
    /// Make a new join key and hand it to all joined nodes; the old one lets nobody in any more
    RotateKey(options::ServiceOptions),
    /// Show the key with which laptops connect without being approved
    ClientKey(admission::ClientKeyOptions),
    /// Blink a node's light
    Identify(options::OneNode),
    /// Give a node no more work; what runs there is finished
    Drain(options::OneNode),
    /// Give a drained node work again
    Resume(options::OneNode),
    /// End a node's engines and start them anew
    RestartEngines(options::OneNode),
    /// Show the pools and nodes that announce themselves on this network
    Discover(discover::DiscoverOptions),
    /// Show the options of this node, and where each is from
    Config(config::ConfigOptions),
    /// Apply the piparallel.toml of a card's boot partition to this machine, at boot
    ///
    /// Keys and passphrases are kept on this machine and taken out of the file. Mistakes are reported in
    /// piparallel-errors.txt beside it.
    Card(card::CardOptions),
    /// Show on this machine's screen what it is, where it is, and what to do next
    Console(console::ConsoleOptions),
    /// Print completions for a shell
    Completions { shell: Shell },
    /// Write the man pages to a directory, or the first one to standard output
    #[command(hide = true)]
    Man { dir: Option<PathBuf> },
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let result = match stock_arguments(&args) {
        Some(args) => ipcontroller::run(args),
        None => run(Cli::parse().command),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            exit::report(&error);
            Exit::Failure.into()
        }
    }
}

/// What follows `ipcontroller`, as the program's name or as the subcommand. Stock's command line is
/// nothing that clap could read.
fn stock_arguments(args: &[String]) -> Option<&[String]> {
    let name = Path::new(args.first()?).file_name()?;
    if name == "ipcontroller" {
        return Some(&args[1..]);
    }
    (args.get(1)? == "ipcontroller").then(|| &args[2..])
}

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Up(options) => up::run(&options),
        Command::Controller(options) => controller::run(&options),
        Command::Ipcontroller { args } => ipcontroller::run(&args),
        Command::Status(options) => status::run(&options),
        Command::Node(options) => node::run(&options),
        Command::Engines(options) => engines::run(&options),
        Command::Connect(options) => connect::run(&options),
        Command::Disconnect(options) => connect::run_disconnect(&options),
        Command::Nodes(options) => nodes::run(&options),
        Command::State(options) => tending::state(&options),
        Command::ForgetController(options) => tending::forget_controller(&options),
        Command::Pending(options) => nodes::run_pending(&options),
        Command::Approve(options) => admission::approve(&options),
        Command::Pair(options) => admission::pair(&options),
        Command::Revoke(options) => admission::revoke(&options),
        Command::RotateKey(options) => admission::rotate_key(&options),
        Command::ClientKey(options) => admission::client_key(&options),
        Command::Identify(options) => tending::identify(&options),
        Command::Drain(options) => tending::drain(&options),
        Command::Resume(options) => tending::resume(&options),
        Command::RestartEngines(options) => tending::restart_engines(&options),
        Command::Discover(options) => discover::run(&options),
        Command::Config(options) => config::run(&options),
        Command::Card(options) => card::run(&options),
        Command::Console(options) => console::run(&options),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "piparallel", &mut text);
            print(&String::from_utf8_lossy(&text));
            Ok(Exit::Success)
        }
        Command::Man { dir } => man(dir.as_deref()),
    }
}

fn man(dir: Option<&Path>) -> anyhow::Result<Exit> {
    let command = Cli::command();
    match dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            clap_mangen::generate_to(command, dir)
                .with_context(|| format!("cannot write man pages to {}", dir.display()))?;
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(Exit::Success)
}

/// Everything runs on one thread.
fn runtime() -> anyhow::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start the event loop")
}

/// What came from a service or the network must not move the cursor.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Lines with columns as wide as their longest cell.
fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Writes to standard output; a reader that has gone away (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_stock_command_line_is_recognised_by_name_or_subcommand() {
        let args = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let by_name = args("/usr/bin/ipcontroller --ping=3");
        assert_eq!(stock_arguments(&by_name), Some(&by_name[1..]));
        let by_subcommand = args("piparallel ipcontroller --help");
        assert_eq!(stock_arguments(&by_subcommand), Some(&by_subcommand[2..]));
        assert_eq!(stock_arguments(&args("piparallel status")), None);
    }
}
