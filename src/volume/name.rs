//! Names that were checked once.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A volume's name: `[A-Za-z0-9][A-Za-z0-9_.-]*`, at most 255 bytes, as Docker's own local driver has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(Arc<str>);

/// Why a name is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "bad volume name {shown:?}: {reason}; use letters, digits, `_`, `.` and `-`, a letter or digit first, up to 255"
)]
pub struct NameError {
    shown: String,
    reason: &'static str,
}

impl VolumeName {
    /// The most bytes that a name has.
    pub const MAX: usize = 255;

    /// Check `name`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > Self::MAX {
            "it is too long"
        } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
            "its first character is neither a letter nor a digit"
        } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
            "it has a character that no name may have"
        } else {
            return Ok(Self(name.into()));
        };
        Err(NameError { shown: shorten(name), reason })
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for VolumeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VolumeName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(&name)
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.as_str().to_owned()
    }
}

/// What an engine calls one use of a volume: 64 hexadecimal digits from dockerd, per container and mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MountId(String);

impl MountId {
    /// The one ID that podman uses for all its mounts (`pseudoCtrID` in its libpod/volume_internal_linux.go).
    const PODMAN: &'static str = "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2";
    const MAX: usize = 256;

    /// Check `id`.
    ///
    /// # Errors
    /// When it is empty or longer than 256 bytes.
    pub fn new(id: &str) -> Result<Self, &'static str> {
        if id.is_empty() {
            return Err(
                "ID is missing; the engine gives each mount one, for instance {\"Name\": \"data\", \"ID\": \"a1b2\"}",
            );
        }
        if id.len() > Self::MAX {
            return Err("ID is too long: 256 bytes at most");
        }
        Ok(Self(id.to_owned()))
    }

    /// Whether podman uses it. Podman keeps its own count, its processes are short-lived, and it waits 5 s for an answer.
    #[must_use]
    pub fn is_podman(&self) -> bool {
        self.0 == Self::PODMAN
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(12).map_or(self.0.len(), |(at, _)| at);
        f.write_str(&self.0[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_docker_accepts() {
        for name in ["a", "0", "data", "my_vol.1-x", &"x".repeat(255)] {
            assert_eq!(VolumeName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_would_be_paths_or_worse() {
        for name in [
            "",
            ".",
            "..",
            "../../etc",
            "/abs",
            "a/b",
            "a b",
            "a\nb",
            "-x",
            "_x",
            "é",
            "a\0",
            &"x".repeat(256),
        ] {
            let error = VolumeName::new(name).unwrap_err().to_string();
            assert!(
                error.contains("use letters, digits") && !error.contains('\n') && error.len() < 250,
                "{error}"
            );
        }
    }
}
