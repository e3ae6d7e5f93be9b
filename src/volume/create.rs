//! Creating and removing volumes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::{Gate, Source, Volume, enter};
use super::error::Error;
use super::name::VolumeName;
use super::options::{Kind, Options, OptionsError};
use super::record::Record;
use super::references::References;
use super::registry::{Caller, Registry, save_error};
use super::store::Loaded;
use super::uses::{SAVE_REFERENCES, log_dropped};
use crate::mount::Limits;
use crate::sys::{blocking, durable, mount_point};

impl Registry {
    /// Make a volume. One that is there with the same options is as good as made: engines repeat themselves.
    ///
    /// # Errors
    /// What is wrong with the name, the options, this host, or the state directory.
    pub async fn create(&self, name: &str, options: Options, caller: &Caller) -> Result<(), Error> {
        let name = VolumeName::new(name)?;
        let outcome = self.create_named(&name, options).await;
        match &outcome {
            Ok(Created::Fresh) => {
                log::info!(VOLUME = name.as_str(), OPERATION = "create", REQUEST_ID = caller.request; "created");
            }
            Ok(Created::Before) => {}
            Err(error) => {
                log::error!(VOLUME = name.as_str(), OPERATION = "create", REQUEST_ID = caller.request; "{error}");
            }
        }
        outcome.map(|_| ())
    }

    async fn create_named(&self, name: &VolumeName, options: Options) -> Result<Created, Error> {
        let _name_lock = self.lock_name(name).await;
        if let Some(volume) = self.volumes.load().get(name) {
            volume.kind()?;
            let same = matches!(&volume.source, Source::Good { options: have, .. } if *have == options);
            return if same { Ok(Created::Before) } else { Err(Error::Exists(name.clone())) };
        }
        let bad = |error| Error::Options { name: name.clone(), error };
        let kind = Kind::parse(&options).map_err(bad)?;
        kind.check_policy(self.config.policy).map_err(bad)?;
        kind.check_paths().await.map_err(bad)?;
        let record = Record::new(name.clone(), options);
        let (store, policy) = (self.store.clone(), self.config.policy);
        let target = self.mounter.layout().target(name.as_str());
        let saved = blocking(move || {
            kind.check(policy).map_err(CreateError::Options)?;
            if mount_point::is_one(&target).unwrap_or(false) {
                return Err(CreateError::Stranger);
            }
            store.place(&record).map_err(CreateError::Save)?;
            Ok((record, kind))
        });
        let not_saved = |error| save_error(name, "save", &self.store.path(name), error);
        let (record, kind) = saved.await.map_err(|error| match error {
            CreateError::Options(error) => bad(error),
            CreateError::Save(error) => not_saved(error),
            // Whoever used the new volume would see what that shows, and write to it.
            CreateError::Stranger => {
                let target = self.mounter.layout().target(name.as_str()).display().to_string();
                Error::Stranger { name: name.clone(), target }
            }
        })?;
        if let Err(error) = self.store.sync().await {
            let (store, gone) = (self.store.clone(), name.clone());
            _ = blocking(move || store.unlink(&gone)).await;
            return Err(not_saved(error));
        }
        let volume = Arc::new(self.volume(Loaded::Volume(record, kind), References::default()));
        self.volumes.rcu(|volumes| volumes.update(name.clone(), volume.clone()));
        self.version.fetch_add(1, Ordering::Release);
        Ok(Created::Fresh)
    }

    /// Forget a volume that nobody uses.
    ///
    /// # Errors
    /// When it is in use, still mounted and busy, or the state directory does not let go of it.
    pub async fn remove(&self, name: &str, caller: &Caller) -> Result<(), Error> {
        let volume = self.lookup(name)?;
        let limits = self.limits(self.config.unmount_timeout);
        let mut gate = enter(&volume, &limits).await?;
        if let Err(error) = self.remove_entered(&volume, &mut gate, &limits).await {
            log::error!(VOLUME = volume.name.as_str(), OPERATION = "remove", REQUEST_ID = caller.request; "{error}");
            volume.note_error(&error);
            return Err(error);
        }
        log::info!(VOLUME = volume.name.as_str(), OPERATION = "remove", REQUEST_ID = caller.request; "removed");
        Ok(())
    }

    async fn remove_entered(&self, volume: &Volume, gate: &mut Gate, limits: &Limits) -> Result<(), Error> {
        let name = &volume.name;
        let mounted = self.current(volume, "remove").await?;
        let holder = self.holder(volume, mounted.as_ref()).await?;
        if holder.is_none() {
            // The engine says that no container has it, and no container holds it: what is left was lost in a crash.
            log_dropped(name, &gate.references.drop_unowned());
        }
        if !gate.references.is_empty() {
            return Err(Error::InUse { name: name.clone(), users: gate.references.to_string() });
        }
        if mounted.is_some() {
            if let Some(pid) = holder {
                let users = format!("process {pid}, in a container most likely, has its filesystem mounted");
                return Err(Error::InUse { name: name.clone(), users });
            }
            self.unmount_entered(volume, gate, limits).await?;
        }
        let _name_lock = self.lock_name(name).await;
        self.forget(volume, gate).await?;
        gate.removed = true;
        self.volumes.rcu(|volumes| volumes.without(name));
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Remove what is kept of a volume: what its helpers said, its references, and its record.
    async fn forget(&self, volume: &Volume, gate: &Gate) -> Result<(), Error> {
        let (store, name, boot) = (self.store.clone(), volume.name.clone(), self.boot.clone());
        let (logs, dir) = (self.mounter.layout().logs(name.as_str()), self.mounter.layout().references());
        let (references, unreadable) =
            (gate.references.clone(), volume.unreadable_record().map(Path::to_owned));
        let forgotten = blocking(move || {
            // A mount that failed leaves its words.
            logs.iter().for_each(|log| _ = durable::remove_if_there(log));
            let saved = references.save(&dir, &name, &boot);
            saved.map_err(|error| save_error(&name, SAVE_REFERENCES, &dir.join(name.as_str()), error))?;
            let Some(bad) = unreadable else {
                return store
                    .unlink(&name)
                    .map_err(|error| save_error(&name, "remove", &store.path(&name), error));
            };
            let kept = store.dismiss(&bad).map_err(|error| save_error(&name, "set aside", &bad, error))?;
            log::warn!(VOLUME = name.as_str(); "its record is kept as {}", kept.display());
            Ok(())
        });
        forgotten.await?;
        if let Err(error) = self.store.sync().await {
            // It is gone from here on; at worst it is there again after a power cut, and nothing is lost.
            log::error!(VOLUME = volume.name.as_str(); "its removal may not be on the disk yet: {error}");
        }
        Ok(())
    }
}

/// Whether a volume was made now, or was there as wished.
enum Created {
    Fresh,
    Before,
}

enum CreateError {
    Options(OptionsError),
    Save(std::io::Error),
    Stranger,
}
