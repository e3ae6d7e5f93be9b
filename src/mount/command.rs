//! Volumes that a program mounts: `mount -t fuse`, or a template of the user's.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::helper::Run;
use super::template::{Template, TemplateError, Values};
use super::{Backend, BoxFuture, Error};

/// How a volume is mounted that nobody gave a template for.
pub const DEFAULT_MOUNT: &str = "mount -t {driver} [-o {opts}] {device} {target}";
/// How it is unmounted. `-c`: without a look at the path, which may hang.
pub const DEFAULT_UNMOUNT: &str = "umount -c {target}";

/// What a program needs to know to mount a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// What `mount` gets as its device.
    pub device: String,
    /// The mount options, as they were given.
    pub opts: String,
    /// The filesystem type.
    pub driver: String,
    /// The user's own command to mount.
    pub mount_command: Option<Template>,
    /// The user's own command to unmount.
    pub unmount_command: Option<Template>,
}

impl Spec {
    fn words(
        &self,
        template: Option<&Template>,
        default: &str,
        place: &Path,
    ) -> Result<Vec<String>, TemplateError> {
        let target = place.to_string_lossy();
        let values =
            Values { device: &self.device, opts: &self.opts, driver: &self.driver, target: target.as_ref() };
        match template {
            Some(template) => Ok(template.expand(&values)),
            None => Ok(Template::parse(default)?.expand(&values)),
        }
    }
}

impl Backend for Spec {
    fn mount<'a>(&'a self, run: &'a Run<'a>, place: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let words =
                self.words(self.mount_command.as_ref(), DEFAULT_MOUNT, place).map_err(Error::Template)?;
            run.run(&words).await
        })
    }

    fn unmount<'a>(&'a self, run: &'a Run<'a>, place: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let words =
                self.words(self.unmount_command.as_ref(), DEFAULT_UNMOUNT, place).map_err(Error::Template)?;
            run.run(&words).await
        })
    }
}
