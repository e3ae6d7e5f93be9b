//! What the kernel has: mounting, unmounting, and what is true of a mount.
//!
//! The truth is always the kernel's mount table, and nothing here, nor anything above, touches a path inside a mount: a
//! filesystem that hangs takes along every process that looks at it. What has to be asked of a filesystem is asked by child
//! processes that may be given up.

mod attach;
pub mod command;
mod detach;
mod error;
pub mod helper;
mod layout;
pub mod probe;
mod recover;
mod target;
pub mod template;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::error::Error;
use self::helper::{MOUNTPOINT_VARIABLE, Run};
pub use self::layout::Layout;
pub use self::probe::Liveness;
use self::probe::Prober;
use crate::sys::mountinfo::{self, Device, Entry, stack};
use crate::sys::{blocking, namespaces, process};

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
    /// Whether somebody said that a filesystem which does not answer is to go, whoever uses it.
    pub force: bool,
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

/// A filesystem that was unmounted, and whose helper may not have noticed.
#[derive(Clone, Debug)]
pub struct Departed {
    /// The volume.
    pub volume: String,
    /// What was mounted.
    pub mounted: Mounted,
    /// When it was unmounted, as [`process::now`] has it.
    pub at: u64,
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

/// Mounts and unmounts below one directory.
#[derive(Debug)]
pub struct Mounter {
    layout: Layout,
    prober: Prober,
}

impl Mounter {
    /// Work below `layout`.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout, prober: Prober::default() }
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

    /// Ask each of `mounted`, by volume, whether it is alive, all at once.
    pub async fn probe(&self, mounted: &HashMap<String, Mounted>) -> HashMap<String, Liveness> {
        let wanted: Vec<(PathBuf, Device)> =
            mounted.iter().map(|(volume, mounted)| (self.layout.target(volume), mounted.device)).collect();
        let found = self.prober.ask_all(&wanted, PROBE).await;
        found
            .into_iter()
            .filter_map(|(path, liveness)| Some((self.layout.volume_at(&path)?.to_owned(), liveness)))
            .collect()
    }

    /// Of the mounts in `wanted`, by volume, those that are mounted elsewhere too, in a container most of all, each with a
    /// process that has it there.
    ///
    /// # Errors
    /// When `/proc` can't be read: nothing is known then, and nothing may be taken away.
    pub async fn held(&self, wanted: &HashMap<String, Mounted>) -> Result<BTreeMap<String, u32>, Error> {
        let devices: HashMap<Device, PathBuf> =
            wanted.iter().map(|(name, mounted)| (mounted.device, self.layout.target(name))).collect();
        let held = blocking(move || namespaces::held_elsewhere(&devices)).await;
        let held =
            held.map_err(|error| Error::io("look for users of mounts in", Path::new("/proc"), error))?;
        let by_name =
            wanted.iter().filter_map(|(name, mounted)| Some((name.clone(), *held.get(&mounted.device)?)));
        Ok(by_name.collect())
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

fn taking_back() -> Limits {
    Limits {
        deadline: Instant::now() + Duration::from_secs(10),
        cancel: CancellationToken::new(),
        force: false,
    }
}

/// A token that no other attempt has, on this host, in this boot.
fn new_token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{:x}-{:x}-{number:x}", std::process::id(), since_epoch.as_nanos())
}
