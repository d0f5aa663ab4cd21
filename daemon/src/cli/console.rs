//! `piparallel console`: the screen of a Pi without a keyboard. What it is, where it is, and what to do next.

use std::io::{Write as _, stdout};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use clap::Args;
use nix::ifaddrs::getifaddrs;
use serde_json::Value;

use super::exit::Exit;
use super::options::ServiceOptions;
use crate::address::host_name;
use crate::card;
use crate::control::Command;

/// What `console` can be told.
#[derive(Args, Clone, Debug)]
pub struct ConsoleOptions {
    /// Print it once
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    service: ServiceOptions,
}

/// People read it; half a percent of a Pi's core is left for that.
const LOOK: Duration = Duration::from_secs(2);

/// For so long a service that cannot be asked is one that still starts: the screen is there before it is.
const STARTING: Duration = Duration::from_secs(60);

const CLEAR: &str = "\x1b[H\x1b[2J";

/// # Errors
/// The screen cannot be written.
pub fn run(options: &ConsoleOptions) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let (mut shown, mut heard) = (String::new(), options.once);
    loop {
        let answer = options.service.ask(Command::State);
        heard |= answer.is_ok();
        let state = answer.as_ref().map_err(|_| silence(heard, began.elapsed()));
        let problems = card::problems();
        let page = page(&host_name(), &addresses(), state, &problems);
        if options.once {
            super::print(&page);
            return Ok(Exit::Success);
        }
        if page != shown {
            let mut out = stdout().lock();
            write!(out, "{CLEAR}{}", page.replace('\n', "\r\n"))?;
            out.flush()?;
            shown = page;
        }
        std::thread::sleep(LOOK);
    }
}

/// What it means that the service cannot be asked.
fn silence(heard_before: bool, after: Duration) -> &'static str {
    match !heard_before && after < STARTING {
        true => "starting",
        false => "the service is not running (journalctl -u piparallel)",
    }
}

/// `state`: what the service of this machine says of itself, or what its silence means.
fn page(host: &str, addresses: &[Ipv4Addr], state: Result<&Value, &str>, problems: &str) -> String {
    let text = |pointer: &str| {
        let value = state.ok().and_then(|state| state.pointer(pointer));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let number = |pointer: &str| {
        let value = state.ok().and_then(|state| state.pointer(pointer));
        value.and_then(Value::as_u64).unwrap_or_default()
    };
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let address = match addresses.is_empty() {
        true => "none yet: is the cable in, or [wifi] in piparallel.toml?".to_owned(),
        false => addresses.join(", "),
    };
    let mut page = format!(
        "piparallel {}\n\n  name         {host}\n  address      {address}\n",
        env!("CARGO_PKG_VERSION")
    );
    match state {
        Ok(_) => {
            page += &format!("  fingerprint  {}\n", text("/fingerprint"));
            page += &format!("  state        {}\n", text("/state"));
            let (running, wanted) = (number("/engines/running"), number("/engines/wanted"));
            page += &format!("  engines      {running} of {wanted}\n");
        }
        Err(silence) => page += &format!("  state        {silence}\n"),
    }
    if !problems.is_empty() {
        page += "\n  piparallel.toml on this card has mistakes:\n";
        page.extend(problems.lines().map(|line| format!("    {line}\n")));
    }
    if text("/role") == "controller" {
        page += &format!(
            "\n  On your laptop: piparallel connect {}\n  then in Python: import ipyparallel; ipyparallel.Client().ids\n",
            text("/pool")
        );
    }
    page
}

/// Where this machine can be reached, without those that only reach itself.
fn addresses() -> Vec<Ipv4Addr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let addresses =
        interfaces.filter_map(|interface| interface.address?.as_sockaddr_in().map(|a| a.ip()));
    addresses.filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_controller_says_how_to_connect() {
        let state = json!({
            "pool": "class", "role": "controller", "state": "controller of class", "fingerprint": "K7QM-2FXD",
            "engines": {"running": 3, "wanted": 4},
        });
        let page = page("pi-1", &[Ipv4Addr::new(192, 168, 1, 5)], Ok(&state), "");
        for part in [
            "pi-1",
            "192.168.1.5",
            "K7QM-2FXD",
            "controller of class",
            "3 of 4",
            "piparallel connect class",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_a_remedy() {
        let page = page(
            "pi-1",
            &[],
            Err(silence(false, STARTING)),
            "piparallel.toml:3: no such option\n",
        );
        for part in ["is the cable in", "journalctl", "piparallel.toml:3"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("laptop"));
    }

    #[test]
    fn a_service_that_starts_is_no_trouble() {
        let shown = |heard, after| page("pi-1", &[], Err(silence(heard, after)), "");
        assert!(!shown(false, LOOK).contains("journalctl"));
        assert!(
            shown(true, LOOK).contains("journalctl"),
            "it has run before"
        );
    }
}
