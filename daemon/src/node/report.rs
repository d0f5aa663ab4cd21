//! How this node is, for its controller; and what the controller makes of the reports of all.

use std::collections::BTreeMap;
use std::path::Path;

use piparallel_core::join::message::Report;

use super::host::HostStatus;
use super::vitals::Vitals;

/// A look at the machine and its engines.
#[must_use]
pub fn report(root: &Path, host: &HostStatus) -> Report {
    let vitals = Vitals::read(root);
    Report {
        engines_running: host.running,
        engines_wanted: host.wanted,
        problem: host.problem.clone(),
        load: vitals.load,
        temperature: vitals.temperature,
        power: vitals.power,
        versions: host.versions.clone(),
    }
}

type Versions = BTreeMap<String, String>;

/// The version of each package that most nodes have; of as many, the higher text.
#[must_use]
pub fn common_versions<'a>(all: impl Iterator<Item = &'a Versions>) -> Versions {
    let mut counts: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
    for versions in all {
        for (package, version) in versions {
            *counts
                .entry(package)
                .or_default()
                .entry(version)
                .or_default() += 1;
        }
    }
    let most = |versions: BTreeMap<&str, u32>| {
        let most = versions
            .into_iter()
            .max_by_key(|(version, count)| (*count, *version));
        most.map(|(version, _)| version.to_owned())
    };
    let common = counts.into_iter();
    common
        .filter_map(|(package, versions)| Some((package.to_owned(), most(versions)?)))
        .collect()
}

/// What a node has in another version than the pool.
#[must_use]
pub fn differences(versions: &Versions, pool: &Versions) -> Vec<String> {
    let differs = |(package, version): (&String, &String)| {
        let common = pool.get(package).filter(|common| *common != version)?;
        Some(format!("{package} {version}, pool {common}"))
    };
    versions.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(all: &[(&str, &str)]) -> Versions {
        let owned = all.iter().map(|(p, v)| ((*p).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    #[test]
    fn what_most_nodes_have_is_the_pools() {
        let all = [
            versions(&[("python", "3.11.2"), ("numpy", "2.1")]),
            versions(&[("python", "3.11.2")]),
            versions(&[("python", "3.9.1")]),
        ];
        let pool = common_versions(all.iter());
        assert_eq!(pool, versions(&[("python", "3.11.2"), ("numpy", "2.1")]));
        assert_eq!(differences(&all[2], &pool), ["python 3.9.1, pool 3.11.2"]);
        assert!(differences(&all[0], &pool).is_empty());
    }
}
