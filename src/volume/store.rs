//! The records of all volumes: the state directory.
//!
//! ```text
//! /var/lib/easyfuse/lock                      held by the daemon that uses the directory
//! /var/lib/easyfuse/volumes/<name>.json       a record
//! /var/lib/easyfuse/volumes/<name>.json.bad   one that could not be read, kept for whoever mends it
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::name::VolumeName;
use super::options::{Kind, OptionsError};
use super::record::{Record, SCHEMA};
use crate::sys::group_sync::GroupSync;
use crate::sys::{durable, json};

/// The longest name whose `.json.bad` fits into a file name of 255 bytes.
const PLAIN: usize = 240;

/// The state directory.
#[derive(Debug)]
pub(super) struct Store {
    volumes: PathBuf,
    group: GroupSync,
    /// Locked as long as the store lives; the kernel lets go of it however the process ends.
    _lock: File,
}

/// A record as it was found.
#[derive(Debug)]
pub(super) enum Loaded {
    /// A good one.
    Volume(Record, Kind),
    /// One that this version can't use, and why; the path is where it is kept.
    Unreadable { name: VolumeName, reason: String, path: PathBuf },
}

impl Loaded {
    pub(super) fn name(&self) -> &VolumeName {
        match self {
            Self::Volume(record, _) => &record.name,
            Self::Unreadable { name, .. } => name,
        }
    }
}

impl Store {
    /// Make or open the state directory `dir`, and keep others out of it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let volumes = dir.join("volumes");
        durable::make_dir(dir, 0o700)?;
        durable::make_dir(&volumes, 0o700)?;
        let lock = durable::lock_dir(dir, "--mntdb")?;
        match durable::remove_temporaries(&volumes) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            other => other?,
        }
        Ok(Self { group: GroupSync::new(volumes.clone()), volumes, _lock: lock })
    }

    pub(super) fn path(&self, name: &VolumeName) -> PathBuf {
        self.volumes.join(file_name(name))
    }

    /// All records. One that makes no sense is renamed to `.bad`; one of a newer version stays as it is.
    pub(super) fn load(&self) -> io::Result<Vec<Loaded>> {
        // What a daemon before this one placed and did not come to sync is answered for from here on.
        if let Err(error) = durable::sync_dir(&self.volumes) {
            log::error!("could not make {} durable: {error}", self.volumes.display());
        }
        let mut found = Vec::new();
        let mut bad = Vec::new();
        for entry in fs::read_dir(&self.volumes)? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            if let Some(stem) = file.strip_suffix(".json.bad") {
                bad.push(stem.to_owned());
            } else if file.ends_with(".json") {
                found.extend(self.read(&file));
            }
        }
        for stem in bad {
            // One that was mended has its record back, and the `.bad` beside it is only a copy.
            let good = format!("{stem}.json");
            if self.volumes.join(&good).exists() {
                continue;
            }
            let path = self.volumes.join(format!("{good}.bad"));
            let reason = match fs::read(&path) {
                Ok(bytes) => parse(&bytes).err().unwrap_or_else(|| "it was set aside".to_owned()),
                Err(error) => error.to_string(),
            };
            found.extend(unreadable(&stem, reason, path));
        }
        Ok(found)
    }

    fn read(&self, file: &str) -> Option<Loaded> {
        let stem = file.strip_suffix(".json").unwrap_or(file);
        let path = self.volumes.join(file);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // A disk that does not answer is no reason to touch the record.
            Err(error) => return unreadable(stem, error.to_string(), path),
        };
        let reason = match parse(&bytes) {
            Ok((record, kind)) if file_name(&record.name) == file => match kind {
                Ok(kind) => return Some(Loaded::Volume(record, kind)),
                Err(error) => return unreadable(record.name.as_str(), error.to_string(), path),
            },
            Ok((record, _)) => format!("it is the record of {}", record.name),
            Err(reason) if reason.starts_with(NEWER) => return unreadable(stem, reason, path),
            Err(reason) => reason,
        };
        let aside = format!("{file}.bad");
        match durable::rename(&self.volumes, file, &aside) {
            Ok(()) => unreadable(stem, reason, self.volumes.join(aside)),
            Err(error) => {
                unreadable(stem, format!("{reason} (and it could not be set aside: {error})"), path)
            }
        }
    }

    /// Keep a new record, for good once [`Store::sync`] returns. `AlreadyExists` if there is one, good or bad.
    pub(super) fn place(&self, record: &Record) -> io::Result<()> {
        let name = file_name(&record.name);
        if self.volumes.join(format!("{name}.bad")).exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut bytes = serde_json::to_vec_pretty(record)?;
        bytes.push(b'\n');
        durable::place(&self.volumes, &name, &bytes)
    }

    /// Keep a new record for good. `AlreadyExists` if there is one, good or bad.
    pub(super) fn create(&self, record: &Record) -> io::Result<()> {
        self.place(record)?;
        durable::sync_dir(&self.volumes).inspect_err(|_| _ = self.unlink(&record.name))
    }

    /// Forget a record, for good once [`Store::sync`] returns. One that is not there is no error. The `.bad` that a mended one
    /// has left beside it is set aside, lest it be listed from now on.
    pub(super) fn unlink(&self, name: &VolumeName) -> io::Result<()> {
        let bad = self.volumes.join(format!("{}.bad", file_name(name)));
        if bad.exists() {
            self.dismiss(&bad)?;
        }
        durable::remove_if_there(&self.path(name))
    }

    /// Wait until what was placed and unlinked before is so on the disk.
    pub(super) async fn sync(&self) -> io::Result<()> {
        self.group.sync().await
    }

    /// Stop listing a record that can't be read; the file stays, under a name that is not looked at.
    pub(super) fn dismiss(&self, path: &Path) -> io::Result<PathBuf> {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let aside = format!("{file}.removed-{since_epoch}");
        durable::rename(&self.volumes, &file, &aside)?;
        Ok(self.volumes.join(aside))
    }
}

const NEWER: &str = "a newer easyfuse wrote it";

type Parsed = (Record, Result<Kind, OptionsError>);

fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u32,
    }
    let describe =
        |error: serde_json::Error| format!("its record can't be read ({})", json::describe(&error));
    let version: Version = serde_json::from_slice(bytes).map_err(describe)?;
    if version.schema > SCHEMA {
        return Err(format!("{NEWER} (schema {}, this one knows {SCHEMA})", version.schema));
    }
    let record: Record = serde_json::from_slice(bytes).map_err(describe)?;
    let kind = Kind::parse(&record.options);
    Ok((record, kind))
}

fn unreadable(name: &str, reason: String, path: PathBuf) -> Option<Loaded> {
    match VolumeName::new(name) {
        Ok(name) => {
            log::error!(VOLUME = name.as_str(); "the volume is listed as broken: {reason}; see {}", path.display());
            Some(Loaded::Unreadable { name, reason, path })
        }
        Err(error) => {
            log::warn!("passed over {}: {error}", path.display());
            None
        }
    }
}

/// A volume's file. Names too long for a suffix are cut, and told apart by a hash; `~` is in no volume's name.
fn file_name(name: &VolumeName) -> String {
    let text = name.as_str();
    if text.len() <= PLAIN {
        return format!("{text}.json");
    }
    // FNV-1a: stable for ever, and a clash is caught, since a record is never replaced.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{}~{hash:016x}.json", &text[..200])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::options::Options;

    fn record(name: &str) -> Record {
        let options = Options::from([("device".to_owned(), "bindfs#/tmp".to_owned())]);
        Record::new(VolumeName::new(name).unwrap(), options)
    }

    fn names(store: &Store) -> (Vec<String>, Vec<String>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for loaded in store.load().unwrap() {
            match loaded {
                Loaded::Volume(record, _) => good.push(record.name.to_string()),
                Loaded::Unreadable { name, .. } => bad.push(name.to_string()),
            }
        }
        good.sort();
        (good, bad)
    }

    #[test]
    fn records_come_back_whatever_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (long, longer) = ("x".repeat(255), format!("{}y", "x".repeat(254)));
        let mut all = vec!["a", "a.json", "a.json.bad", &long, &longer];
        for name in &all {
            store.create(&record(name)).unwrap();
        }
        all.sort_unstable();
        assert_eq!(names(&store).0, all);
        store.unlink(&VolumeName::new("a").unwrap()).unwrap();
        assert_eq!(names(&store).0.len(), 4);
    }

    #[test]
    fn a_record_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.create(&record("a")).unwrap();
        assert_eq!(store.create(&record("a")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_can_not_be_read_is_kept_and_listed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let volumes = dir.path().join("volumes");
        fs::write(volumes.join("half.json"), "{\"schema\": 1, \"na").unwrap();
        for _ in 0..2 {
            assert_eq!(names(&store), (vec![], vec!["half".to_owned()]));
            assert_eq!(fs::read_to_string(volumes.join("half.json.bad")).unwrap(), "{\"schema\": 1, \"na");
        }
        assert_eq!(store.create(&record("half")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        store.dismiss(&volumes.join("half.json.bad")).unwrap();
        assert_eq!(names(&store), (vec![], vec![]));
        assert_eq!(fs::read_dir(volumes).unwrap().count(), 1, "the file itself stays");
    }

    #[test]
    fn a_newer_versions_record_is_left_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("volumes/new.json");
        fs::write(&path, "{\"schema\": 2, \"shape\": \"other\"}").unwrap();
        assert_eq!(names(&store), (vec![], vec!["new".to_owned()]));
        assert!(path.exists());
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another easyfuse uses it"), "{error}");
        drop(store);
        Store::open(dir.path()).unwrap();
    }
}
