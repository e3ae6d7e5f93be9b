//! The messages, as they are on the wire.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::sys::json;
use crate::volume::View;

/// The content type of every answer.
pub const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// The largest body that is read, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;

/// A body that can be told how it should look.
pub trait Request: DeserializeOwned + Default {
    /// One that is right.
    const EXAMPLE: &'static str;

    /// Parse a body. Engines leave it empty where there is nothing to say, and on some retries.
    ///
    /// # Errors
    /// What is wrong with it, and one that is right.
    fn parse(body: &[u8]) -> Result<Self, String> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // Without this an array would do as well.
        let object = body.trim_ascii_start().starts_with(b"{");
        let parsed = if object {
            serde_json::from_slice(body)
        } else {
            Err(serde::de::Error::custom("not an object"))
        };
        parsed.map_err(|error| {
            let error = json::describe(&error);
            format!("bad request body: {error}; it should look like {}", Self::EXAMPLE)
        })
    }
}

/// For Create.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Create {
    /// The volume's name.
    pub name: Option<String>,
    /// Its options; docker sends `null` where there are none.
    pub opts: Option<BTreeMap<String, String>>,
}

impl Request for Create {
    const EXAMPLE: &'static str = r#"{"Name": "data", "Opts": {"device": "sshfs#user@host:/path"}}"#;
}

/// For Get, Remove and Path.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Named {
    /// The volume's name.
    pub name: Option<String>,
}

impl Request for Named {
    const EXAMPLE: &'static str = r#"{"Name": "data"}"#;
}

/// For Mount and Unmount.
#[derive(Debug, Default, Deserialize)]
pub struct Use {
    /// The volume's name.
    #[serde(rename = "Name", default)]
    pub name: Option<String>,
    /// The engine's name for this use of it.
    #[serde(rename = "ID", default)]
    pub id: Option<String>,
}

impl Request for Use {
    const EXAMPLE: &'static str = r#"{"Name": "data", "ID": "a1b2"}"#;
}

/// For the `easyfuse` command's own requests.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Admin {
    /// The volume's name.
    pub name: Option<String>,
    /// Do it all the same.
    pub force: bool,
}

impl Request for Admin {
    const EXAMPLE: &'static str = r#"{"Name": "data", "Force": false}"#;
}

/// The answer to a request that failed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Failure {
    /// One sentence.
    pub err: String,
}

/// A volume in an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where it is mounted; empty when it is not.
    pub mountpoint: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Everything else that is worth knowing.
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    pub status: Map<String, Value>,
}

impl Volume {
    /// With its details.
    #[must_use]
    pub fn whole(view: &View) -> Self {
        Self {
            name: view.name.to_string(),
            mountpoint: view.mountpoint().to_owned(),
            created_at: view.created_at().map(str::to_owned),
            status: view.details(),
        }
    }
}

/// A volume in a list, where there may be thousands: without details, and nothing of it copied.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Brief<'a> {
    name: &'a str,
    mountpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<&'a str>,
}

impl<'a> From<&'a View> for Brief<'a> {
    fn from(view: &'a View) -> Self {
        Self { name: view.name.as_str(), mountpoint: view.mountpoint(), created_at: view.created_at() }
    }
}

/// What the daemon says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Daemon {
    /// Its version.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// Where it keeps records.
    pub state: String,
    /// Where it mounts.
    pub mount_dir: String,
    /// Whether volumes may name their own commands.
    pub allow_mount_command: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_engines_leave_out() {
        for body in ["", " \n", "{}", r#"{"Name": null}"#, r#"{"Other": 1}"#] {
            assert_eq!(Named::parse(body.as_bytes()).unwrap().name, None);
        }
        let create = Create::parse(br#"{"Name": "a", "Opts": null}"#).unwrap();
        assert_eq!((create.name.as_deref(), create.opts), (Some("a"), None));
    }

    #[test]
    fn the_examples_are_right() {
        assert!(Create::parse(Create::EXAMPLE.as_bytes()).unwrap().opts.is_some());
        assert_eq!(Use::parse(Use::EXAMPLE.as_bytes()).unwrap().id.as_deref(), Some("a1b2"));
        assert!(Admin::parse(Admin::EXAMPLE.as_bytes()).unwrap().name.is_some());
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_right() {
        for body in ["[]", "{", "\"x\"", "5", r#"{"Name": 5}"#, r#"{"Opts": {"o": 1}}"#, "\u{1}"] {
            let error = Create::parse(body.as_bytes()).unwrap_err();
            assert!(error.contains("it should look like") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_string_in_the_wrong_place_is_not_cited() {
        let error = Create::parse(br#"{"Opts": "password=hunter2\", expected"}"#).unwrap_err();
        assert!(error.contains("invalid type: string, expected a map at line 1"), "{error}");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            _ = Create::parse(&body);
            _ = Use::parse(&body);
        }
    }
}
