//! What the kernel has: mounting, unmounting, and what is true of a mount.
//!
//! The truth is always the kernel's mount table, and nothing here, nor anything above, touches a path inside a mount: a
//! filesystem that hangs takes along every process that looks at it. What has to be asked of a filesystem is asked by child
//! processes that may be given up.

pub mod command;
mod error;
pub mod helper;
mod layout;
pub mod probe;
mod target;
pub mod template;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::error::Error;
use self::helper::{ATTEMPT_VARIABLE, MOUNTPOINT_VARIABLE, Run};
pub use self::layout::Layout;
pub use self::probe::Liveness;
use crate::sys::mountinfo::{self, Device, Entry, stack};
use crate::sys::{blocking, durable, namespaces, process};

/// A boxed future, for the trait that has to be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One way to make a filesystem appear. What it does is checked against the mount table by [`Mounter`].
pub trait Backend: Debug + Send + Sync {
    /// Mount at `place`, which is the volume's mount point or stands in for it.
    fn mount<'a>(&'a self, run: &'a Run<'a>, place: &'a Path) -> BoxFuture<'a, Result<(), Error>>;
    /// Unmount the topmost filesystem at `place`.
    fn unmount<'a>(&'a self, run: &'a Run<'a>, place: &'a Path) -> BoxFuture<'a, Result<(), Error>>;
}

/// Until when, and whether at all, work goes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// When it must be done.
    pub deadline: Instant,
    /// Ends it earlier.
    pub cancel: CancellationToken,
}

/// A volume's mount, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The topmost filesystem.
    pub device: Device,
    /// Its type, `fuse.sshfs` for instance.
    pub fs_type: String,
    /// What it was mounted from.
    pub source: String,
    /// The mount's ID.
    pub id: u64,
    /// Whether what is mounted over it reaches other namespaces.
    pub shared: bool,
}

impl From<&Entry> for Mounted {
    fn from(entry: &Entry) -> Self {
        Self {
            device: entry.device,
            fs_type: entry.fs_type.clone(),
            source: entry.source.clone(),
            id: entry.id,
            shared: entry.shared,
        }
    }
}

/// How long a filesystem may take to answer before it counts as unresponsive.
const PROBE: Duration = Duration::from_secs(4);
/// How long one try to unmount may take.
const UNMOUNT_TRY: Duration = Duration::from_secs(5);
/// How long a program that is done may leave its filesystem to appear: some go to the background too early.
const APPEARANCE: Duration = Duration::from_secs(1);

/// Mounts and unmounts below one directory.
#[derive(Debug)]
pub struct Mounter {
    layout: Layout,
}

impl Mounter {
    /// Work below `layout`.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The volumes that have something mounted, by name, topmost mount each.
    ///
    /// # Errors
    /// When the mount table can't be read.
    pub async fn survey(&self) -> Result<HashMap<String, Mounted>, Error> {
        let table = self.table().await?;
        let places: BTreeSet<&Path> = table.iter().map(|entry| entry.mount_point.as_path()).collect();
        let named = places.into_iter().filter_map(|place| {
            let top = *stack(&table, place).last()?;
            Some((self.layout.volume_at(place)?.to_owned(), Mounted::from(top)))
        });
        Ok(named.collect())
    }

    /// What is mounted for one volume.
    ///
    /// # Errors
    /// When the mount table can't be read, or something else than FUSE is there.
    pub async fn current(&self, volume: &str) -> Result<Option<Mounted>, Error> {
        self.top(volume).await
    }

    /// Ask each of `volumes` whether it is alive, all at once.
    pub async fn probe<'a>(&self, volumes: impl Iterator<Item = &'a str>) -> HashMap<String, Liveness> {
        let targets: Vec<PathBuf> = volumes.map(|volume| self.layout.target(volume)).collect();
        let found = probe::probe(&targets, PROBE).await;
        found
            .into_iter()
            .filter_map(|(path, liveness)| Some((self.layout.volume_at(&path)?.to_owned(), liveness)))
            .collect()
    }

    /// Of the mounts in `wanted`, by volume, those that a container or another mount namespace holds.
    ///
    /// # Errors
    /// When `/proc` can't be read: nothing is known then, and nothing may be taken away.
    pub async fn held(&self, wanted: &HashMap<String, Mounted>) -> Result<BTreeSet<String>, Error> {
        let devices: HashMap<Device, PathBuf> =
            wanted.iter().map(|(name, mounted)| (mounted.device, self.layout.target(name))).collect();
        let held = blocking(move || namespaces::held_elsewhere(&devices)).await;
        let held =
            held.map_err(|error| Error::io("look for users of mounts in", Path::new("/proc"), error))?;
        Ok(wanted
            .iter()
            .filter(|(_, mounted)| held.contains(&mounted.device))
            .map(|(name, _)| name.clone())
            .collect())
    }

    /// The processes that serve the volumes, by volume.
    pub async fn helpers(&self) -> HashMap<String, u32> {
        let found = blocking(|| process::with_variable(MOUNTPOINT_VARIABLE)).await.unwrap_or_default();
        let serving = found.into_iter().filter(|process| process.serves_fuse);
        let named = serving.filter_map(|process| {
            Some((self.layout.volume_at(Path::new(&process.value))?.to_owned(), process.pid))
        });
        // Ascending pids: of several, the newest stays.
        named.collect()
    }

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
        match probe::probe(std::slice::from_ref(&target), limit).await.get(&target) {
            Some(Liveness::Alive) => Ok(mounted),
            Some(Liveness::Dead(errno)) => {
                log::warn!(VOLUME = volume, OPERATION = "mount"; "its filesystem is dead ({errno}): mounting it again");
                self.replace(backend, volume, &mounted, limits).await
            }
            Some(Liveness::Unresponsive) | None => {
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

    async fn end_attempt(&self, volume: &str) {
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

    /// Unmount the volume, whatever is stacked at its mount point, and remove the directory.
    ///
    /// A busy filesystem is tried again until the deadline and never forced. One that is dead is detached. One that does not
    /// answer for half of the time, and that nobody holds, is given up: its connection is aborted.
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
        let mut pause = Duration::from_millis(50);
        let fallback = command::Spec {
            device: String::new(),
            opts: String::new(),
            driver: String::new(),
            mount_command: None,
            unmount_command: None,
        };
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
            match probe::probe(std::slice::from_ref(&target), limit).await.get(&target) {
                Some(Liveness::Dead(_)) => self.detach_one(&target, limits).await?,
                Some(Liveness::Unresponsive) | None => {
                    let given_up = started.elapsed() >= patience && self.give_up(volume, &top).await?;
                    if !given_up && Instant::now() >= limits.deadline {
                        let helper = self.helpers().await.get(volume).copied();
                        return Err(Error::Unresponsive { target, helper, limit: started.elapsed() });
                    }
                }
                Some(Liveness::Alive) => {
                    if Instant::now() + pause >= limits.deadline || limits.cancel.is_cancelled() {
                        let words = outcome.err().map(|error| error.to_string()).unwrap_or_default();
                        return Err(Error::Busy { target, words });
                    }
                    // A command of the user's own that does not do it: umount(8) may.
                    backend = &fallback;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
            found = self.top_or_tidy(volume).await?;
        }
        Ok(last)
    }

    /// Look after the helpers of filesystems that were unmounted: those in `departed`, by volume. One that works on may be
    /// writing back what it has cached, and is left alone. One that was stopped never will, and is killed, unless a container
    /// still has its filesystem. What is done with is taken out of `departed`.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub async fn see_off(&self, departed: &mut HashMap<String, Mounted>) -> Result<(), Error> {
        let processes = blocking(|| process::with_variable(MOUNTPOINT_VARIABLE)).await;
        let processes =
            processes.map_err(|error| Error::io("look for helpers in", Path::new("/proc"), error))?;
        let of = |volume: &str| {
            let target = self.layout.target(volume);
            processes.iter().find(move |process| process.serves_fuse && Path::new(&process.value) == target)
        };
        let (mounted, held) = (self.survey().await?, self.held(departed).await?);
        departed.retain(|volume, _| {
            let Some(helper) = of(volume).filter(|_| !mounted.contains_key(volume)) else { return false };
            if helper.stopped && !held.contains(volume) {
                log::warn!(VOLUME = volume; "its helper, process {}, was stopped and serves nothing: killed", helper.pid);
                helper::kill_now(helper.pid);
            }
            true
        });
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

    /// Abort the connection of a filesystem that does not answer, unless somebody else holds it. Its helper ends by that, or
    /// is killed. Returns whether it was done.
    async fn give_up(&self, volume: &str, mounted: &Mounted) -> Result<bool, Error> {
        if !self.held(&HashMap::from([(volume.to_owned(), mounted.clone())])).await?.is_empty() {
            return Ok(false);
        }
        log::warn!(
            VOLUME = volume, OPERATION = "unmount";
            "its filesystem does not answer and nobody holds it: aborting its connection and ending its helper"
        );
        let abort = format!("/sys/fs/fuse/connections/{}/abort", mounted.device.minor);
        let aborted = blocking(move || std::fs::write(abort, "1")).await;
        if let Err(error) = aborted {
            log::debug!(VOLUME = volume; "no abort through /sys/fs/fuse/connections ({error}): its helper is killed");
        }
        let target = self.layout.target(volume).to_string_lossy().into_owned();
        helper::end_processes(MOUNTPOINT_VARIABLE, &[&target], Duration::from_millis(500)).await;
        Ok(true)
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

    /// Detach all mounts at `place`, without a question.
    async fn detach_all(&self, place: &Path, limits: &Limits) -> Result<(), Error> {
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
    async fn remove_target(&self, place: &Path) {
        let place = place.to_owned();
        blocking(move || remove_target(&place)).await;
    }

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
        let dead = matches!(
            probe::probe(std::slice::from_ref(&target), PROBE).await.get(&target),
            Some(Liveness::Dead(_))
        );
        if dead && self.held(&HashMap::from([(volume.to_owned(), mounted)])).await?.is_empty() {
            self.detach_all(&target, &taking_back()).await?;
        }
        Ok(())
    }

    async fn top(&self, volume: &str) -> Result<Option<Mounted>, Error> {
        top_of(&self.table().await?, &self.layout.target(volume))
    }

    async fn table(&self) -> Result<Vec<Entry>, Error> {
        let base = self.layout.base().to_owned();
        blocking(move || read_table(&base)).await
    }
}

fn read_table(base: &Path) -> Result<Vec<Entry>, Error> {
    mountinfo::under(base).map_err(|error| Error::io("read", Path::new("/proc/self/mountinfo"), error))
}

fn top_of(table: &[Entry], place: &Path) -> Result<Option<Mounted>, Error> {
    match stack(table, place).last() {
        Some(entry) if entry.is_fuse() => Ok(Some(Mounted::from(*entry))),
        Some(entry) => Err(Error::NotFuse { target: place.to_owned(), fs_type: entry.fs_type.clone() }),
        None => Ok(None),
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

fn remove_target(place: &Path) {
    if let Err(error) = target::remove(place) {
        log::warn!("could not remove the mount point {}: {error}", place.display());
    }
}

fn taking_back() -> Limits {
    Limits { deadline: Instant::now() + Duration::from_secs(10), cancel: CancellationToken::new() }
}

/// The names in `dir`; those that are not UTF-8 are none of ours.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(io::Result::transpose).collect()
}

/// A token that no other attempt has, on this host, in this boot.
fn new_token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{:x}-{:x}-{number:x}", std::process::id(), since_epoch.as_nanos())
}
