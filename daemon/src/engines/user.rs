//! The user that runs what clients send, and what such a process is given.

use std::ffi::CString;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use tokio::process::Command;

/// An account other than ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineUser {
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    /// With the supplementary ones: those of a Pi's pins, camera and so on.
    pub groups: Vec<Gid>,
    pub home: PathBuf,
}

/// What is passed on to a process of another user: nothing that only concerns us.
const PASSED_ON: [&str; 4] = ["LANG", "LC_ALL", "PATH", "TZ"];

impl EngineUser {
    /// Looks an account up.
    ///
    /// # Errors
    /// There is none of that name, it is root's, or this process may not become another user.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        let user = User::from_name(name).with_context(|| format!("cannot look up user {name}"))?;
        let Some(user) = user else {
            bail!("there is no user {name} to run engines (create it: useradd --system {name})");
        };
        if user.uid.is_root() {
            bail!("engines do not run as root: what clients send could read every key");
        }
        if !geteuid().is_root() && geteuid() != user.uid {
            bail!("only root can run engines as {name}");
        }
        let text = CString::new(name).context("a user's name has no zero byte")?;
        let groups = getgrouplist(&text, user.gid).context("cannot look up groups")?;
        Ok(Self {
            name: name.to_owned(),
            uid: user.uid,
            gid: user.gid,
            groups,
            home: user.dir,
        })
    }

    /// Replaces the environment.
    pub(super) fn set_environment(&self, command: &mut Command) {
        command.env_clear();
        let passed = PASSED_ON.into_iter();
        command.envs(passed.filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("HOME", &self.home);
        command.env("USER", &self.name).env("LOGNAME", &self.name);
    }

    /// In a new process, before it runs another program: from here on there is no way back.
    pub(super) fn become_it(&self) -> std::io::Result<()> {
        nix::unistd::setgroups(&self.groups)?;
        nix::unistd::setgid(self.gid)?;
        nix::unistd::setuid(self.uid)?;
        nix::sys::prctl::set_no_new_privs()?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_strangers_run_no_engines() {
        let refusal = |name| EngineUser::find(name).unwrap_err().to_string();
        assert!(refusal("root").contains("root"));
        assert!(refusal("nobody-of-that-name").contains("useradd"));
    }
}
