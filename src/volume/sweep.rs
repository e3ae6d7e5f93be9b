//! What is done without being asked for: looking at each mount now and then, and tidying up after engines that crashed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Gate, Volume};
use super::name::VolumeName;
use super::registry::Registry;
use super::uses::log_dropped;
use super::view::Condition;
use crate::mount::{self, Liveness, Mounted};
use crate::sys::blocking;

/// How often all mounts are looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// How soon after a mount its helper is looked up.
const AFTER_MOUNT: Duration = Duration::from_secs(1);
/// What a helper may say before its log is cut, in bytes.
const LOG_LIMIT: u64 = 256 * 1024;

/// What was seen in one look at everything.
#[derive(Debug)]
struct Observation {
    mounted: HashMap<String, Mounted>,
    liveness: HashMap<String, Liveness>,
    helpers: HashMap<String, u32>,
    held: BTreeMap<String, u32>,
    changes: HashMap<VolumeName, u64>,
}

/// Since when a volume has had nobody who could ever unmount it.
type Unowned = HashMap<VolumeName, Instant>;

impl Registry {
    /// Look after the volumes until the registry is cancelled.
    pub async fn tend(&self) {
        let mut unowned = Unowned::new();
        let interval = INTERVAL.min(self.config.grace / 2).max(Duration::from_millis(500));
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + interval;
                    self.sweep(&mut unowned).await;
                }
                () = self.wake.notified() => {
                    tokio::time::sleep(AFTER_MOUNT).await;
                    self.find_helpers().await;
                }
            }
        }
    }

    /// Look at the mounts now, or at one volume's, so that what [`Registry::get`] and [`Registry::list`] answer is fresh.
    pub async fn refresh(&self, only: Option<&str>) {
        let volumes = self.volumes.load();
        let wanted = volumes.values().filter(|volume| only.is_none_or(|name| name == volume.name.as_str()));
        let volumes: Vec<Arc<Volume>> = wanted.cloned().collect();
        match self.observe(&volumes).await {
            Ok(seen) => {
                for volume in &volumes {
                    if let Ok(gate) = volume.gate.try_lock() {
                        self.publish_seen(volume, &gate, &seen);
                    }
                }
            }
            Err(error) => log::error!("could not look at the mounts: {error}"),
        }
    }

    async fn observe(&self, volumes: &[Arc<Volume>]) -> Result<Observation, mount::Error> {
        let changes =
            volumes.iter().map(|volume| (volume.name.clone(), volume.changes.load(Ordering::Relaxed)));
        let changes = changes.collect();
        let mut mounted = self.mounter.survey().await?;
        mounted.retain(|name, _| volumes.binary_search_by(|volume| volume.name.as_str().cmp(name)).is_ok());
        let liveness = self.mounter.probe(&mounted).await;
        let helpers = if mounted.is_empty() { HashMap::new() } else { self.mounter.helpers().await };
        let doubtful: HashMap<String, Mounted> = volumes
            .iter()
            .filter(|volume| {
                let references = volume.status().references.clone();
                references.is_empty() || references.has_orphans()
            })
            .filter_map(|volume| mounted.get_key_value(volume.name.as_str()))
            .map(|(name, mounted)| (name.clone(), mounted.clone()))
            .collect();
        let held = self.mounter.held(&doubtful).await?;
        Ok(Observation { mounted, liveness, helpers, held, changes })
    }

    /// Publish what was seen of a volume, unless it has changed since.
    fn publish_seen(&self, volume: &Volume, gate: &Gate, seen: &Observation) {
        let name = volume.name.as_str();
        if gate.removed || seen.changes.get(&volume.name) != Some(&volume.changes.load(Ordering::Relaxed)) {
            return;
        }
        let condition = match (volume.observed(seen.mounted.get(name)), seen.liveness.get(name)) {
            (Condition::Mounted { .. }, Some(Liveness::Dead(errno))) => Condition::Broken {
                reason: format!(
                    "its filesystem is dead ({errno}); `easyfuse volume remount {name}` brings it back"
                ),
                mounted: true,
            },
            (Condition::Mounted { .. }, Some(Liveness::Unresponsive)) => Condition::Broken {
                reason: "its filesystem does not answer: its server or its helper hangs".to_owned(),
                mounted: true,
            },
            (Condition::Mounted { fs_type, .. }, _) => {
                Condition::Mounted { fs_type, helper: seen.helpers.get(name).copied() }
            }
            (other, _) => other,
        };
        let before = volume.status();
        match &condition {
            Condition::Broken { reason, .. } if before.condition != condition => {
                log::warn!(VOLUME = name; "broken: {reason}");
            }
            Condition::Mounted { .. } if matches!(before.condition, Condition::Broken { .. }) => {
                log::info!(VOLUME = name; "works again");
            }
            _ => {}
        }
        volume.publish(condition, &gate.references);
    }

    async fn sweep(&self, unowned: &mut Unowned) {
        let volumes: Vec<Arc<Volume>> = self.volumes.load().values().cloned().collect();
        unowned.retain(|name, _| volumes.binary_search_by(|volume| volume.name.cmp(name)).is_ok());
        let seen = match self.observe(&volumes).await {
            Ok(seen) => seen,
            Err(error) => return log::error!("could not look at the mounts: {error}"),
        };
        for volume in &volumes {
            // One that is at work is looked at next time.
            let Ok(mut gate) = volume.gate.try_lock() else { continue };
            self.publish_seen(volume, &gate, &seen);
            if seen.changes.get(&volume.name) == Some(&volume.changes.load(Ordering::Relaxed)) {
                self.tidy(volume, &mut gate, &seen, unowned).await;
            }
        }
        self.cut_logs(&volumes).await;
        self.see_off().await;
    }

    async fn see_off(&self) {
        let Some(mut departed) = self.departed.lock().ok().map(|mut departed| std::mem::take(&mut *departed))
        else {
            return;
        };
        if departed.is_empty() {
            return;
        }
        if let Err(error) = self.mounter.see_off(&mut departed).await {
            log::error!("could not look for helpers that are done: {error}");
        }
        if let Ok(mut now) = self.departed.lock() {
            now.extend(departed);
        }
    }

    /// Drop references whose Unmount will never come, and unmount what nobody has, once the grace time is over.
    async fn tidy(&self, volume: &Volume, gate: &mut Gate, seen: &Observation, unowned: &mut Unowned) {
        let name = volume.name.as_str();
        let mounted = seen.mounted.contains_key(name);
        let lost = gate.references.has_orphans() || gate.references.is_empty() && mounted;
        if gate.removed || !lost || seen.held.contains_key(name) {
            unowned.remove(&volume.name);
            return;
        }
        let since = *unowned.entry(volume.name.clone()).or_insert_with(Instant::now);
        let dead = matches!(seen.liveness.get(name), Some(Liveness::Dead(_)));
        let useless = gate.references.is_empty() && dead;
        if since.elapsed() < self.config.grace && !useless {
            return;
        }
        let dropped = gate.references.drop_orphans(None);
        log_dropped(&volume.name, &dropped);
        if !dropped.is_empty() {
            if let Err(error) = self.save_references(volume, gate).await {
                log::error!(VOLUME = name; "{error}");
            }
            self.republish(volume, gate).await;
        }
        if gate.references.is_empty() && mounted {
            let limits = self.limits(self.config.unmount_timeout.min(Duration::from_secs(10)));
            match self.unmount_entered(volume, gate, &limits).await {
                Ok(()) => log::info!(VOLUME = name, OPERATION = "unmount"; "unmounted, since nobody uses it"),
                Err(error) => {
                    log::warn!(VOLUME = name, OPERATION = "unmount"; "will be tried again: {error}");
                }
            }
        }
        unowned.remove(&volume.name);
    }

    async fn find_helpers(&self) {
        let helpers = self.mounter.helpers().await;
        for volume in self.volumes.load().values() {
            let Ok(gate) = volume.gate.try_lock() else { continue };
            if let (Condition::Mounted { fs_type, helper: None }, Some(pid)) =
                (&volume.status().condition, helpers.get(volume.name.as_str()))
            {
                let condition = Condition::Mounted { fs_type: fs_type.clone(), helper: Some(*pid) };
                volume.publish(condition, &gate.references);
            }
        }
    }

    /// A helper that talks all the time must not fill the memory that `/run` is.
    async fn cut_logs(&self, volumes: &[Arc<Volume>]) {
        let logs: Vec<_> =
            volumes.iter().map(|volume| self.mounter.layout().log(volume.name.as_str())).collect();
        blocking(move || {
            for path in logs {
                if path.metadata().is_ok_and(|data| data.len() > LOG_LIMIT) {
                    _ = std::fs::File::options().write(true).open(&path).and_then(|log| log.set_len(0));
                }
            }
        })
        .await;
    }
}
