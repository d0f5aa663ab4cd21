//! Blinks the machine's light, so that a person can tell which one it is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

/// The activity light of a Pi, by the names that kernels give it.
const LIGHTS: [&str; 3] = ["ACT", "led0", "default-on"];

const HALF_PERIOD: Duration = Duration::from_millis(150);

/// Blinks for a while, beside everything else.
pub(super) fn identify(seconds: u32) {
    spawn_local(async move {
        log::info!("this node is asked to show itself");
        let blinking = async {
            Light::find(Path::new("/"))?
                .blink(Duration::from_secs(seconds.into()))
                .await
        };
        if let Err(cause) = blinking.await {
            log::warn!("the light cannot blink: {cause}");
        }
    });
}

/// A light that we may use.
pub struct Light {
    dir: PathBuf,
    /// What the light shows when it is not ours.
    trigger: String,
}

impl Light {
    /// The machine's light; an error says why there is none to use.
    ///
    /// # Errors
    /// The machine has none, or it may not be set.
    pub fn find(root: &Path) -> io::Result<Self> {
        let leds = root.join("sys/class/leds");
        let dir = LIGHTS
            .iter()
            .map(|name| leds.join(name))
            .find(|dir| dir.is_dir());
        let dir =
            dir.ok_or_else(|| io::Error::other("this machine has no light that can be set"))?;
        // The trigger in use stands in brackets among all that there are.
        let all = std::fs::read_to_string(dir.join("trigger"))?;
        let trigger = all.split(['[', ']']).nth(1).unwrap_or("none").to_owned();
        Ok(Self { dir, trigger })
    }

    /// Blinks for a while, then gives the light back. Dropping the future gives it back too.
    ///
    /// # Errors
    /// The light may not be set.
    pub async fn blink(self, duration: Duration) -> io::Result<()> {
        std::fs::write(self.dir.join("trigger"), "none")?;
        let end = Instant::now() + duration;
        let brightness = self.dir.join("brightness");
        while Instant::now() < end {
            for level in ["1", "0"] {
                std::fs::write(&brightness, level)?;
                sleep(HALF_PERIOD).await;
            }
        }
        Ok(())
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        // A light that stays dark is no reason to fail.
        let _ = std::fs::write(self.dir.join("trigger"), &self.trigger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_light_blinks_and_goes_back_to_what_it_showed() {
        let root = tempfile::tempdir().unwrap();
        let led = root.path().join("sys/class/leds/ACT");
        std::fs::create_dir_all(&led).unwrap();
        std::fs::write(led.join("trigger"), "none rc-feedback [mmc0] timer\n").unwrap();
        let light = Light::find(root.path()).unwrap();
        light.blink(Duration::from_millis(400)).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(led.join("brightness")).unwrap(),
            "0"
        );
        assert_eq!(
            std::fs::read_to_string(led.join("trigger")).unwrap(),
            "mmc0"
        );
    }

    #[test]
    fn a_machine_without_a_light_says_so() {
        let root = tempfile::tempdir().unwrap();
        assert!(Light::find(root.path()).is_err());
    }
}
