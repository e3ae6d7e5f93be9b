//! Cleaning up what a daemon left that was killed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::helper::ATTEMPT_VARIABLE;
use super::{Error, Liveness, Mounter, PROBE, helper, taking_back};
use crate::sys::blocking;

impl Mounter {
    /// Clean up what a daemon left that was killed: mounts that were under way, staging mounts, empty directories.
    /// Returns the volumes whose mount was under way.
    ///
    /// # Errors
    /// When a directory or the mount table can't be read.
    pub async fn recover(&self) -> Result<Vec<String>, Error> {
        let attempts = self.layout.attempts();
        let read =
            |dir: PathBuf| blocking(move || list(&dir).map_err(|error| Error::io("read", &dir, error)));
        let under_way = read(attempts.clone()).await?;
        let mut tokens = Vec::new();
        for volume in &under_way {
            log::warn!(VOLUME = volume; "its mount was under way when the daemon before this one ended: taking it back");
            let path = attempts.join(volume);
            tokens.push(blocking(move || std::fs::read_to_string(path)).await.unwrap_or_default());
        }
        // All at once: requests wait, and the helpers may be many that hang.
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).filter(|token| !token.is_empty()).collect();
        if !tokens.is_empty() {
            helper::end_processes(ATTEMPT_VARIABLE, &tokens, Duration::from_millis(500)).await;
        }
        for volume in &under_way {
            self.detach_if_dead(volume).await?;
            self.end_attempt(volume).await;
        }
        for volume in read(self.layout.staging("")).await? {
            let staging = self.layout.staging(&volume);
            self.detach_all(&staging, &taking_back()).await?;
            self.remove_target(&staging).await;
        }
        let mounted = self.survey().await?;
        for volume in read(self.layout.base().to_owned()).await? {
            if volume != ".easyfuse" && !mounted.contains_key(&volume) {
                self.remove_target(&self.layout.target(&volume)).await;
            }
        }
        Ok(under_way)
    }

    /// Detach what nobody serves and nobody holds.
    async fn detach_if_dead(&self, volume: &str) -> Result<(), Error> {
        let Some(mounted) = self.top(volume).await? else { return Ok(()) };
        let target = self.layout.target(volume);
        let dead = matches!(self.prober.ask(&target, mounted.device, PROBE).await, Liveness::Dead(_));
        if dead && self.held(&HashMap::from([(volume.to_owned(), mounted)])).await?.is_empty() {
            self.detach_all(&target, &taking_back()).await?;
        }
        Ok(())
    }
}

/// The names in `dir`; those that are not UTF-8 are none of ours.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(io::Result::transpose).collect()
}
