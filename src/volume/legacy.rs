//! The database of the Python easyfuse, `mntdb.json`: read once, left as it is.
//!
//! Its shape: an object, name → `{"name", "instances": [ID…], "opts": {…}, "is_mounted"}`. It looked at the options `o` and
//! `device` alone and ignored all others.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::name::{MountId, VolumeName};
use super::options::{Kind, Options};
use super::record::Record;
use super::references::References;
use super::store::Store;
use crate::sys::durable;

/// The copy in the state directory which says that the import was made.
const DONE: &str = "imported-mntdb.json";

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    instances: Vec<String>,
    opts: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    is_mounted: bool,
}

type Entries = BTreeMap<String, Entry>;

/// Whether `database` can be imported, if it has to be: asked before anything is begun.
pub(super) fn check(database: &Path, state: &Path) -> io::Result<()> {
    read(database, state).map(drop)
}

/// The database as it is and what it says; nothing if there is none, or if the state directory has had an import already.
fn read(database: &Path, state: &Path) -> io::Result<Option<(Vec<u8>, Entries)>> {
    if state.join(DONE).exists() {
        return Ok(None);
    }
    let bytes = match std::fs::read(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match serde_json::from_slice(&bytes) {
        Ok(entries) => Ok(Some((bytes, entries))),
        Err(error) => {
            let message = format!(
                "it is no mntdb.json of the Python easyfuse ({error}); mend it, or give --mntdb a directory"
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

/// Take over the volumes in `database`, unless the state directory `state` has had an import already. Volumes that are there
/// keep their options. References are taken over for those that are mounted.
pub(super) fn import(
    database: &Path,
    state: &Path,
    store: &Store,
    references: &Path,
    boot: &str,
) -> io::Result<()> {
    let Some((bytes, entries)) = read(database, state)? else { return Ok(()) };
    let total = entries.len();
    let mut taken = 0;
    for (name, entry) in entries {
        match import_one(&name, &entry, store, references, boot) {
            Ok(()) => taken += 1,
            // Tried again, all of it: what is there already is passed over.
            Err(Refused::Io(error)) => return Err(error),
            Err(Refused::Entry(reason)) => {
                log::error!(VOLUME = name; "not imported from {}: {reason}", database.display());
            }
        }
    }
    let left = if taken == total { "which is not needed any more" } else { "which has more, see above" };
    log::info!("imported {taken} of {total} volumes from {}, {left}", database.display());
    durable::create(state, DONE, &bytes)
}

/// Why a volume was not taken over.
enum Refused {
    /// It makes no sense.
    Entry(String),
    /// The disk said no.
    Io(io::Error),
}

impl Refused {
    #[allow(clippy::needless_pass_by_value, reason = "fits map_err")]
    fn entry(error: impl std::error::Error) -> Self {
        Self::Entry(error.to_string())
    }
}

fn import_one(
    name: &str,
    entry: &Entry,
    store: &Store,
    references: &Path,
    boot: &str,
) -> Result<(), Refused> {
    let name = VolumeName::new(name).map_err(Refused::entry)?;
    let mut options = Options::new();
    for (key, value) in entry.opts.iter().flatten() {
        match value.as_str() {
            Some(value) if key == "o" || key == "device" => _ = options.insert(key.clone(), value.to_owned()),
            _ => {
                log::warn!(VOLUME = name.as_str(); "left out option `{key}`, which the Python easyfuse ignored");
            }
        }
    }
    Kind::parse(&options).map_err(Refused::entry)?;
    if store.path(&name).exists() {
        return Err(Refused::Entry("it exists already".to_owned()));
    }
    // First, so that a crash between the two is made good by the next start.
    if entry.is_mounted {
        let ids = entry.instances.iter().filter_map(|id| MountId::new(id).ok());
        References::imported(ids).save(references, &name, boot).map_err(Refused::Io)?;
    }
    store.create(&Record::new(name, options)).map_err(Refused::Io)?;
    Ok(())
}
