//! Which network interfaces a node uses: those that are named, or all except the ones that are left out.

/// Names of interfaces; `*` stands for any characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceFilter {
    /// None: all that are not left out.
    pub only: Vec<String>,
    pub leave_out: Vec<String>,
}

impl InterfaceFilter {
    /// Whether the pool is to stay on this machine.
    #[must_use]
    pub fn is_loopback_only(&self) -> bool {
        self.only == ["lo"]
    }

    /// Whether an interface is used. One that is named exactly is, whatever is left out; loopback is used
    /// only if it is named.
    #[must_use]
    pub fn allows(&self, name: &str, is_loopback: bool) -> bool {
        if self.only.iter().any(|only| only == name) {
            return true;
        }
        let is_chosen = self.only.is_empty() || self.only.iter().any(|p| matches(p, name));
        is_chosen && !is_loopback && !self.leave_out.iter().any(|p| matches(p, name))
    }
}

/// Backtracks to the last `*` only, so the time is bounded by the product of the lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star, tried)) = retry {
            retry = Some((star, tried + 1));
            p = star + 1;
            n = tried + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(only: &[&str], leave_out: &[&str]) -> InterfaceFilter {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        InterfaceFilter {
            only: texts(only),
            leave_out: texts(leave_out),
        }
    }

    #[test]
    fn interfaces_of_containers_are_left_out_and_real_ones_are_used() {
        let all = filter(&[], &["docker*", "br-*", "wg*"]);
        assert!(all.allows("eth0", false) && all.allows("br0", false));
        assert!(!all.allows("docker0", false) && !all.allows("br-1a2b", false));
        assert!(!all.allows("lo", true));
    }

    #[test]
    fn what_is_named_is_used_and_nothing_else() {
        let some = filter(&["lo", "wlan*", "docker0"], &["docker*", "wlan1"]);
        assert!(some.allows("lo", true) && some.allows("wlan0", false));
        assert!(some.allows("docker0", false), "it is named exactly");
        assert!(!some.allows("wlan1", false) && !some.allows("eth0", false));
        assert!(
            !filter(&["*"], &[]).allows("lo", true),
            "no pattern means loopback"
        );
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(matches("*", "") && matches("e*0", "eth0") && matches("*h*", "eth0"));
        assert!(matches("a*b*c", "aXbYbZc") && !matches("a*b*c", "aXbYbZ"));
        assert!(!matches("eth", "eth0") && !matches("", "x") && matches("", ""));
    }
}
