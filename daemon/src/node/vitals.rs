//! What a machine says of itself: model, load, temperature, and whether it is short of power.
//!
//! Everything is read from files of the kernel, relative to a root so that tests can have their own. What a
//! machine does not have is `None`: only a Raspberry Pi knows of throttling.

use std::path::{Path, PathBuf};

use piparallel_core::join::message::Power;

/// A look at the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Average of the last minute.
    pub load: Option<f32>,
    /// Of the hottest part, in °C.
    pub temperature: Option<f32>,
    pub power: Option<Power>,
}

const THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

impl Vitals {
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let load = text(&root.join("proc/loadavg"));
        Self {
            load: load.and_then(|l| l.split(' ').next()?.parse().ok()),
            temperature: temperature(root),
            power: power(root),
        }
    }
}

/// The model as the device tree or the firmware names it.
#[must_use]
pub fn model(root: &Path) -> Option<String> {
    ["proc/device-tree/model", "sys/class/dmi/id/product_name"]
        .iter()
        .find_map(|file| text(&root.join(file)))
        .filter(|model| !model.is_empty())
}

fn temperature(root: &Path) -> Option<f32> {
    entries(&root.join("sys/class/thermal"))
        .filter(|zone| {
            zone.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("thermal_zone"))
        })
        .filter_map(|zone| text(&zone.join("temp"))?.parse::<f32>().ok())
        .map(|milli| milli / 1000.0)
        // A sensor that is not there reads as something absurd.
        .filter(|celsius| (-40.0..150.0).contains(celsius))
        .reduce(f32::max)
}

/// The firmware's flags, or with a kernel that does not show them, the voltage alarm.
fn power(root: &Path) -> Option<Power> {
    if let Some(flags) = text(&root.join(THROTTLED)) {
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok()?;
        // Bits 0 to 3: under-voltage, capped, throttled, soft limit of temperature. From 16 on: since
        // the start.
        return Some(Power {
            under_voltage: flags & 0x1 != 0,
            throttled: flags & 0xe != 0,
            had_under_voltage: flags & 0x1_0000 != 0,
            was_throttled: flags & 0xe_0000 != 0,
        });
    }
    let sensor = entries(&root.join("sys/class/hwmon"))
        .find(|dir| text(&dir.join("name")).as_deref() == Some("rpi_volt"))?;
    let alarm = text(&sensor.join("in0_lcrit_alarm"))?;
    Some(Power {
        under_voltage: alarm == "1",
        ..Power::default()
    })
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn text(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.trim_end_matches(['\0', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn a_pi_tells_everything() {
        let pi = machine(&[
            ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
            ("proc/loadavg", "1.25 0.80 0.50 2/300 999\n"),
            ("sys/class/thermal/thermal_zone0/temp", "61300\n"),
            ("sys/class/thermal/cooling_device0/temp", "99000\n"),
            (THROTTLED, "50005\n"),
        ]);
        assert_eq!(model(pi.path()).unwrap(), "Raspberry Pi 4 Model B Rev 1.4");
        let vitals = Vitals::read(pi.path());
        assert_eq!((vitals.load, vitals.temperature), (Some(1.25), Some(61.3)));
        let power = vitals.power.unwrap();
        assert!(power.under_voltage && power.throttled);
        assert!(power.had_under_voltage && power.was_throttled);
    }

    #[test]
    fn without_the_firmwares_flags_the_voltage_alarm_tells() {
        let pi = machine(&[
            ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
            ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
        ]);
        let power = Vitals::read(pi.path()).power.unwrap();
        assert!(power.under_voltage && !power.throttled);
    }

    #[test]
    fn a_machine_that_is_no_pi_says_little() {
        let other = machine(&[("sys/class/dmi/id/product_name", "NUC\n")]);
        assert_eq!(model(other.path()).as_deref(), Some("NUC"));
        assert_eq!(Vitals::read(other.path()), Vitals::default());
    }
}
