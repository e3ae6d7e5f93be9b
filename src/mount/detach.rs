//! Unmounting, without losing what somebody still uses.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::Umount;
use super::helper::{MOUNTPOINT_VARIABLE, Run};
use super::{
    Backend, Departed, Error, Limits, Liveness, Mounted, Mounter, PROBE, helper, new_token, read_table,
    target, top_of,
};
use crate::sys::mountinfo::stack;
use crate::sys::{blocking, durable, namespaces, process};

/// How long a filesystem has to go whose connection was ended.
const AFTER_GIVING_UP: Duration = Duration::from_secs(3);
/// How long one try to unmount may take.
const UNMOUNT_TRY: Duration = Duration::from_secs(5);

impl Mounter {
    /// Unmount the volume, whatever is stacked at its mount point, and remove the directory.
    ///
    /// A busy filesystem is tried again until the deadline and never forced. One that is dead is detached. One that does not
    /// answer for half of the time, and of which nobody has anything open, is given up: its connection is aborted.
    ///
    /// Returns what was unmounted last.
    ///
    /// # Errors
    /// What is still mounted, and why.
    pub async fn unmount(
        &self,
        backend: &dyn Backend,
        volume: &str,
        limits: &Limits,
    ) -> Result<Option<Mounted>, Error> {
        let target = self.layout.target(volume);
        let started = Instant::now();
        let patience = limits.deadline.saturating_duration_since(started) / 2;
        let (mut deadline, mut given_up) = (limits.deadline, false);
        let mut pause = Duration::from_millis(50);
        let mut backend = backend;
        let mut last = None;
        let mut found = self.top_or_tidy(volume).await?;
        while let Some(top) = found {
            let outcome = self.try_unmount(backend, volume, &target, limits).await;
            found = self.top_or_tidy(volume).await?;
            if found.as_ref().is_none_or(|now| now.id != top.id) {
                last = Some(top);
                continue;
            }
            let limit = PROBE.min(patience.max(Duration::from_millis(500)));
            match self.prober.ask(&target, top.device, limit).await {
                Liveness::Dead(_) => self.detach_one(&target, limits).await?,
                Liveness::Unresponsive => {
                    if !given_up && started.elapsed() >= patience {
                        given_up = self.give_up(volume, &top, limits.force).await?;
                        if given_up {
                            deadline = deadline.max(Instant::now() + AFTER_GIVING_UP);
                        }
                    }
                    if Instant::now() + pause >= deadline || limits.cancel.is_cancelled() {
                        let helper = self.helpers().await.get(volume).copied();
                        return Err(Error::Unresponsive { target, helper, limit: started.elapsed() });
                    }
                    // A filesystem that is known to hang is not asked, so that this answer may have come at once.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Liveness::Alive => {
                    if Instant::now() + pause >= limits.deadline || limits.cancel.is_cancelled() {
                        let words = outcome.err().map(|error| error.to_string()).unwrap_or_default();
                        return Err(Error::Busy { target, words });
                    }
                    // A command of the user's own that does not do it: umount(8) may.
                    backend = &Umount;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
            found = self.top_or_tidy(volume).await?;
        }
        Ok(last)
    }

    /// Look after the helpers of filesystems that were unmounted. One that works on may be writing back what it has cached, and is
    /// left alone. One that was stopped never will, and is killed, unless a container still has its filesystem. Those whose
    /// helpers have ended are taken out of `departed`.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub async fn see_off(&self, departed: &mut Vec<Departed>) -> Result<(), Error> {
        let processes = blocking(|| process::with_variable(MOUNTPOINT_VARIABLE)).await;
        let processes =
            processes.map_err(|error| Error::io("look for helpers in", Path::new("/proc"), error))?;
        let mut left = Vec::new();
        for gone in departed.iter() {
            let target = self.layout.target(&gone.volume);
            let serves =
                |process: &&process::Found| process.serves_fuse && Path::new(&process.value) == target;
            let mut own: Vec<_> =
                processes.iter().filter(serves).filter(|process| process.started <= gone.at).collect();
            if own.is_empty() {
                continue;
            }
            // The volume may have been mounted more than once: helpers are told apart by when they were started.
            let earlier = departed.iter().filter(|other| other.volume == gone.volume && other.at < gone.at);
            let earliest = earlier.map(|other| other.at).max().unwrap_or(0);
            own.retain(|process| earliest < process.started);
            if own.is_empty() {
                continue;
            }
            let wanted = HashMap::from([(gone.volume.clone(), gone.mounted.clone())]);
            let held = !self.held(&wanted).await?.is_empty();
            for helper in own.iter().filter(|helper| helper.stopped && !held) {
                log::warn!(
                    VOLUME = gone.volume.as_str();
                    "its helper, process {}, was stopped and serves nothing: killed", helper.pid
                );
                helper::kill_now(helper.pid);
            }
            left.push(gone.clone());
        }
        *departed = left;
        Ok(())
    }

    /// What is mounted for a volume; nothing: its bare directory and its logs are removed.
    async fn top_or_tidy(&self, volume: &str) -> Result<Option<Mounted>, Error> {
        let (base, target) = (self.layout.base().to_owned(), self.layout.target(volume));
        let logs = self.layout.logs(volume);
        blocking(move || {
            let found = top_of(&read_table(&base)?, &target)?;
            if found.is_none() {
                remove_target(&target);
                logs.iter().for_each(|log| _ = durable::remove_if_there(log));
            }
            Ok(found)
        })
        .await
    }

    async fn try_unmount(
        &self,
        backend: &dyn Backend,
        volume: &str,
        target: &Path,
        limits: &Limits,
    ) -> Result<(), Error> {
        let token = new_token();
        let log = self.layout.unmount_log(volume);
        let deadline = limits.deadline.min(Instant::now() + UNMOUNT_TRY).max(Instant::now() + PROBE / 8);
        let run =
            Run { volume, target, log: &log, token: &token, deadline, cancel: &limits.cancel, stays: false };
        backend.unmount(&run, target).await
    }

    /// Abort the connection of a filesystem that does not answer, unless somebody may lose data by it: it is mounted elsewhere,
    /// or a process has a file of it open. Its helper ends by that, or is killed. Returns whether it was done.
    async fn give_up(&self, volume: &str, mounted: &Mounted, force: bool) -> Result<bool, Error> {
        let target = self.layout.target(volume);
        let users = blocking({
            let target = target.clone();
            move || namespaces::users_of(&target)
        });
        let users = users
            .await
            .map_err(|error| Error::io("look for users of mounts in", Path::new("/proc"), error))?;
        let held = !self.held(&HashMap::from([(volume.to_owned(), mounted.clone())])).await?.is_empty();
        if (held || !users.is_empty()) && !force {
            return Ok(false);
        }
        log::warn!(
            VOLUME = volume, OPERATION = "unmount";
            "its filesystem does not answer: ending its connection and its helper"
        );
        let abort = format!("/sys/fs/fuse/connections/{}/abort", mounted.device.minor);
        let aborted = blocking(move || std::fs::write(abort, "1")).await;
        if let Err(error) = aborted {
            log::debug!(VOLUME = volume; "no abort through /sys/fs/fuse/connections ({error}): its helper is killed");
        }
        let target = target.to_string_lossy().into_owned();
        helper::end_processes(MOUNTPOINT_VARIABLE, &[&target], Duration::from_millis(500)).await;
        Ok(true)
    }

    /// Detach all mounts at `place`, without a question.
    pub(super) async fn detach_all(&self, place: &Path, limits: &Limits) -> Result<(), Error> {
        while !stack(&self.table().await?, place).is_empty() {
            self.detach_one(place, limits).await?;
        }
        Ok(())
    }

    /// Detach the topmost mount at `place`. In a child process, since the last one to let go of a filesystem may have to wait
    /// for its helper.
    async fn detach_one(&self, place: &Path, limits: &Limits) -> Result<(), Error> {
        let words =
            vec!["umount".to_owned(), "-c".to_owned(), "-l".to_owned(), place.to_string_lossy().into_owned()];
        let (log, token) = (self.layout.unmount_log(".detach"), new_token());
        let deadline = limits.deadline.max(Instant::now() + Duration::from_secs(2));
        let cancel = CancellationToken::new();
        let before = stack(&self.table().await?, place).len();
        let run = Run {
            volume: "",
            target: place,
            log: &log,
            token: &token,
            deadline,
            cancel: &cancel,
            stays: false,
        };
        let outcome = run.run(&words).await;
        if stack(&self.table().await?, place).len() < before { Ok(()) } else { outcome }
    }

    /// Remove the bare directory; one that can't be removed is worth a warning, no more.
    pub(super) async fn remove_target(&self, place: &Path) {
        let place = place.to_owned();
        blocking(move || remove_target(&place)).await;
    }
}

fn remove_target(place: &Path) {
    if let Err(error) = target::remove(place) {
        log::warn!("could not remove the mount point {}: {error}", place.display());
    }
}
