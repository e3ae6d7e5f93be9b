//! A volume on disk: one JSON file.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::name::VolumeName;
use super::options::Options;

/// The version of the file's shape. A larger one is left alone: a newer easyfuse wrote it.
pub(super) const SCHEMA: u32 = 1;

/// What is kept of a volume for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) schema: u32,
    pub(super) name: VolumeName,
    #[serde(with = "timestamp")]
    pub(super) created: SystemTime,
    pub(super) options: Options,
}

impl Record {
    pub(super) fn new(name: VolumeName, options: Options) -> Self {
        Self { schema: SCHEMA, name, created: SystemTime::now(), options }
    }
}

/// RFC 3339, UTC, to the second.
pub(crate) mod timestamp {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn text(time: SystemTime) -> String {
        humantime::format_rfc3339_seconds(time).to_string()
    }

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(|error| de::Error::custom(format!("{error}: {text:?}")))
    }
}
