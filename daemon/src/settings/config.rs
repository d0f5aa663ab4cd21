//! Assignments of options, merged by rank, each with the place it came from.

use std::collections::BTreeMap;

use super::traits;
use super::value::Value;

/// Where assignments come from; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    File,
    Environment,
    CommandLine,
}

/// One assignment.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    pub value: Value,
    pub rank: Rank,
    /// For messages: `--ping`, `IPP_CLUSTER_ID`, `/etc/ipython/ipcontroller_config.json`.
    pub origin: String,
}

/// All assignments. Keys are class and trait, by their canonical names.
#[derive(Clone, Debug, Default)]
pub struct Config {
    entries: BTreeMap<(String, String), Assigned>,
    /// Things to tell the user once logging works.
    pub warnings: Vec<String>,
}

impl Config {
    /// Notes an assignment, over any of the same or a lower rank. Names that no controller knows are
    /// warned about and dropped; classes of other programs are dropped silently.
    pub fn assign(&mut self, class: &str, name: &str, value: Value, rank: Rank, origin: &str) {
        let class = traits::canonical_class(class);
        if !traits::is_class(class) {
            return;
        }
        let Some(known) = traits::find(class, name) else {
            let names = traits::TRAITS.iter().filter(|t| t.class == class);
            let hint = traits::nearest(name, names.map(|t| t.name))
                .map_or(String::new(), |n| format!(", did you mean {n}?"));
            self.warnings.push(format!(
                "option {class}.{name} ({origin}) is not known and has no effect{hint}"
            ));
            return;
        };
        if let traits::Effect::Nothing(reason) = known.effect {
            self.warnings.push(format!(
                "option {class}.{name} ({origin}) has no effect: {reason}"
            ));
        }
        let key = (class.to_owned(), name.to_owned());
        if self.entries.get(&key).is_some_and(|old| old.rank > rank) {
            return;
        }
        let origin = origin.to_owned();
        self.entries.insert(
            key,
            Assigned {
                value,
                rank,
                origin,
            },
        );
    }

    /// Takes over the assignments of a file. Its name says where they come from.
    ///
    /// # Errors
    /// The text is not an object of objects, with the reason.
    pub fn assign_json(&mut self, text: &str, origin: &str) -> Result<(), String> {
        let json: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let classes = json.as_object().ok_or("it is not a JSON object")?;
        for (class, traits) in classes {
            if class == "version" {
                continue;
            }
            let Some(traits) = traits.as_object() else {
                return Err(format!("{class} is not an object of options"));
            };
            for (name, json) in traits {
                if !traits::is_class(traits::canonical_class(class)) {
                    continue;
                }
                let value = Value::try_from(json).map_err(|e| format!("{class}.{name} {e}"))?;
                self.assign(class, name, value, Rank::File, origin);
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn assigned(&self, class: &str, name: &str) -> Option<&Assigned> {
        self.entries.get(&(class.to_owned(), name.to_owned()))
    }

    /// Reads one option.
    ///
    /// # Errors
    /// The value is not what the option expects; the message names value and origin.
    pub fn read<T>(
        &self,
        class: &str,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> anyhow::Result<Option<T>> {
        let Some(assigned) = self.assigned(class, name) else {
            return Ok(None);
        };
        read(&assigned.value).map(Some).map_err(|expected| {
            let value = if is_secret(class, name) {
                "the value".to_owned()
            } else {
                assigned.value.to_string()
            };
            anyhow::anyhow!(
                "{class}.{name} {expected}, not {value} ({})",
                assigned.origin
            )
        })
    }

    /// All assignments in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &Assigned)> {
        self.entries
            .iter()
            .map(|((class, name), assigned)| (class.as_str(), name.as_str(), assigned))
    }
}

/// Whether an option's value must not be printed.
#[must_use]
pub fn is_secret(class: &str, name: &str) -> bool {
    matches!(
        (class, name),
        ("Session", "key") | (_, "curve_secretkey" | "engine_curve_secretkey")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_rank_wins_whatever_the_order() {
        let mut config = Config::default();
        let ping = |c: &Config| {
            c.read("HeartMonitor", "period", |v| v.as_int(1, 9999))
                .unwrap()
        };
        config.assign(
            "HeartMonitor",
            "period",
            Value::untyped("1"),
            Rank::CommandLine,
            "--ping",
        );
        config.assign(
            "HeartMonitor",
            "period",
            Value::Int(2),
            Rank::File,
            "a.json",
        );
        assert_eq!(ping(&config), Some(1));
        config.assign(
            "HeartMonitor",
            "period",
            Value::untyped("3"),
            Rank::CommandLine,
            "--ping",
        );
        assert_eq!(ping(&config), Some(3), "the last of the same rank");
    }

    #[test]
    fn old_names_of_classes_mean_the_controller() {
        let mut config = Config::default();
        config
            .assign_json(
                r#"{"HubFactory":{"ip":"*"},"Application":{"log_level":10}}"#,
                "x.json",
            )
            .unwrap();
        assert!(config.assigned("IPController", "ip").is_some());
        assert!(config.assigned("IPController", "log_level").is_some());
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn unknown_names_are_warned_about_and_other_programs_left_alone() {
        let mut config = Config::default();
        let json =
            r#"{"version":1,"IPController":{"locatoin":"a"},"IPEngine":{"timeout":{"x":1}}}"#;
        config.assign_json(json, "x.json").unwrap();
        let [warning] = config.warnings.as_slice() else {
            panic!("{:?}", config.warnings)
        };
        assert!(warning.contains("did you mean location?"), "{warning}");
    }

    #[test]
    fn an_error_names_value_and_origin_but_no_secret() {
        let mut config = Config::default();
        config.assign(
            "HeartMonitor",
            "period",
            Value::untyped("abc"),
            Rank::CommandLine,
            "--ping",
        );
        config.assign("Session", "key", Value::Int(42), Rank::File, "x.json");
        let error = config
            .read("HeartMonitor", "period", |v| v.as_int(1, 9))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "HeartMonitor.period expects a whole number from 1 to 9, not 'abc' (--ping)"
        );
        let error = config.read("Session", "key", Value::as_text).unwrap_err();
        assert!(!error.to_string().contains("42"), "{error}");
    }

    #[test]
    fn what_is_no_object_of_objects_is_refused() {
        for text in ["", "[]", "{\"IPController\": 3}", "{"] {
            assert!(Config::default().assign_json(text, "x").is_err(), "{text}");
        }
    }
}
