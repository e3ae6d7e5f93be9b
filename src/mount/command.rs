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

/// sshfs keeps what ssh says to itself unless it gets this option, which versions before 3.6 do not know.
const LET_SSH_SPEAK: &str = "sshfs_verbose";

/// Unmounts with umount(8): for volumes of which nothing is known but that they are mounted. It mounts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Umount;

impl Backend for Umount {
    fn mount<'a>(&'a self, _run: &'a Run<'a>, _place: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async {
            Err(Error::NothingMounted { words: "it is not known how it is mounted".to_owned() })
        })
    }

    fn unmount<'a>(&'a self, run: &'a Run<'a>, place: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            run.run(&["umount".to_owned(), "-c".to_owned(), place.to_string_lossy().into_owned()]).await
        })
    }
}

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
    /// The program that `mount -t fuse` starts in the end.
    #[must_use]
    pub fn helper(&self) -> &str {
        self.driver.strip_prefix("fuse.").unwrap_or_else(|| {
            // mount.fuse takes a device without `#` for the helper itself.
            self.device.split_once('#').map_or(self.device.as_str(), |(helper, _)| helper)
        })
    }

    /// The same with ssh's words in what sshfs says, where they are not there already.
    fn letting_ssh_speak(&self) -> Option<Self> {
        let is_sshfs = self.mount_command.is_none() && self.helper().rsplit('/').next() == Some("sshfs");
        if !is_sshfs || self.opts.contains(LET_SSH_SPEAK) || self.opts.contains("sshfs_debug") {
            return None;
        }
        let separator = if self.opts.is_empty() { "" } else { "," };
        Some(Self { opts: format!("{}{separator}{LET_SSH_SPEAK}", self.opts), ..self.clone() })
    }

    async fn run_mount(&self, run: &Run<'_>, place: &Path) -> Result<(), Error> {
        let words = self.words(self.mount_command.as_ref(), DEFAULT_MOUNT, place).map_err(Error::Template)?;
        run.run(&words).await
    }

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
            if let Some(talkative) = self.letting_ssh_speak() {
                match talkative.run_mount(run, place).await {
                    Err(Error::Failed { words, .. }) if words.contains(LET_SSH_SPEAK) => {}
                    other => return other,
                }
            }
            self.run_mount(run, place).await
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

#[cfg(test)]
mod tests {
    use super::*;

    fn opts(device: &str, driver: &str, opts: &str) -> Option<String> {
        let spec = Spec {
            device: device.to_owned(),
            opts: opts.to_owned(),
            driver: driver.to_owned(),
            mount_command: None,
            unmount_command: None,
        };
        spec.letting_ssh_speak().map(|spec| spec.opts)
    }

    #[test]
    fn sshfs_and_nobody_else_is_asked_for_the_words_of_ssh() {
        assert_eq!(opts("sshfs#u@h:/", "fuse", "port=2").unwrap(), "port=2,sshfs_verbose");
        assert_eq!(opts("/usr/bin/sshfs#u@h:/", "fuse", "").unwrap(), "sshfs_verbose");
        assert_eq!(opts("u@h:/", "fuse.sshfs", "").unwrap(), "sshfs_verbose");
        assert_eq!(opts("sshfs#u@h:/", "fuse", "sshfs_verbose,port=2"), None);
        assert_eq!(opts("sshfs#u@h:/", "fuse", "sshfs_debug"), None);
        assert_eq!(opts("bindfs#/sshfs", "fuse", ""), None);
    }
}
