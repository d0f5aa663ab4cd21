//! A card's file, from boot to boot.

use std::fs;

use super::*;

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ you@laptop";

/// A card in a directory that goes with it.
struct Fixture {
    card: Card,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let card = Card {
            boot: dir.path().join("boot"),
            root: dir.path().join("root"),
        };
        fs::create_dir(&card.boot).unwrap();
        fs::create_dir_all(card.root.join(ZONES).join("Europe")).unwrap();
        fs::write(card.root.join(ZONES).join("Europe/Berlin"), "").unwrap();
        fs::create_dir_all(card.root.join("run/piparallel")).unwrap();
        Self { card, _dir: dir }
    }

    /// A boot with this text in the file.
    fn boot(&self, text: &str) -> Vec<String> {
        fs::write(self.card.file(), text).unwrap();
        self.card.import()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.card.root.join(path)).unwrap_or_default()
    }

    fn report(&self) -> Option<String> {
        fs::read_to_string(self.card.boot.join(REPORT)).ok()
    }
}

fn whole() -> String {
    format!(
        "pool = \"class\"\njoin_key = \"{KEY}\"\n[engines]\ncount = 2\n[system]\nhostname = \"pi-3\"\n\
         ssh_keys = [\"{SSH}\"]\ntime_zone = \"Europe/Berlin\"\n[wifi]\nssid = \"net\"\npassphrase = \"correct horse\"\n\
         country = \"DE\"\n"
    )
}

#[test]
fn everything_in_the_file_is_applied_and_secrets_leave_it() {
    let card = Fixture::new();
    assert_eq!(card.boot(&whole()), Vec::<String>::new());
    assert!(card.text(NODE_OPTIONS).contains("pool = \"class\""));
    assert!(
        card.text(NODE_OPTIONS)
            .contains("join_key_file = \"/var/lib/piparallel/card.key\"")
    );
    assert_eq!(card.text(JOIN_KEY), KEY);
    assert_eq!(card.text(HOSTNAME), "pi-3\n");
    assert_eq!(card.text(SSH_KEYS), format!("{SSH}\n"));
    assert!(card.text(RADIO).contains("Country=DE"));
    assert!(
        card.text("var/lib/iwd/net.psk")
            .contains("Passphrase=correct horse")
    );
    let zone = fs::read_link(card.card.root.join(LOCALTIME)).unwrap();
    assert_eq!(zone, Path::new("/usr/share/zoneinfo/Europe/Berlin"));
    let everywhere = [
        fs::read_to_string(card.card.file()).unwrap(),
        card.text(NODE_OPTIONS),
        card.text(ACCEPTED),
    ];
    for text in everywhere {
        assert!(
            !text.contains(KEY) && !text.contains("correct horse"),
            "{text}"
        );
    }
    assert_eq!(card.report(), None);
}

#[test]
fn the_next_boot_finds_the_same_without_the_secrets() {
    let card = Fixture::new();
    card.boot(&whole());
    fs::remove_file(card.card.root.join(NODE_OPTIONS)).unwrap();
    assert_eq!(card.card.import(), Vec::<String>::new());
    assert!(card.text(NODE_OPTIONS).contains("join_key_file"));
    assert_eq!(card.text(JOIN_KEY), KEY);
    assert!(card.text("var/lib/iwd/net.psk").contains("correct horse"));
    assert!(!card.card.root.join("var/lib/iwd/net.open").exists());
}

#[test]
fn a_mistake_in_one_part_leaves_the_others() {
    let card = Fixture::new();
    card.boot(&whole());
    let problems = card.boot(&format!(
        "pool = \"other\"\nrole = \"boss\"\n[system]\nhostname = \"pi-4\"\nssh_keys = [\"{SSH}\"]\n"
    ));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("role"), "{problems:?}");
    assert!(
        card.text(NODE_OPTIONS).contains("pool = \"class\""),
        "what was right before"
    );
    assert_eq!(card.text(HOSTNAME), "pi-4\n");
    let report = card.report().unwrap();
    assert!(report.contains(&problems[0]), "{report}");
    assert!(card.text(PROBLEMS).contains(&problems[0]));
    assert_eq!(card.boot("pool = \"other\"\n"), Vec::<String>::new());
    assert!(card.text(NODE_OPTIONS).contains("pool = \"other\""));
    assert_eq!(card.report(), None, "it goes away by itself");
    assert_eq!(card.text(PROBLEMS), "");
}

#[test]
fn a_file_that_is_no_toml_names_the_line_and_leaves_the_pi_reachable() {
    let card = Fixture::new();
    card.boot(&whole());
    let problems = card.boot("pool = \"class\"\n\n[system\nssh_keys = []\n");
    assert!(problems[0].contains(".toml:3:"), "{problems:?}");
    assert_eq!(card.text(SSH_KEYS), format!("{SSH}\n"));
    assert!(card.text(NODE_OPTIONS).contains("pool = \"class\""));
    fs::remove_file(card.card.file()).unwrap();
    let problems = card.card.import();
    assert!(problems[0].contains("cannot read"), "{problems:?}");
    assert_eq!(card.text(SSH_KEYS), format!("{SSH}\n"));
}

#[test]
fn a_first_boot_with_a_mistake_starts_with_the_defaults() {
    let card = Fixture::new();
    let problems =
        card.boot("[engines]\ncount = \"two\"\n[wifi]\nssid = \"x\"\npassphrase = \"short\"\n");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains(".toml:2:"), "{problems:?}");
    assert!(problems[1].contains("8 to 63"), "{problems:?}");
    assert_eq!(card.text(NODE_OPTIONS), "");
    assert!(card.card.root.join(NODE_OPTIONS).exists());
}

#[test]
fn the_line_of_a_mistake_is_that_of_the_file() {
    let card = Fixture::new();
    let problems = card.boot("[system]\nhostname = \"pi\"\n\n[engines]\ncout = 2\n");
    assert!(problems[0].contains(".toml:5:"), "{problems:?}");
}

#[test]
fn an_ssh_key_that_is_taken_out_is_taken_out() {
    let card = Fixture::new();
    card.boot(&whole());
    card.boot("pool = \"class\"\n");
    assert!(!card.card.root.join(SSH_KEYS).exists());
}
