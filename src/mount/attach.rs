//! Mounting: fresh, or in place of what is dead.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::helper::{ATTEMPT_VARIABLE, Run};
use super::{
    Backend, Error, Limits, Liveness, Mounted, Mounter, PROBE, helper, new_token, read_table, taking_back,
    target, top_of,
};
use crate::sys::{blocking, durable};

/// How long a program that is done may leave its filesystem to appear: some go to the background too early.
const APPEARANCE: Duration = Duration::from_secs(1);

impl Mounter {
    /// Make sure that the volume is mounted and alive.
    ///
    /// A live mount is taken as it is. A dead one is replaced: in place, so that containers which have it see the new one,
    /// or after it was detached, when nobody has it.
    ///
    /// # Errors
    /// The reason; nothing is left behind then.
    pub async fn mount(
        &self,
        backend: &dyn Backend,
        volume: &str,
        limits: &Limits,
    ) -> Result<Mounted, Error> {
        let (target, token) = (self.layout.target(volume), new_token());
        let Some(mounted) = self.begin_unless_mounted(volume, &token).await? else {
            let outcome = self.run_attempt(backend, volume, &target, &token, limits).await;
            if outcome.is_err() {
                self.remove_target(&target).await;
            }
            return outcome;
        };
        let limit = PROBE.min(limits.deadline.saturating_duration_since(Instant::now()) / 2);
        match self.prober.ask(&target, mounted.device, limit).await {
            Liveness::Alive => Ok(mounted),
            Liveness::Dead(errno) => {
                log::warn!(VOLUME = volume, OPERATION = "mount"; "its filesystem is dead ({errno}): mounting it again");
                self.replace(backend, volume, &mounted, limits).await
            }
            Liveness::Unresponsive => {
                Err(Error::Unresponsive { target, helper: self.helpers().await.get(volume).copied(), limit })
            }
        }
    }

    /// Mount the volume again over what is there now, dead or alive.
    ///
    /// # Errors
    /// The reason; what was there is there still.
    pub async fn remount(
        &self,
        backend: &dyn Backend,
        volume: &str,
        limits: &Limits,
    ) -> Result<Mounted, Error> {
        match self.top(volume).await? {
            Some(mounted) => self.replace(backend, volume, &mounted, limits).await,
            None => self.mount_fresh(backend, volume, limits).await,
        }
    }

    async fn replace(
        &self,
        backend: &dyn Backend,
        volume: &str,
        old: &Mounted,
        limits: &Limits,
    ) -> Result<Mounted, Error> {
        let wanted = HashMap::from([(volume.to_owned(), old.clone())]);
        if self.held(&wanted).await?.is_empty() {
            self.detach_all(&self.layout.target(volume), limits).await?;
            return self.mount_fresh(backend, volume, limits).await;
        }
        // What is mounted over the old filesystem appears in the containers too, but helpers refuse a dead directory: so
        // the helper mounts elsewhere, and a bind mount brings it over.
        let (staging, target) = (self.layout.staging(volume), self.layout.target(volume));
        self.detach_all(&staging, limits).await?;
        let fresh = self.attempt(backend, volume, &staging, limits).await?;
        let bound = self.bind(&staging, &target, volume, limits).await;
        let detached = self.detach_all(&staging, limits).await;
        self.remove_target(&staging).await;
        bound?;
        detached?;
        match self.top(volume).await? {
            Some(top) if top.device == fresh.device => Ok(top),
            _ => Err(Error::NothingMounted {
                words: "the new filesystem could not be put in place".to_owned(),
            }),
        }
    }

    async fn mount_fresh(
        &self,
        backend: &dyn Backend,
        volume: &str,
        limits: &Limits,
    ) -> Result<Mounted, Error> {
        let target = self.layout.target(volume);
        let outcome = self.attempt(backend, volume, &target, limits).await;
        if outcome.is_err() {
            self.remove_target(&target).await;
        }
        outcome
    }

    /// Run the backend on the bare directory `place`, and take back all of it if no FUSE filesystem is there afterwards.
    async fn attempt(
        &self,
        backend: &dyn Backend,
        volume: &str,
        place: &Path,
        limits: &Limits,
    ) -> Result<Mounted, Error> {
        let token = new_token();
        let (attempts, name, bare, noted) =
            (self.layout.attempts(), volume.to_owned(), place.to_owned(), token.clone());
        blocking(move || begin_attempt(&attempts, &name, &bare, &noted)).await?;
        self.run_attempt(backend, volume, place, &token, limits).await
    }

    /// The rest of [`Self::attempt`], once its beginning was noted under `token`.
    async fn run_attempt(
        &self,
        backend: &dyn Backend,
        volume: &str,
        place: &Path,
        token: &str,
        limits: &Limits,
    ) -> Result<Mounted, Error> {
        let (target, log) = (self.layout.target(volume), self.layout.log(volume));
        let run = Run {
            volume,
            target: &target,
            log: &log,
            token,
            deadline: limits.deadline,
            cancel: &limits.cancel,
            stays: true,
        };
        let outcome = backend.mount(&run, place).await;
        let outcome = match self.wait_for_filesystem(volume, place, outcome.is_ok()).await {
            Ok(Some(mounted)) => {
                if let Err(error) = outcome {
                    log::warn!(VOLUME = volume, OPERATION = "mount"; "mounted, although its command failed: {error}");
                }
                Ok(mounted)
            }
            Ok(None) => match outcome {
                Ok(()) => Err(Error::NothingMounted { words: helper::last_words(&log).await }),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            helper::end_processes(ATTEMPT_VARIABLE, &[token], Duration::from_millis(500)).await;
            // The limits of the attempt are used up; taking it back has its own.
            self.detach_all(place, &taking_back()).await?;
            self.end_attempt(volume).await;
        }
        outcome
    }

    /// Begin an attempt at the volume's mount point, if nothing is mounted there; else what is.
    async fn begin_unless_mounted(&self, volume: &str, token: &str) -> Result<Option<Mounted>, Error> {
        let (base, attempts, target) =
            (self.layout.base().to_owned(), self.layout.attempts(), self.layout.target(volume));
        let (volume, token) = (volume.to_owned(), token.to_owned());
        blocking(move || match top_of(&read_table(&base)?, &target)? {
            Some(mounted) => Ok(Some(mounted)),
            None => begin_attempt(&attempts, &volume, &target, &token).map(|()| None),
        })
        .await
    }

    pub(super) async fn end_attempt(&self, volume: &str) {
        let (attempts, volume) = (self.layout.attempts(), volume.to_owned());
        blocking(move || end_attempt(&attempts, &volume)).await;
    }

    /// The FUSE filesystem that is topmost at `place`; where a program said that it mounted one, it has a moment to appear.
    /// Ends the attempt once it is there.
    async fn wait_for_filesystem(
        &self,
        volume: &str,
        place: &Path,
        promised: bool,
    ) -> Result<Option<Mounted>, Error> {
        let deadline = Instant::now() + APPEARANCE;
        loop {
            let (base, attempts, place, volume) =
                (self.layout.base().to_owned(), self.layout.attempts(), place.to_owned(), volume.to_owned());
            let found = blocking(move || {
                let found = top_of(&read_table(&base)?, &place)?;
                if found.is_some() {
                    end_attempt(&attempts, &volume);
                }
                Ok::<_, Error>(found)
            });
            match found.await? {
                None if promised && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                found => return Ok(found),
            }
        }
    }

    async fn bind(&self, from: &Path, to: &Path, volume: &str, limits: &Limits) -> Result<(), Error> {
        let words = ["mount", "--no-canonicalize", "--bind"].map(str::to_owned).into_iter();
        let words: Vec<String> =
            words.chain([from, to].map(|path| path.to_string_lossy().into_owned())).collect();
        let (log, token) = (self.layout.unmount_log(volume), new_token());
        let run = Run {
            volume,
            target: to,
            log: &log,
            token: &token,
            deadline: limits.deadline,
            cancel: &limits.cancel,
            stays: false,
        };
        run.run(&words).await
    }
}

/// Note that a mount is under way, and make its bare directory; neither is left when one fails.
fn begin_attempt(attempts: &Path, volume: &str, place: &Path, token: &str) -> Result<(), Error> {
    durable::replace_volatile(attempts, volume, token.as_bytes())
        .map_err(|error| Error::io("note an attempt in", attempts, error))?;
    target::prepare(place).map_err(|error| {
        _ = target::remove(place);
        end_attempt(attempts, volume);
        Error::io("make the mount point", place, error)
    })
}

fn end_attempt(attempts: &Path, volume: &str) {
    if let Err(error) = durable::remove_if_there(&attempts.join(volume)) {
        log::warn!(VOLUME = volume; "could not remove the note of an attempt: {error}");
    }
}
