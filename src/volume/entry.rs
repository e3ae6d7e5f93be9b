//! One volume, and what is known of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::name::VolumeName;
use super::options::{self, Kind, Options};
use super::record::timestamp;
use super::references::References;
use super::store::Loaded;
use super::view::{Condition, LastError, Status, View};
use crate::mount::command::Umount;
use crate::mount::{self, Backend, Limits, Mounted};

/// One volume.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) name: VolumeName,
    /// As RFC 3339: asked for all the time, and always the same.
    created: Option<Arc<str>>,
    pub(super) source: Source,
    shown: Arc<Options>,
    pub(super) target: Arc<str>,
    /// Held by whoever changes the volume, from the first look to the published end.
    pub(super) gate: Mutex<Gate>,
    status: ArcSwap<Status>,
    /// The registry's, see [`super::Registry::version`].
    version: Arc<AtomicU64>,
    /// Counts changes, so that an observation made before one is not published after it.
    pub(super) changes: AtomicU64,
}

#[derive(Debug)]
pub(super) enum Source {
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
    /// A volume as its record says it is, mounted at `target` if at all; `version` is the registry's.
    pub(super) fn new(
        loaded: Loaded,
        references: References,
        target: &Path,
        version: Arc<AtomicU64>,
    ) -> Self {
        let (name, created, source) = match loaded {
            Loaded::Volume(record, kind) => (
                record.name,
                Some(timestamp::text(record.created).into()),
                Source::Good { options: record.options, kind },
            ),
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
        Self {
            target: target.to_string_lossy().into(),
            name,
            created,
            source,
            shown: Arc::new(shown),
            gate: Mutex::new(Gate { references, removed: false }),
            status: ArcSwap::from_pointee(status),
            version,
            changes: AtomicU64::new(0),
        }
    }

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

    pub(super) fn note_error(&self, error: &Error) {
        let last = LastError { message: error.to_string(), at: SystemTime::now() };
        let status = Status { last_error: Some(Arc::new(last)), ..(*self.status()).clone() };
        self.status.store(Arc::new(status));
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn view(&self) -> View {
        View {
            name: self.name.clone(),
            created: self.created.clone(),
            options: self.shown.clone(),
            target: self.target.clone(),
            status: self.status(),
        }
    }

    /// What the mount table says of it, without asking its filesystem.
    pub(super) fn observed(&self, mounted: Option<&Mounted>) -> Condition {
        let status = self.status();
        match (&self.source, mounted) {
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

    /// What its options mean.
    pub(super) fn kind(&self) -> Result<&Kind, Error> {
        match &self.source {
            Source::Good { kind, .. } => Ok(kind),
            Source::Unreadable { reason, path } => {
                Err(Error::Unreadable { name: self.name.clone(), reason: reason.clone(), path: path.clone() })
            }
        }
    }

    /// The record that can't be read, if it is so.
    pub(super) fn unreadable_record(&self) -> Option<&Path> {
        match &self.source {
            Source::Good { .. } => None,
            Source::Unreadable { path, .. } => Some(path),
        }
    }

    /// Who mounts and unmounts it.
    pub(super) fn backend(&self) -> &dyn Backend {
        match &self.source {
            Source::Good { kind: Kind::Command(spec), .. } => spec,
            // It may still be mounted from before its record was damaged.
            Source::Unreadable { .. } => &Umount,
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

/// Enter a volume's lock, or say who has it when there is no more time.
pub(super) async fn enter<'a>(volume: &'a Volume, limits: &Limits) -> Result<MutexGuard<'a, Gate>, Error> {
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
