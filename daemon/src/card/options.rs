//! What the file on a card may say beyond the options of a node: this machine, and its Wi-Fi.

use anyhow::bail;
use serde::Deserialize;
use toml::Table;

use crate::settings::Secret;

/// `[system]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct System {
    pub(super) hostname: Option<String>,
    pub(super) ssh_keys: Vec<String>,
    pub(super) time_zone: Option<String>,
}

/// `[wifi]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wifi {
    #[serde(default)]
    pub(super) ssid: String,
    #[serde(default)]
    pub(super) passphrase: Option<String>,
    /// Where the radio is, as two letters: its channels and power depend on it.
    #[serde(default)]
    pub(super) country: Option<String>,
    #[serde(default)]
    pub(super) hidden: bool,
}

/// Bytes of the name of a network (IEEE 802.11).
const SSID_MAX: usize = 32;
/// Characters of a passphrase (IEEE 802.11).
const PASSPHRASE: std::ops::RangeInclusive<usize> = 8..=63;
/// Characters of one label of a name (RFC 1123).
const HOSTNAME_MAX: usize = 63;

/// What OpenSSH takes.
const KEY_TYPES: [&str; 7] = [
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ssh-ed25519@openssh.com",
    "ssh-ed25519",
    "ssh-rsa",
];

impl System {
    /// # Errors
    /// An option does not exist, or has a value that it cannot have.
    pub(super) fn parse(table: &Table) -> anyhow::Result<Self> {
        let system: Self = table
            .clone()
            .try_into()
            .map_err(|e| described("system", &e))?;
        if let Some(name) = &system.hostname {
            check_hostname(name)?;
        }
        for (index, key) in system.ssh_keys.iter().enumerate() {
            if !is_ssh_key(key) {
                bail!(
                    "system.ssh_keys: key {} is none (expected the line of a .pub file: \"ssh-ed25519 AAAA... name\")",
                    index + 1
                );
            }
        }
        if let Some(zone) = &system.time_zone
            && (zone.is_empty() || zone.starts_with('/') || zone.split('/').any(|p| p == ".."))
        {
            bail!(
                "system.time_zone = {zone:?} is none (expected a name such as \"Europe/Berlin\")"
            );
        }
        Ok(system)
    }
}

impl Wifi {
    /// # Errors
    /// See [`System::parse`].
    pub(super) fn parse(table: &Table) -> anyhow::Result<Self> {
        let wifi: Self = table
            .clone()
            .try_into()
            .map_err(|e| described("wifi", &e))?;
        if wifi.ssid.len() > SSID_MAX {
            bail!("wifi.ssid has more than {SSID_MAX} bytes");
        }
        if wifi.ssid.is_empty() && wifi.passphrase().is_some() {
            bail!("wifi.passphrase is set, and wifi.ssid is not");
        }
        if let Some(passphrase) = wifi.passphrase()
            && (!PASSPHRASE.contains(&passphrase.chars().count())
                || passphrase.contains(char::is_control))
        {
            bail!("wifi.passphrase has to have 8 to 63 characters");
        }
        if let Some(country) = &wifi.country
            && !(country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase()))
        {
            bail!(
                "wifi.country = {country:?} is none (expected two capital letters, such as \"DE\")"
            );
        }
        Ok(wifi)
    }

    /// An empty one is what is left after it was imported.
    pub(super) fn passphrase(&self) -> Option<&str> {
        self.passphrase.as_deref().filter(|text| !text.is_empty())
    }

    /// The file in which iwd looks for this network.
    pub(super) fn file_name(&self) -> String {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b" _-".contains(&b);
        match self.ssid.bytes().all(is_plain) {
            true => self.ssid.clone(),
            false => {
                let hex: String = self.ssid.bytes().map(|b| format!("{b:02x}")).collect();
                format!("={hex}")
            }
        }
    }

    /// What that file says; secret if there is a passphrase.
    pub(super) fn file_content(&self) -> Secret<String> {
        let mut content = String::new();
        if let Some(passphrase) = self.passphrase() {
            let escaped = passphrase.replace('\\', "\\\\");
            let escaped = match escaped.strip_prefix(' ') {
                Some(rest) => format!("\\s{rest}"),
                None => escaped,
            };
            content += &format!("[Security]\nPassphrase={escaped}\n\n");
        }
        content += &format!("[Settings]\nAutoConnect=true\nHidden={}\n", self.hidden);
        Secret::new(content)
    }
}

fn check_hostname(name: &str) -> anyhow::Result<()> {
    let is_label = (1..=HOSTNAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        bail!(
            "system.hostname = {name:?} is none (expected letters, digits and hyphens, 63 at most)"
        );
    }
    Ok(())
}

fn is_ssh_key(line: &str) -> bool {
    let mut fields = line.split(' ').filter(|field| !field.is_empty());
    let kind = fields.next().unwrap_or_default();
    let key = fields.next().unwrap_or_default();
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
    KEY_TYPES.contains(&kind)
        && key.starts_with("AAAA")
        && key.bytes().all(is_base64)
        && !line.contains(char::is_control)
}

/// The error of a section, in one line.
fn described(section: &str, error: &toml::de::Error) -> anyhow::Error {
    anyhow::anyhow!("[{section}]: {}", error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(text: &str) -> Result<System, String> {
        System::parse(&text.parse().unwrap()).map_err(|e| e.to_string())
    }

    fn wifi(text: &str) -> Result<Wifi, String> {
        Wifi::parse(&text.parse().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_openssh_takes_is_a_key() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ you@laptop";
        assert!(system(&format!("ssh_keys = ['{key}']")).is_ok());
        for wrong in [
            "",
            "ssh-ed25519",
            "secret",
            "ssh-dss AAAAB3 x",
            "ssh-rsa AAAA\\n* x",
        ] {
            let error = system(&format!("ssh_keys = [\"{wrong}\"]")).unwrap_err();
            assert!(error.contains("key 1 is none"), "{error}");
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(system("hostname = 'pi-3'\ntime_zone = 'Europe/Berlin'").is_ok());
        for wrong in ["", "-pi", "pi 3", "pi.local", "pi/../x"] {
            assert!(system(&format!("hostname = '{wrong}'")).is_err(), "{wrong}");
        }
        for wrong in ["", "/etc/passwd", "../../etc/passwd"] {
            assert!(
                system(&format!("time_zone = '{wrong}'")).is_err(),
                "{wrong}"
            );
        }
        let error = system("host = 'pi'").unwrap_err();
        assert!(error.contains("[system]: unknown field `host`"), "{error}");
    }

    #[test]
    fn a_network_is_a_file_of_iwd() {
        let plain = wifi("ssid = 'My net_1'\npassphrase = ' a\\b c456'").unwrap();
        assert_eq!(plain.file_name(), "My net_1");
        assert!(
            plain
                .file_content()
                .expose()
                .contains("Passphrase=\\sa\\\\b c456\n")
        );
        let other = wifi("ssid = 'Über'\nhidden = true").unwrap();
        assert_eq!(other.file_name(), "=c39c626572");
        assert_eq!(
            other.file_content().expose(),
            "[Settings]\nAutoConnect=true\nHidden=true\n"
        );
    }

    #[test]
    fn a_passphrase_that_cannot_be_one_is_refused_and_not_repeated() {
        for wrong in [
            "ssid = 'x'\npassphrase = 'short12'",
            "passphrase = 'long enough'",
        ] {
            let error = wifi(wrong).err().unwrap();
            assert!(
                !error.contains("short12") && !error.contains("enough"),
                "{error}"
            );
        }
        assert!(
            wifi("ssid = 'x'\npassphrase = ''")
                .unwrap()
                .passphrase()
                .is_none()
        );
        assert!(wifi("country = 'de'").is_err());
    }
}
