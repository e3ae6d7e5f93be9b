//! Using volumes: mounting them for whoever asks, and unmounting them after the last one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Gate, Volume, enter};
use super::error::Error;
use super::name::{MountId, VolumeName};
use super::references::{Reference, Released};
use super::registry::{Caller, Registry, save_error};
use super::view::Condition;
use crate::mount::{self, Departed, Limits, Mounted};
use crate::sys::{blocking, process};

/// Podman waits 5 s for an answer; it gets one before.
const PODMAN_LIMIT: Duration = Duration::from_secs(4);

/// What was done when a file of references could not be written.
pub(super) const SAVE_REFERENCES: &str = "save who uses it in";

impl Registry {
    /// Mount a volume for `id`, or count one more use of it. Returns the mount point.
    ///
    /// # Errors
    /// Why it is not mounted; no reference is left then.
    pub async fn mount(&self, name: &str, id: &str, caller: &Caller) -> Result<Arc<str>, Error> {
        let id = MountId::new(id).map_err(Error::Id)?;
        let volume = self.lookup(name)?;
        let limits = self.limits(limit_for(&id, self.config.mount_timeout));
        let kind = volume.kind()?;
        let policy = kind.check_policy(self.config.policy);
        policy.map_err(|error| Error::Options { name: volume.name.clone(), error })?;
        let mut gate = enter(&volume, &limits).await?;
        let outcome = self.mount_entered(&volume, &mut gate, &id, caller, &limits).await;
        self.note_failure(&volume, &gate, "mount", caller, &outcome).await;
        outcome.map(|()| volume.target.clone())
    }

    async fn note_failure(
        &self,
        volume: &Volume,
        gate: &Gate,
        operation: &str,
        caller: &Caller,
        outcome: &Result<(), Error>,
    ) {
        if let Err(error) = outcome {
            log::error!(VOLUME = volume.name.as_str(), OPERATION = operation, REQUEST_ID = caller.request; "{error}");
            self.republish(volume, gate).await;
            volume.note_error(error);
        }
    }

    async fn mount_entered(
        &self,
        volume: &Volume,
        gate: &mut Gate,
        id: &MountId,
        caller: &Caller,
        limits: &Limits,
    ) -> Result<(), Error> {
        if !matches!(volume.status().condition, Condition::Mounted { .. }) {
            volume.publish(Condition::Mounting, &gate.references);
        }
        let started = Instant::now();
        let mounted = self.mounter.mount(volume.backend(), volume.name.as_str(), limits).await;
        let mounted = mounted.map_err(|error| volume.failed("mount", &error))?;
        gate.references.acquire(id, caller.engine);
        let saved = self.save_references(volume, gate).await;
        if saved.is_err() || caller.is_gone() {
            // Nobody will ever send the Unmount for this.
            gate.references.release(id, caller.engine);
            _ = self.save_references(volume, gate).await;
            if gate.references.is_empty() {
                let limits = self.limits(self.config.unmount_timeout);
                self.unmount_entered(volume, gate, &limits).await?;
            }
            saved?;
            return Err(Error::HungUp(volume.name.clone()));
        }
        self.publish_seen_now(volume, gate, Some(&mounted));
        log::info!(
            VOLUME = volume.name.as_str(), OPERATION = "mount", REQUEST_ID = caller.request;
            "mounted {} for {id} in {:.0?}; {} in all", mounted.fs_type, started.elapsed(), gate.references
        );
        self.wake.notify_one();
        Ok(())
    }

    /// Take back one use of a volume; the last one unmounts it. A use that is not known is none.
    ///
    /// # Errors
    /// Why it is still mounted. The use is taken back all the same, and unmounting is tried again later.
    pub async fn unmount(&self, name: &str, id: &str, caller: &Caller) -> Result<(), Error> {
        let id = MountId::new(id).map_err(Error::Id)?;
        let volume = self.lookup(name)?;
        // However long the request takes that is before this one: the engine has let go, and does not say so twice.
        let mut gate = volume.gate.lock().await;
        if gate.removed {
            return Err(Error::NotFound(volume.name.clone()));
        }
        let limits = self.limits(limit_for(&id, self.config.unmount_timeout));
        let outcome = self.release_entered(&volume, &mut gate, &id, caller, &limits).await;
        self.note_failure(&volume, &gate, "unmount", caller, &outcome).await;
        outcome
    }

    async fn release_entered(
        &self,
        volume: &Volume,
        gate: &mut Gate,
        id: &MountId,
        caller: &Caller,
        limits: &Limits,
    ) -> Result<(), Error> {
        match gate.references.release(id, caller.engine) {
            Released::Unknown => {
                log::debug!(VOLUME = volume.name.as_str(), REQUEST_ID = caller.request; "{id} does not use it");
                return Ok(());
            }
            Released::OrphansLeft => {
                let held = match self.current(volume, "unmount").await {
                    Ok(mounted) => self.holder(volume, mounted.as_ref()).await,
                    Err(error) => Err(error),
                };
                // What is not known to be unused is not taken away.
                if held.is_ok_and(|holder| holder.is_none()) {
                    log_dropped(&volume.name, &gate.references.drop_orphans(Some(id)));
                }
            }
            Released::Done => {}
        }
        if let Err(error) = self.save_references(volume, gate).await {
            // The engine has let go, whatever the disk says; at worst the reference is found orphaned one day.
            log::error!(VOLUME = volume.name.as_str(); "{error}");
        }
        if gate.references.is_empty() {
            self.unmount_entered(volume, gate, limits).await?;
            log::info!(
                VOLUME = volume.name.as_str(), OPERATION = "unmount", REQUEST_ID = caller.request;
                "unmounted after {id}, its last user"
            );
        } else {
            log::info!(
                VOLUME = volume.name.as_str(), OPERATION = "unmount", REQUEST_ID = caller.request;
                "released by {id}; {} left", gate.references
            );
            self.republish(volume, gate).await;
        }
        Ok(())
    }

    /// Mount a volume again that is in use and does not work, in place: running containers see the new filesystem.
    ///
    /// # Errors
    /// Why it could not be done, or, without `force`, that the volume is fine.
    pub async fn remount(&self, name: &str, force: bool, caller: &Caller) -> Result<(), Error> {
        let volume = self.lookup(name)?;
        volume.kind()?;
        let limits = self.limits(self.config.mount_timeout);
        let gate = enter(&volume, &limits).await?;
        let mounted = self.current(&volume, "remount").await?;
        if mounted.is_some() && !force {
            let alone = mounted.iter().map(|mounted| (volume.name.to_string(), mounted.clone())).collect();
            if self.mounter.probe(&alone).await.get(volume.name.as_str()) == Some(&mount::Liveness::Alive) {
                return Err(Error::Healthy(volume.name.clone()));
            }
        }
        if mounted.is_none() && gate.references.is_empty() && !force {
            let users = "nothing uses it, so there is nothing to mount again".to_owned();
            return Err(Error::Mount { name: volume.name.clone(), doing: "remount", error: users });
        }
        volume.publish(Condition::Mounting, &gate.references);
        let outcome = self.mounter.remount(volume.backend(), volume.name.as_str(), &limits).await;
        let outcome = outcome.map_err(|error| volume.failed("remount", &error));
        self.republish(&volume, &gate).await;
        self.wake.notify_one();
        match outcome {
            Ok(mounted) => {
                log::info!(
                    VOLUME = volume.name.as_str(), OPERATION = "remount", REQUEST_ID = caller.request;
                    "mounted {} again", mounted.fs_type
                );
                Ok(())
            }
            Err(error) => {
                log::error!(VOLUME = volume.name.as_str(), OPERATION = "remount", REQUEST_ID = caller.request; "{error}");
                volume.note_error(&error);
                Err(error)
            }
        }
    }

    /// Unmount a volume that nobody uses; with `force`, drop all references first, whoever has them.
    ///
    /// # Errors
    /// Who uses it, or why it is still mounted.
    pub async fn unmount_all(&self, name: &str, force: bool, caller: &Caller) -> Result<(), Error> {
        let volume = self.lookup(name)?;
        let limits = Limits { force, ..self.limits(self.config.unmount_timeout) };
        let mut gate = enter(&volume, &limits).await?;
        if !force && !gate.references.is_empty() {
            return Err(Error::InUse { name: volume.name.clone(), users: gate.references.to_string() });
        }
        let dropped = gate.references.clear();
        if !dropped.is_empty() {
            log::warn!(
                VOLUME = volume.name.as_str(), OPERATION = "unmount", REQUEST_ID = caller.request;
                "{} references dropped by force", dropped.len()
            );
        }
        self.save_references(&volume, &gate).await?;
        let outcome = self.unmount_entered(&volume, &mut gate, &limits).await;
        match &outcome {
            Ok(()) => {
                log::info!(
                    VOLUME = volume.name.as_str(), OPERATION = "unmount", REQUEST_ID = caller.request;
                    "unmounted by hand"
                );
            }
            Err(error) => {
                log::error!(VOLUME = volume.name.as_str(), OPERATION = "unmount", REQUEST_ID = caller.request; "{error}");
                volume.note_error(error);
            }
        }
        outcome
    }

    pub(super) async fn unmount_entered(
        &self,
        volume: &Volume,
        gate: &mut Gate,
        limits: &Limits,
    ) -> Result<(), Error> {
        volume.publish(Condition::Unmounting, &gate.references);
        let outcome = self.mounter.unmount(volume.backend(), volume.name.as_str(), limits).await;
        match &outcome {
            Ok(_) => self.publish_seen_now(volume, gate, None),
            Err(_) => self.republish(volume, gate).await,
        }
        let last = outcome.map_err(|error| volume.failed("unmount", &error))?;
        if let (Some(mounted), Ok(at), Ok(mut departed)) = (last, process::now(), self.departed.lock()) {
            departed.push(Departed { volume: volume.name.to_string(), mounted, at });
        }
        Ok(())
    }

    /// Publish what the mount table says now.
    pub(super) async fn republish(&self, volume: &Volume, gate: &Gate) {
        volume.changes.fetch_add(1, Ordering::Relaxed);
        volume.publish(volume.status().condition.clone(), &gate.references);
        let condition = match self.mounter.current(volume.name.as_str()).await {
            Ok(mounted) => volume.observed(mounted.as_ref()),
            Err(error) => Condition::Broken { reason: error.to_string(), mounted: true },
        };
        volume.publish(condition, &gate.references);
    }

    /// Publish what the mount table said a moment ago, to whoever holds the gate.
    fn publish_seen_now(&self, volume: &Volume, gate: &Gate, mounted: Option<&Mounted>) {
        volume.changes.fetch_add(1, Ordering::Relaxed);
        volume.publish(volume.status().condition.clone(), &gate.references);
        volume.publish(volume.observed(mounted), &gate.references);
    }

    pub(super) async fn current(
        &self,
        volume: &Volume,
        doing: &'static str,
    ) -> Result<Option<Mounted>, Error> {
        self.mounter.current(volume.name.as_str()).await.map_err(|error| volume.failed(doing, &error))
    }

    /// A process that has the volume's filesystem mounted elsewhere: in a container, most of all.
    pub(super) async fn holder(
        &self,
        volume: &Volume,
        mounted: Option<&Mounted>,
    ) -> Result<Option<u32>, Error> {
        let Some(mounted) = mounted else { return Ok(None) };
        let wanted = [(volume.name.to_string(), mounted.clone())].into();
        let held =
            self.mounter.held(&wanted).await.map_err(|error| volume.failed("look for its users", &error))?;
        Ok(held.into_values().next())
    }

    pub(super) async fn save_references(&self, volume: &Volume, gate: &Gate) -> Result<(), Error> {
        let (dir, boot) = (self.mounter.layout().references(), self.boot.clone());
        let (name, references) = (volume.name.clone(), gate.references.clone());
        let at = dir.join(name.as_str());
        let saved = blocking(move || references.save(&dir, &name, &boot)).await;
        saved.map_err(|error| save_error(&volume.name, SAVE_REFERENCES, &at, error))
    }
}

fn limit_for(id: &MountId, limit: Duration) -> Duration {
    if id.is_podman() { limit.min(PODMAN_LIMIT) } else { limit }
}

pub(super) fn log_dropped(name: &VolumeName, dropped: &[Reference]) {
    for reference in dropped {
        log::warn!(VOLUME = name.as_str(); "reference dropped, since no container holds the volume: {reference}");
    }
}
