//! What is known of a volume without asking anybody: what Get and List answer.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::name::VolumeName;
use super::options::Options;
use super::record::timestamp;
use super::references::References;
use std::path::PathBuf;

/// Where a volume is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has a record, and nothing is mounted.
    Created,
    /// A helper is at work.
    Mounting,
    /// A filesystem is there, and answered when it was asked last.
    Mounted {
        /// Its type.
        fs_type: String,
        /// The process that serves it, once it is known.
        helper: Option<u32>,
    },
    /// Something uses it, or is mounted, but it does not work.
    Broken {
        /// Why.
        reason: String,
        /// Whether a filesystem is there.
        mounted: bool,
    },
    /// It is being unmounted.
    Unmounting,
    /// Its record can't be read.
    Unreadable {
        /// Why.
        reason: String,
        /// The record.
        path: PathBuf,
    },
}

impl Condition {
    /// The word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Mounting => "mounting",
            Self::Mounted { .. } => "mounted",
            Self::Broken { .. } | Self::Unreadable { .. } => "broken",
            Self::Unmounting => "unmounting",
        }
    }

    fn has_mount(&self) -> bool {
        matches!(self, Self::Mounted { .. } | Self::Broken { mounted: true, .. } | Self::Unmounting)
    }
}

/// The last thing that went wrong with a volume since the daemon started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// What.
    pub message: String,
    /// When.
    #[serde(with = "timestamp")]
    pub at: SystemTime,
}

/// A volume's condition, as it was published last.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it is in its life.
    pub condition: Condition,
    /// Since when.
    pub since: SystemTime,
    /// Who uses it.
    pub references: Arc<References>,
    /// What went wrong last.
    pub last_error: Option<Arc<LastError>>,
}

/// A volume as it is shown: no secret is in it.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: VolumeName,
    /// When it was created, as RFC 3339; unknown for a record that can't be read.
    pub created: Option<Arc<str>>,
    /// Its options, secrets masked.
    pub options: Arc<Options>,
    /// Its mount point, whether anything is mounted there or not.
    pub target: Arc<str>,
    /// How it is.
    pub status: Arc<Status>,
}

impl View {
    /// The mount point as Docker wants it: empty while nothing is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &str {
        if self.status.condition.has_mount() { &self.target } else { "" }
    }

    /// When it was created, as RFC 3339.
    #[must_use]
    pub fn created_at(&self) -> Option<&str> {
        self.created.as_deref()
    }

    /// What `docker volume inspect` shows as `Status`.
    #[must_use]
    pub fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        let mut put = |key: &str, value: Value| _ = details.insert(key.to_owned(), value);
        put("state", self.status.condition.word().into());
        put("since", timestamp::text(self.status.since).into());
        match &self.status.condition {
            Condition::Mounted { fs_type, helper } => {
                put("filesystem", fs_type.clone().into());
                put("helper_pid", json!(helper));
            }
            Condition::Broken { reason, .. } => put("reason", reason.clone().into()),
            Condition::Unreadable { reason, path } => {
                put("reason", reason.clone().into());
                put("record", path.to_string_lossy().into());
            }
            Condition::Created | Condition::Mounting | Condition::Unmounting => {}
        }
        let references = self.status.references.iter().map(|held| {
            json!({
                "id": held.id,
                "count": held.count,
                "engine_pid": held.engine.map(|engine| engine.pid),
                "since": timestamp::text(held.since),
            })
        });
        put("references", references.collect());
        if let Some(last) = &self.status.last_error {
            put("last_error", json!({ "message": last.message, "at": timestamp::text(last.at) }));
        }
        put("options", json!(self.options));
        details
    }
}
