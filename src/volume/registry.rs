//! All volumes, and what can be done with them.
//!
//! Each volume has a lock of its own, so that one whose helper hangs holds up nobody else. [`Registry::get`] and
//! [`Registry::list`] read what was published last, and wait for nothing but the first load.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use imbl::OrdMap;
use tokio::sync::{Mutex, MutexGuard, Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::legacy;
use super::name::{MountId, VolumeName};
use super::options::{self, Kind, Options, Policy};
use super::record::Record;
use super::references::{Engine, Reference, References, Released};
use super::store::{Loaded, Store};
use super::view::{Condition, LastError, Status, View};
use crate::mount::{self, Backend, Layout, Limits, Mounted, Mounter};
use crate::sys::{blocking, durable, process};

/// Podman waits 5 s for an answer; it gets one before.
const PODMAN_LIMIT: Duration = Duration::from_secs(4);
/// Creations and removals of names that fall on different locks do not wait for each other.
const NAME_LOCKS: usize = 512;
/// What was done when a file of references could not be written.
const SAVE_REFERENCES: &str = "save who uses it in";

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

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

/// One volume.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) name: VolumeName,
    created: Option<SystemTime>,
    source: Source,
    shown: Arc<Options>,
    target: Arc<str>,
    /// Held by whoever changes the volume, from the first look to the published end.
    pub(super) gate: Mutex<Gate>,
    status: ArcSwap<Status>,
    /// The registry's, see [`Registry::version`].
    version: Arc<AtomicU64>,
    /// Counts changes, so that an observation made before one is not published after it.
    pub(super) changes: AtomicU64,
}

#[derive(Debug)]
enum Source {
    Good { options: Options, kind: Kind },
    Unreadable { reason: String, path: PathBuf },
}

/// What is behind a volume's lock.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) references: References,
    /// Whoever waited for the lock of a volume that was removed meanwhile finds this.
    pub(super) removed: bool,
}

impl Volume {
    pub(super) fn status(&self) -> Arc<Status> {
        self.status.load_full()
    }

    pub(super) fn publish(&self, condition: Condition, references: &References) {
        let old = self.status.load();
        let since = if old.condition.word() == condition.word() { old.since } else { SystemTime::now() };
        let references = if *old.references == *references {
            old.references.clone()
        } else {
            Arc::new(references.clone())
        };
        let last_error = old.last_error.clone();
        self.status.store(Arc::new(Status { condition, since, references, last_error }));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn note_error(&self, error: &Error) {
        let last = LastError { message: error.to_string(), at: SystemTime::now() };
        let status = Status { last_error: Some(Arc::new(last)), ..(*self.status()).clone() };
        self.status.store(Arc::new(status));
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn view(&self) -> View {
        View {
            name: self.name.clone(),
            created: self.created,
            options: self.shown.clone(),
            target: self.target.clone(),
            status: self.status(),
        }
    }

    /// What its options mean.
    pub(super) fn kind(&self) -> Result<&Kind, Error> {
        match &self.source {
            Source::Good { kind, .. } => Ok(kind),
            Source::Unreadable { reason, path } => {
                Err(Error::Unreadable { name: self.name.clone(), reason: reason.clone(), path: path.clone() })
            }
        }
    }

    /// An error of the mount layer, with the volume's name and without its secrets.
    pub(super) fn failed(&self, doing: &'static str, error: &mount::Error) -> Error {
        match Error::mount(&self.name, doing, error) {
            Error::Mount { name, doing, error } => {
                let error = self.kind().map_or_else(|_| error.clone(), |kind| kind.redact(&error));
                Error::Mount { name, doing, error }
            }
            other => other,
        }
    }
}

/// Who mounts it.
pub(super) fn backend(kind: &Kind) -> &dyn Backend {
    let Kind::Command(spec) = kind;
    spec
}

type Volumes = OrdMap<VolumeName, Arc<Volume>>;

/// All volumes.
#[derive(Debug)]
pub struct Registry {
    pub(super) config: Config,
    store: Arc<Store>,
    pub(super) mounter: Mounter,
    boot: Arc<str>,
    pub(super) volumes: ArcSwap<Volumes>,
    version: Arc<AtomicU64>,
    names: Vec<Mutex<()>>,
    loaded: watch::Sender<bool>,
    pub(super) cancel: CancellationToken,
    /// What was unmounted, until its helper has ended.
    pub(super) departed: std::sync::Mutex<HashMap<String, Mounted>>,
    /// Told when something was mounted, so that its helper is looked up soon.
    pub(super) wake: Notify,
}

impl Registry {
    /// Take possession of the state directory and the mount directory. [`Registry::load`] has to follow.
    ///
    /// # Errors
    /// When another daemon has one of them, or they can't be made.
    pub fn open(config: Config) -> Result<Self, OpenError> {
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
        Ok(Self {
            config,
            store: Arc::new(store),
            mounter: Mounter::new(layout),
            boot: boot.into(),
            volumes: ArcSwap::default(),
            version: Arc::default(),
            names: std::iter::repeat_with(Mutex::default).take(NAME_LOCKS).collect(),
            loaded: watch::Sender::new(false),
            cancel: CancellationToken::new(),
            departed: std::sync::Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// The directory of the mount points, as the kernel names it.
    #[must_use]
    pub fn mount_dir(&self) -> &Path {
        self.mounter.layout().base()
    }

    /// How it was set up.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Read the records, clean up after a daemon that was killed, and look at what is mounted. Requests wait until it is done.
    ///
    /// # Errors
    /// What could not be read; requests go on waiting.
    pub async fn load(&self) -> Result<(), String> {
        self.load_all().await?;
        self.loaded.send_replace(true);
        Ok(())
    }

    async fn load_all(&self) -> Result<(), String> {
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
                let held = match &loaded {
                    Loaded::Volume(record, _) => References::load(&references, &record.name, &boot),
                    Loaded::Unreadable { .. } => Ok(References::default()),
                };
                Ok((loaded, held.map_err(describe)?))
            };
            store.load().map_err(describe)?.into_iter().map(load).collect::<Result<Vec<_>, String>>()
        });
        let records = records.await?;
        self.mounter
            .recover()
            .await
            .map_err(|error| format!("could not clean up after the last daemon: {error}"))?;
        let mounted = self.mounter.survey().await.map_err(|error| error.to_string())?;
        let volumes = records.into_iter().map(|(loaded, references)| {
            let volume = self.volume(loaded, references);
            let condition = self.observed(&volume, mounted.get(volume.name.as_str()));
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

    fn volume(&self, loaded: Loaded, references: References) -> Volume {
        let (name, created, source) = match loaded {
            Loaded::Volume(record, kind) => {
                (record.name, Some(record.created), Source::Good { options: record.options, kind })
            }
            Loaded::Unreadable { name, reason, path } => (name, None, Source::Unreadable { reason, path }),
        };
        let (condition, shown) = match &source {
            Source::Good { options, .. } => (Condition::Created, options::masked(options)),
            Source::Unreadable { reason, path } => {
                (Condition::Unreadable { reason: reason.clone(), path: path.clone() }, Options::new())
            }
        };
        let status = Status {
            condition,
            since: SystemTime::now(),
            references: Arc::new(references.clone()),
            last_error: None,
        };
        Volume {
            target: self.mounter.layout().target(name.as_str()).to_string_lossy().into(),
            name,
            created,
            source,
            shown: Arc::new(shown),
            gate: Mutex::new(Gate { references, removed: false }),
            status: ArcSwap::from_pointee(status),
            version: self.version.clone(),
            changes: AtomicU64::new(0),
        }
    }

    /// What the mount table says of a volume, without asking its filesystem.
    pub(super) fn observed(&self, volume: &Volume, mounted: Option<&Mounted>) -> Condition {
        let status = volume.status();
        match (&volume.source, mounted) {
            (Source::Unreadable { reason, path }, _) => {
                Condition::Unreadable { reason: reason.clone(), path: path.clone() }
            }
            (Source::Good { .. }, Some(mounted)) => {
                let helper = match status.condition {
                    Condition::Mounted { helper, .. } => helper,
                    _ => None,
                };
                Condition::Mounted { fs_type: mounted.fs_type.clone(), helper }
            }
            (Source::Good { .. }, None) if status.references.is_empty() => Condition::Created,
            (Source::Good { .. }, None) => Condition::Broken {
                reason:
                    "its filesystem is gone: the helper ended, or somebody unmounted it; the next container \
                         that starts mounts it again"
                        .to_owned(),
                mounted: false,
            },
        }
    }

    /// Wait until the records are there.
    async fn loaded(&self) {
        let mut loaded = self.loaded.subscribe();
        // The sender lives as long as the registry.
        _ = loaded.wait_for(|loaded| *loaded).await;
    }

    fn lookup(&self, name: &str) -> Result<Arc<Volume>, Error> {
        let name = VolumeName::new(name)?;
        self.volumes.load().get(&name).cloned().ok_or(Error::NotFound(name))
    }

    /// One volume.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn get(&self, name: &str) -> Result<View, Error> {
        self.loaded().await;
        Ok(self.lookup(name)?.view())
    }

    /// Grows with each change of what [`Registry::list`] and [`Registry::get`] show, before whoever asked for the change hears
    /// of it. What was listed after a look at this is current as long as this stays the same.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// When the records could not be loaded.
    pub async fn list(&self) -> Result<Vec<View>, Error> {
        self.loaded().await;
        Ok(self.volumes.load().values().map(|volume| volume.view()).collect())
    }

    /// Make a volume. One that is there with the same options is as good as made: engines repeat themselves.
    ///
    /// # Errors
    /// What is wrong with the name, the options, this host, or the state directory.
    pub async fn create(&self, name: &str, options: Options, caller: &Caller) -> Result<(), Error> {
        let name = VolumeName::new(name)?;
        self.loaded().await;
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
        self.loaded().await;
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

    /// Mount a volume for `id`, or count one more use of it. Returns the mount point.
    ///
    /// # Errors
    /// Why it is not mounted; no reference is left then.
    pub async fn mount(&self, name: &str, id: &str, caller: &Caller) -> Result<Arc<str>, Error> {
        let id = MountId::new(id).map_err(Error::Id)?;
        self.loaded().await;
        let volume = self.lookup(name)?;
        let limits = self.limits(limit_for(&id, self.config.mount_timeout));
        let kind = volume.kind()?;
        let policy = kind.check_policy(self.config.policy);
        policy.map_err(|error| Error::Options { name: volume.name.clone(), error })?;
        let mut gate = enter(&volume, &limits).await?;
        let outcome = self.mount_entered(&volume, kind, &mut gate, &id, caller, &limits).await;
        if let Err(error) = &outcome {
            log::error!(VOLUME = volume.name.as_str(), OPERATION = "mount", REQUEST_ID = caller.request; "{error}");
            self.republish(&volume, &gate).await;
            volume.note_error(error);
        }
        outcome.map(|()| volume.target.clone())
    }

    async fn mount_entered(
        &self,
        volume: &Volume,
        kind: &Kind,
        gate: &mut Gate,
        id: &MountId,
        caller: &Caller,
        limits: &Limits,
    ) -> Result<(), Error> {
        if !matches!(volume.status().condition, Condition::Mounted { .. }) {
            volume.publish(Condition::Mounting, &gate.references);
        }
        let started = Instant::now();
        let mounted = self.mounter.mount(backend(kind), volume.name.as_str(), limits).await;
        let mounted = mounted.map_err(|error| volume.failed("mount", &error))?;
        gate.references.acquire(id, caller.engine);
        let saved = self.save_references(volume, gate).await;
        if saved.is_err() || caller.is_gone() {
            // Nobody will ever send the Unmount for this.
            gate.references.release(id, caller.engine);
            _ = self.save_references(volume, gate).await;
            if gate.references.is_empty() {
                let limits = self.limits(self.config.unmount_timeout);
                self.unmount_entered(volume, kind, gate, &limits).await?;
            }
            saved?;
            self.republish(volume, gate).await;
            log::warn!(
                VOLUME = volume.name.as_str(), OPERATION = "mount", REQUEST_ID = caller.request;
                "the engine hung up before it was mounted: taken back"
            );
        } else {
            self.publish_seen_now(volume, gate, Some(&mounted));
            log::info!(
                VOLUME = volume.name.as_str(), OPERATION = "mount", REQUEST_ID = caller.request;
                "mounted {} for {id} in {:.0?}; {} in all", mounted.fs_type, started.elapsed(), gate.references
            );
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Take back one use of a volume; the last one unmounts it. A use that is not known is none.
    ///
    /// # Errors
    /// Why it is still mounted. The use is taken back all the same, and unmounting is tried again later.
    pub async fn unmount(&self, name: &str, id: &str, caller: &Caller) -> Result<(), Error> {
        let id = MountId::new(id).map_err(Error::Id)?;
        self.loaded().await;
        let volume = self.lookup(name)?;
        let Ok(kind) = volume.kind() else { return Ok(()) };
        let limits = self.limits(limit_for(&id, self.config.unmount_timeout));
        let mut gate = enter(&volume, &limits).await?;
        let outcome = self.release_entered(&volume, kind, &mut gate, &id, caller, &limits).await;
        if let Err(error) = &outcome {
            log::error!(VOLUME = volume.name.as_str(), OPERATION = "unmount", REQUEST_ID = caller.request; "{error}");
            self.republish(&volume, &gate).await;
            volume.note_error(error);
        }
        outcome
    }

    async fn release_entered(
        &self,
        volume: &Volume,
        kind: &Kind,
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
                    Ok(mounted) => self.is_held(volume, mounted.as_ref()).await,
                    Err(error) => Err(error),
                };
                // What is not known to be unused is not taken away.
                if held.is_ok_and(|held| !held) {
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
            self.unmount_entered(volume, kind, gate, limits).await?;
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
        self.loaded().await;
        let volume = self.lookup(name)?;
        let kind = volume.kind()?;
        let limits = self.limits(self.config.mount_timeout);
        let gate = enter(&volume, &limits).await?;
        let mounted = self.current(&volume, "remount").await?;
        if mounted.is_some() && !force {
            let probed = self.mounter.probe(std::iter::once(volume.name.as_str())).await;
            if probed.get(volume.name.as_str()) == Some(&mount::Liveness::Alive) {
                return Err(Error::Healthy(volume.name.clone()));
            }
        }
        if mounted.is_none() && gate.references.is_empty() && !force {
            let users = "nothing uses it, so there is nothing to mount again".to_owned();
            return Err(Error::Mount { name: volume.name.clone(), doing: "remount", error: users });
        }
        volume.publish(Condition::Mounting, &gate.references);
        let outcome = self.mounter.remount(backend(kind), volume.name.as_str(), &limits).await;
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
        self.loaded().await;
        let volume = self.lookup(name)?;
        let kind = volume.kind()?;
        let limits = self.limits(self.config.unmount_timeout);
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
        let outcome = self.unmount_entered(&volume, kind, &mut gate, &limits).await;
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
        kind: &Kind,
        gate: &mut Gate,
        limits: &Limits,
    ) -> Result<(), Error> {
        volume.publish(Condition::Unmounting, &gate.references);
        let outcome = self.mounter.unmount(backend(kind), volume.name.as_str(), limits).await;
        match &outcome {
            Ok(_) => self.publish_seen_now(volume, gate, None),
            Err(_) => self.republish(volume, gate).await,
        }
        let last = outcome.map_err(|error| volume.failed("unmount", &error))?;
        if let (Some(last), Ok(mut departed)) = (last, self.departed.lock()) {
            departed.insert(volume.name.to_string(), last);
        }
        Ok(())
    }

    /// Publish what the mount table says now.
    pub(super) async fn republish(&self, volume: &Volume, gate: &Gate) {
        volume.changes.fetch_add(1, Ordering::Relaxed);
        volume.publish(volume.status().condition.clone(), &gate.references);
        let condition = match self.mounter.current(volume.name.as_str()).await {
            Ok(mounted) => self.observed(volume, mounted.as_ref()),
            Err(error) => Condition::Broken { reason: error.to_string(), mounted: true },
        };
        volume.publish(condition, &gate.references);
    }

    /// Publish what the mount table said a moment ago, to whoever holds the gate.
    fn publish_seen_now(&self, volume: &Volume, gate: &Gate, mounted: Option<&Mounted>) {
        volume.changes.fetch_add(1, Ordering::Relaxed);
        volume.publish(volume.status().condition.clone(), &gate.references);
        volume.publish(self.observed(volume, mounted), &gate.references);
    }

    async fn current(&self, volume: &Volume, doing: &'static str) -> Result<Option<Mounted>, Error> {
        self.mounter.current(volume.name.as_str()).await.map_err(|error| volume.failed(doing, &error))
    }

    async fn is_held(&self, volume: &Volume, mounted: Option<&Mounted>) -> Result<bool, Error> {
        let Some(mounted) = mounted else { return Ok(false) };
        let wanted = [(volume.name.to_string(), mounted.clone())].into();
        let held =
            self.mounter.held(&wanted).await.map_err(|error| volume.failed("look for its users", &error))?;
        Ok(!held.is_empty())
    }

    pub(super) async fn save_references(&self, volume: &Volume, gate: &Gate) -> Result<(), Error> {
        let (dir, boot) = (self.mounter.layout().references(), self.boot.clone());
        let (name, references) = (volume.name.clone(), gate.references.clone());
        let at = dir.join(name.as_str());
        let saved = blocking(move || references.save(&dir, &name, &boot)).await;
        saved.map_err(|error| save_error(&volume.name, SAVE_REFERENCES, &at, error))
    }

    pub(super) fn limits(&self, limit: Duration) -> Limits {
        Limits { deadline: Instant::now() + limit, cancel: self.cancel.clone() }
    }

    async fn lock_name(&self, name: &VolumeName) -> MutexGuard<'_, ()> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
        self.names[usize::try_from(hash % NAME_LOCKS as u64).unwrap_or_default()].lock().await
    }

    /// End helpers that are at work, so that requests that wait for them end.
    pub fn cancel(&self) {
        self.cancel.cancel();
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

/// Enter a volume's lock, or say who has it when there is no more time.
async fn enter<'a>(volume: &'a Volume, limits: &Limits) -> Result<MutexGuard<'a, Gate>, Error> {
    let started = Instant::now();
    match timeout_at(limits.deadline, volume.gate.lock()).await {
        Ok(gate) if gate.removed => Err(Error::NotFound(volume.name.clone())),
        Ok(gate) => Ok(gate),
        Err(_) => Err(Error::Waited {
            name: volume.name.clone(),
            doing: volume.status().condition.word(),
            waited: started.elapsed().as_secs(),
        }),
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

fn save_error(name: &VolumeName, doing: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::Save { name: name.clone(), doing, path: path.to_owned(), error }
}

/// Whether a volume was made now, or was there as wished.
enum Created {
    Fresh,
    Before,
}

enum CreateError {
    Options(options::OptionsError),
    Save(std::io::Error),
}
