//! Creating and removing volumes.

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
use crate::sys::{blocking, durable};
use std::sync::Arc;

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
        let record = Record::new(name.clone(), options);
        let (store, policy) = (self.store.clone(), self.config.policy);
        let saved = blocking(move || {
            kind.check(policy).map_err(CreateError::Options)?;
            store.place(&record).map_err(CreateError::Save)?;
            Ok((record, kind))
        });
        let not_saved = |error| save_error(name, "save", &self.store.path(name), error);
        let (record, kind) = saved.await.map_err(|error| match error {
            CreateError::Options(error) => bad(error),
            CreateError::Save(error) => not_saved(error),
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
        let _name_lock = self.lock_name(&volume.name).await;
        if let Err(error) = self.remove_entered(&volume, &mut gate, &limits).await {
            log::error!(VOLUME = volume.name.as_str(), OPERATION = "remove", REQUEST_ID = caller.request; "{error}");
            volume.note_error(&error);
            return Err(error);
        }
        gate.removed = true;
        self.volumes.rcu(|volumes| volumes.without(&volume.name));
        self.version.fetch_add(1, Ordering::Release);
        log::info!(VOLUME = volume.name.as_str(), OPERATION = "remove", REQUEST_ID = caller.request; "removed");
        Ok(())
    }

    async fn remove_entered(&self, volume: &Volume, gate: &mut Gate, limits: &Limits) -> Result<(), Error> {
        let name = &volume.name;
        let kind = match &volume.source {
            Source::Good { kind, .. } => kind,
            Source::Unreadable { path, .. } => {
                let (store, bad) = (self.store.clone(), path.clone());
                let dismissed = blocking(move || store.dismiss(&bad)).await;
                let kept = dismissed.map_err(|error| save_error(name, "set aside", path, error))?;
                log::warn!(VOLUME = name.as_str(); "its record is kept as {}", kept.display());
                return Ok(());
            }
        };
        let mounted = self.current(volume, "remove").await?;
        let held = self.is_held(volume, mounted.as_ref()).await?;
        if !held {
            // The engine says that no container has it, and no container holds it: what is left was lost in a crash or missed.
            let dropped = gate.references.drop_unowned();
            log_dropped(name, &dropped);
        }
        if !gate.references.is_empty() {
            return Err(Error::InUse { name: name.clone(), users: gate.references.to_string() });
        }
        if mounted.is_some() {
            if held {
                let users = "a container or another mount namespace still holds its filesystem".to_owned();
                return Err(Error::InUse { name: name.clone(), users });
            }
            self.unmount_entered(volume, kind, gate, limits).await?;
        }
        let (store, dir, boot) = (self.store.clone(), self.mounter.layout().references(), self.boot.clone());
        let (gone, references) = (name.clone(), gate.references.clone());
        // A mount that failed leaves its words.
        let logs = self.mounter.layout().logs(name.as_str());
        let unlinked = blocking(move || {
            logs.iter().for_each(|log| _ = durable::remove_if_there(log));
            let at = dir.join(gone.as_str());
            let saved = references.save(&dir, &gone, &boot);
            saved.map_err(|error| save_error(&gone, SAVE_REFERENCES, &at, error))?;
            store.unlink(&gone).map_err(|error| save_error(&gone, "remove", &store.path(&gone), error))
        });
        unlinked.await?;
        self.store.sync().await.map_err(|error| save_error(name, "remove", &self.store.path(name), error))
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
}
