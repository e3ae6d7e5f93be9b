//! Who uses a volume.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::name::{MountId, VolumeName};
use super::record::timestamp;
use crate::sys::durable;
use crate::sys::process::ProcessId;

/// The process that speaks to the plugin: a dockerd, or one of podman's short-lived ones.
pub type Engine = ProcessId;

/// An ID's uses of a volume through one engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The engine's name for it.
    pub id: MountId,
    /// Who asked; `None` over TCP and for imported ones.
    pub engine: Option<Engine>,
    /// Mounts without their Unmount: `docker cp` mounts again under the ID of the running container.
    pub count: u32,
    /// When the first of them came.
    #[serde(with = "timestamp")]
    pub since: SystemTime,
    /// Whether it is from an earlier life of this daemon. An engine that stopped its container in between has sent the
    /// Unmount in vain, and does not repeat it.
    #[serde(skip)]
    pub carried: bool,
}

impl Reference {
    /// Whether its engine may never speak of it again. Podman's processes go at once, but podman keeps the count.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        !self.id.is_podman() && self.may_be_stale()
    }

    fn may_be_stale(&self) -> bool {
        self.carried || self.engine_is_gone()
    }

    fn engine_is_gone(&self) -> bool {
        self.engine.is_some_and(|engine| !engine.is_alive())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if let Some(engine) = self.engine {
            write!(
                f,
                " of the engine {engine}{}",
                if self.engine_is_gone() { ", which is gone" } else { "" }
            )?;
        }
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        Ok(())
    }
}

/// All uses of one volume.
///
/// References of an engine that is gone stay as long as a container may still use the filesystem: they are counted apart
/// from those that a new engine makes under the same ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References(Vec<Reference>);

/// What was left after a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// There was no such reference.
    Unknown,
    /// One less.
    Done,
    /// One less, and all that is left of this ID is what an engine left that is gone.
    OrphansLeft,
}

impl References {
    /// Whether nobody uses the volume.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Reference> {
        self.0.iter()
    }

    /// One more use. The same ID and engine: counted, though apart from what an earlier daemon counted. The same ID and
    /// another engine: a new reference, and what earlier engines left under it shrinks to one.
    pub fn acquire(&mut self, id: &MountId, engine: Option<Engine>) {
        let same = |held: &&mut Reference| held.id == *id && held.engine == engine && !held.carried;
        if let Some(same) = self.0.iter_mut().find(same) {
            same.count = same.count.saturating_add(1);
            return;
        }
        let last_orphan = self.0.iter().rposition(|held| held.id == *id && held.engine_is_gone());
        let mut position = 0;
        self.0.retain_mut(|held| {
            let here = position;
            position += 1;
            let orphan = held.id == *id && held.engine_is_gone();
            if orphan {
                held.count = 1;
            }
            !orphan || Some(here) == last_orphan && !id.is_podman()
        });
        self.0.push(Reference { id: id.clone(), engine, count: 1, since: SystemTime::now(), carried: false });
    }

    /// One use less: of the engine that asks, else of any other under this ID, gone ones first.
    pub fn release(&mut self, id: &MountId, engine: Option<Engine>) -> Released {
        let of_id = |held: &Reference| held.id == *id;
        // The newest: those before it may be carried ones.
        let exact = self.0.iter().rposition(|held| of_id(held) && held.engine == engine);
        let gone = || self.0.iter().position(|held| of_id(held) && held.engine_is_gone());
        let Some(found) = exact.or_else(gone).or_else(|| self.0.iter().position(of_id)) else {
            return Released::Unknown;
        };
        self.0[found].count -= 1;
        if self.0[found].count == 0 {
            self.0.remove(found);
        }
        let mut left = self.0.iter().filter(|held| of_id(held)).peekable();
        if left.peek().is_some() && left.all(Reference::engine_is_gone) {
            Released::OrphansLeft
        } else {
            Released::Done
        }
    }

    /// Drop those that are orphaned: of one ID, or of all. Returns what was dropped.
    pub fn drop_orphans(&mut self, id: Option<&MountId>) -> Vec<Reference> {
        self.extract(|held| id.is_none_or(|id| held.id == *id) && held.is_orphaned())
    }

    /// Drop also podman's, for when podman itself says that no container has the volume.
    pub fn drop_unowned(&mut self) -> Vec<Reference> {
        self.extract(Reference::engine_is_gone)
    }

    /// Drop all.
    pub fn clear(&mut self) -> Vec<Reference> {
        std::mem::take(&mut self.0)
    }

    /// Whether at least one is orphaned.
    #[must_use]
    pub fn has_orphans(&self) -> bool {
        self.0.iter().any(Reference::is_orphaned)
    }

    fn extract(&mut self, gone: impl Fn(&Reference) -> bool) -> Vec<Reference> {
        let (out, kept) = std::mem::take(&mut self.0).into_iter().partition(gone);
        self.0 = kept;
        out
    }

    /// Write them to `dir/name`. They mean something in this boot only, so they need not survive it.
    ///
    /// # Errors
    /// What the filesystem said.
    pub fn save(&self, dir: &Path, name: &VolumeName, boot: &str) -> io::Result<()> {
        if self.is_empty() {
            return durable::remove_if_there(&dir.join(name.as_str()));
        }
        let file = File { boot: boot.to_owned(), references: self.0.clone() };
        durable::replace_volatile(dir, name.as_str(), &serde_json::to_vec(&file)?)
    }

    /// Read them back; those of another boot are gone. What can't be read is kept beside, as `.bad`, and counts as none: what
    /// containers hold is seen in the mount table.
    #[must_use]
    pub fn load(dir: &Path, name: &VolumeName, boot: &str) -> Self {
        let path = dir.join(name.as_str());
        let read = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => Err(error.to_string()),
            Ok(bytes) => serde_json::from_slice::<File>(&bytes).map_err(|error| error.to_string()),
        };
        match read {
            Ok(file) if file.boot == boot => {
                let carried = |held| Reference { carried: true, ..held };
                Self(file.references.into_iter().map(carried).collect())
            }
            Ok(_) => {
                _ = durable::remove_if_there(&path);
                Self::default()
            }
            Err(error) => {
                let kept = dir.join(format!(".{:.200}.bad", name.as_str()));
                _ = std::fs::rename(&path, &kept);
                log::error!(
                    VOLUME = name.as_str();
                    "its references can't be read ({error}) and are kept as {}; what containers hold is seen in the mount table",
                    kept.display()
                );
                Self::default()
            }
        }
    }

    /// References that another program kept, without an engine.
    #[must_use]
    pub fn imported(ids: impl Iterator<Item = MountId>) -> Self {
        let since = SystemTime::now();
        Self(ids.map(|id| Reference { id, engine: None, count: 1, since, carried: true }).collect())
    }
}

impl fmt::Display for References {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.len();
        write!(f, "{total} reference{}", if total == 1 { "" } else { "s" })?;
        for (position, held) in self.0.iter().take(3).enumerate() {
            write!(f, "{}{held}", if position == 0 { ": " } else { ", " })?;
        }
        if total > 3 { write!(f, " and {} more", total - 3) } else { Ok(()) }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    boot: String,
    references: Vec<Reference>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MountId {
        MountId::new(text).unwrap()
    }

    fn live() -> Option<Engine> {
        Some(Engine::of(std::process::id()).unwrap())
    }

    /// This process's pid with another start time: an engine that is gone.
    fn gone(start: u64) -> Option<Engine> {
        Some(Engine { pid: std::process::id(), start })
    }

    #[test]
    fn docker_cp_counts_up_and_down() {
        let mut held = References::default();
        held.acquire(&id("a"), live());
        held.acquire(&id("a"), live());
        assert_eq!(held.release(&id("a"), live()), Released::Done);
        assert!(!held.is_empty());
        assert_eq!(held.release(&id("a"), live()), Released::Done);
        assert!(held.is_empty());
        assert_eq!(held.release(&id("a"), live()), Released::Unknown);
    }

    #[test]
    fn a_restarted_container_of_a_crashed_engine_leaves_only_an_orphan() {
        let mut held = References::default();
        held.acquire(&id("a"), gone(1));
        held.acquire(&id("a"), gone(1));
        held.acquire(&id("a"), live());
        assert_eq!(held.release(&id("a"), live()), Released::OrphansLeft);
        assert_eq!(held.drop_orphans(Some(&id("a"))).len(), 1);
        assert!(held.is_empty());
    }

    #[test]
    fn live_restore_then_cp_then_stop() {
        let mut held = References::default();
        held.acquire(&id("a"), gone(1));
        held.acquire(&id("a"), live());
        assert_eq!(
            held.release(&id("a"), live()),
            Released::OrphansLeft,
            "the container of the old engine may run on"
        );
        assert_eq!(held.release(&id("a"), live()), Released::Done);
        assert!(held.is_empty());
    }

    #[test]
    fn many_engines_under_one_id_do_not_pile_up() {
        let mut held = References::default();
        for start in 1..100 {
            held.acquire(&id("a"), gone(start));
        }
        assert!(held.iter().count() <= 2);
    }

    #[test]
    fn podmans_reference_outlives_its_process_until_podman_removes_the_volume() {
        let podman = id("2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2");
        let mut held = References::default();
        held.acquire(&podman, gone(1));
        assert!(!held.has_orphans() && held.drop_orphans(None).is_empty());
        assert_eq!(held.release(&podman, gone(2)), Released::Done);
        assert!(held.is_empty());
        held.acquire(&podman, gone(3));
        assert_eq!(held.drop_unowned().len(), 1);
    }

    #[test]
    fn saved_references_come_back_in_the_same_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let name = VolumeName::new("v").unwrap();
        let mut held = References::default();
        held.acquire(&id("a"), live());
        held.save(dir.path(), &name, "boot").unwrap();
        let back = References::load(dir.path(), &name, "boot");
        assert_eq!(back.iter().map(|held| held.count).collect::<Vec<_>>(), [1]);
        assert!(References::load(dir.path(), &name, "next boot").is_empty());
        assert!(References::load(dir.path(), &name, "boot").is_empty());
    }

    #[test]
    fn what_an_earlier_daemon_counted_goes_when_no_container_holds_it_and_its_engine_lives() {
        let dir = tempfile::tempdir().unwrap();
        let name = VolumeName::new("v").unwrap();
        let mut held = References::default();
        held.acquire(&id("missed"), live());
        assert!(!held.has_orphans() && held.drop_unowned().is_empty());
        held.save(dir.path(), &name, "boot").unwrap();
        let mut held = References::load(dir.path(), &name, "boot");
        // Its container starts again: that use stays.
        held.acquire(&id("missed"), live());
        assert!(held.has_orphans());
        assert_eq!(held.clone().drop_orphans(None).len(), 1);
        assert_eq!(held.release(&id("missed"), live()), Released::Done);
        assert!(held.drop_unowned().is_empty());
        assert_eq!(held.drop_orphans(None).len(), 1);
        assert!(held.is_empty());
    }

    #[test]
    fn a_broken_file_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("v"), "{\"boot\":").unwrap();
        assert!(References::load(dir.path(), &VolumeName::new("v").unwrap(), "boot").is_empty());
        assert!(dir.path().join(".v.bad").exists());
    }
}
