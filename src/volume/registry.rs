//! All volumes, and what can be done with them.
//!
//! Each volume has a lock of its own, so that one whose helper hangs holds up nobody else. [`Registry::get`] and
//! [`Registry::list`] read what was published last, and wait for nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::Volume;
use super::error::Error;
use super::legacy;
use super::name::VolumeName;
use super::options::Policy;
use super::references::{Engine, References};
use super::store::{Loaded, Store};
use super::view::View;
use crate::mount::{Departed, Layout, Limits, Mounter};
use crate::sys::{blocking, process};

/// Creations and removals of names that fall on different locks do not wait for each other.
const NAME_LOCKS: usize = 512;
/// Where volumes are kept, and how patient the registry is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The state directory.
    pub state: PathBuf,
    /// A `mntdb.json` of the Python easyfuse, to be imported once.
    pub import: Option<PathBuf>,
    /// The directory of the mount points.
    pub mount_dir: PathBuf,
    /// How long a mount may take.
    pub mount_timeout: Duration,
    /// How long an unmount may take.
    pub unmount_timeout: Duration,
    /// How long references of an engine that is gone are kept, when no container holds the volume.
    pub grace: Duration,
    /// What volumes may ask for.
    pub policy: Policy,
}

/// Who sent a request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The process at the other end of the socket.
    pub engine: Option<Engine>,
    /// The request's number, for the log.
    pub request: u64,
    gone: Arc<AtomicBool>,
}

impl Caller {
    /// Request number `request` of `engine`.
    #[must_use]
    pub fn new(engine: Option<Engine>, request: u64) -> Self {
        Self { engine, request, gone: Arc::default() }
    }

    /// Note that nobody waits for the answer any more.
    pub fn hang_up(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::hang_up`] was called.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

type Volumes = OrdMap<VolumeName, Arc<Volume>>;

/// All volumes.
#[derive(Debug)]
pub struct Registry {
    pub(super) config: Config,
    pub(super) store: Arc<Store>,
    pub(super) mounter: Mounter,
    pub(super) boot: Arc<str>,
    /// When this was opened, if another daemon had it before in this boot.
    after_restart: Option<Instant>,
    pub(super) volumes: ArcSwap<Volumes>,
    pub(super) version: Arc<AtomicU64>,
    names: Vec<Mutex<()>>,
    pub(super) cancel: CancellationToken,
    /// What was unmounted, until its helper has ended.
    pub(super) departed: std::sync::Mutex<Vec<Departed>>,
    /// Told when something was mounted, so that its helper is looked up soon.
    pub(super) wake: Notify,
}

impl Registry {
    /// Take possession of the state directory and the mount directory. [`Registry::load`] has to follow.
    ///
    /// # Errors
    /// When another daemon has one of them, or they can't be made.
    pub fn open(config: Config, cancel: CancellationToken) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| OpenError { path, error }
        };
        let store = Store::open(&config.state).map_err(at(&config.state))?;
        if let Some(database) = &config.import {
            legacy::check(database, &config.state).map_err(at(database))?;
        }
        let layout = Layout::prepare(&config.mount_dir).map_err(at(&config.mount_dir))?;
        let boot = process::boot_id().map_err(at(Path::new("/proc/sys/kernel/random/boot_id")))?;
        let restarted = layout.note_start(&boot).map_err(at(&config.mount_dir))?;
        Ok(Self {
            after_restart: restarted.then(Instant::now),
            config,
            store: Arc::new(store),
            mounter: Mounter::new(layout),
            boot: boot.into(),
            volumes: ArcSwap::default(),
            version: Arc::default(),
            names: std::iter::repeat_with(Mutex::default).take(NAME_LOCKS).collect(),
            cancel,
            departed: std::sync::Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// The directory of the mount points, as the kernel names it.
    #[must_use]
    pub fn mount_dir(&self) -> &Path {
        self.mounter.layout().base()
    }

    /// Whether a request may have been cut off by the end of the daemon before this one, so that its engine repeats it now:
    /// dockerd does so for 30 s at most.
    #[must_use]
    pub fn may_have_cut_off(&self) -> bool {
        self.after_restart.is_some_and(|start| start.elapsed() < Duration::from_secs(30))
    }

    /// How it was set up.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Read the records, clean up after a daemon that was killed, and look at what is mounted.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn load(&self) -> Result<(), String> {
        let (store, config, boot) = (self.store.clone(), self.config.clone(), self.boot.clone());
        let references = self.mounter.layout().references();
        let records = blocking(move || {
            if let Some(database) = &config.import {
                legacy::import(database, &config.state, &store, &references, &boot)
                    .map_err(|error| format!("could not import {}: {error}", database.display()))?;
            }
            let describe =
                |error| format!("could not read the volumes in {}: {error}", config.state.display());
            let load = |loaded: Loaded| {
                let held = References::load(&references, loaded.name(), &boot);
                (loaded, held)
            };
            Ok::<_, String>(store.load().map_err(describe)?.into_iter().map(load).collect::<Vec<_>>())
        });
        let records = records.await?;
        self.mounter
            .recover()
            .await
            .map_err(|error| format!("could not clean up after the last daemon: {error}"))?;
        let mounted = self.mounter.survey().await.map_err(|error| error.to_string())?;
        let volumes = records.into_iter().map(|(loaded, references)| {
            let volume = self.volume(loaded, references);
            let condition = volume.observed(mounted.get(volume.name.as_str()));
            let references = volume.status().references.clone();
            volume.publish(condition, &references);
            (volume.name.clone(), Arc::new(volume))
        });
        let volumes: Volumes = volumes.collect();
        for name in mounted.keys().filter(|name| !volumes.contains_key(name.as_str())) {
            log::warn!(VOLUME = name; "something is mounted for it, but there is no such volume; `easyfuse doctor` says what to do");
        }
        log::info!("{} volumes, {} of them mounted", volumes.len(), mounted.len());
        self.volumes.store(Arc::new(volumes));
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    pub(super) fn volume(&self, loaded: Loaded, references: References) -> Volume {
        let target = self.mounter.layout().target(loaded.name().as_str());
        Volume::new(loaded, references, &target, self.version.clone())
    }

    pub(super) fn lookup(&self, name: &str) -> Result<Arc<Volume>, Error> {
        let name = VolumeName::new(name)?;
        self.volumes.load().get(&name).cloned().ok_or(Error::NotFound(name))
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn get(&self, name: &str) -> Result<View, Error> {
        Ok(self.lookup(name)?.view())
    }

    /// Grows with each change of what [`Registry::list`] and [`Registry::get`] show, before whoever asked for the change hears
    /// of it. What was listed after a look at this is current as long as this stays the same.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All volumes, by name.
    #[must_use]
    pub fn list(&self) -> Vec<View> {
        self.volumes.load().values().map(|volume| volume.view()).collect()
    }

    pub(super) fn limits(&self, limit: Duration) -> Limits {
        Limits { deadline: Instant::now() + limit, cancel: self.cancel.clone(), force: false }
    }

    pub(super) async fn lock_name(&self, name: &VolumeName) -> MutexGuard<'_, ()> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        self.names[usize::try_from(hash % NAME_LOCKS as u64).unwrap_or_default()].lock().await
    }
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct OpenError {
    path: PathBuf,
    error: std::io::Error,
}

impl OpenError {
    /// Whether another daemon has it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.error.kind() == std::io::ErrorKind::ResourceBusy
    }
}

pub(super) fn save_error(
    name: &VolumeName,
    doing: &'static str,
    path: &Path,
    error: std::io::Error,
) -> Error {
    Error::Save { name: name.clone(), doing, path: path.to_owned(), error }
}
