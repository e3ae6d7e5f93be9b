//! `docker volume create -o key=value`: what the options mean.

use std::collections::BTreeMap;

use crate::mount::command::{DEFAULT_MOUNT, DEFAULT_UNMOUNT, Spec};
use crate::mount::template::{Placeholder, Template, TemplateError};
use crate::sys::program;

use super::secrets;

/// Options as Docker sends them.
pub type Options = BTreeMap<String, String>;

/// What the operator allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether volumes may name their own commands (`--allow-mount-command`).
    pub allow_mount_command: bool,
}

/// What a volume is, from its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A program mounts it.
    Command(Spec),
}

/// Why options make no volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A key that means nothing.
    #[error(
        "unknown option `{key}`{}; known ones are device, o, type, mount_command and unmount_command",
        nearest(key)
    )]
    Unknown {
        /// The key.
        key: String,
    },
    /// The same thing twice.
    #[error("options `{first}` and `{second}` mean the same; give one of them")]
    Twice {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// No device.
    #[error("option `device` is missing; give it as in `-o device=sshfs#user@host:/path`")]
    NoDevice,
    /// A device that `mount` would take for an option, or that can't be passed.
    #[error("option `device` is {0}; write it as in `-o device=sshfs#user@host:/path`")]
    Device(&'static str),
    /// A type that there isn't.
    #[error("unknown type `{0}`; use `fuse`, or `fuse.<helper>` as in `-o type=fuse.sshfs`")]
    Type(String),
    /// The embedded EC2 filesystem is not in this version.
    #[error("type `ec2fs` is not in this version of easyfuse; use `fuse` or `fuse.<helper>`")]
    NoEc2fs,
    /// No such program.
    #[error("this host has no program `{program}`, which {why}; {install}")]
    NoProgram {
        /// The program.
        program: String,
        /// Who needs it.
        why: &'static str,
        /// What to do.
        install: String,
    },
    /// A path that leads into a filesystem which hangs.
    #[error(
        "`{0}` gives no answer: its filesystem hangs; wait for its server, or name a program on a local disk"
    )]
    NoAnswer(String),
    /// A template, but the operator allows none.
    #[error("option `{0}` is refused: this daemon runs without --allow-mount-command")]
    CommandRefused(&'static str),
    /// A template that can't be parsed.
    #[error("option `{option}`: {error}")]
    Template {
        /// The option.
        option: &'static str,
        /// What is wrong.
        error: TemplateError,
    },
    /// A value that no program can be given.
    #[error("option `{0}` has a NUL or another control character; leave it out")]
    Control(&'static str),
    /// Mount options that are not a list.
    #[error("option `o` is {0}; write mount options as in `-o o=port=2022,reconnect`")]
    MountOptions(&'static str),
}

/// Each option with its other names.
const KEYS: [(&str, &[&str]); 5] = [
    ("device", &[]),
    ("o", &["opts", "options"]),
    ("type", &["driver"]),
    ("mount_command", &[]),
    ("unmount_command", &[]),
];

fn nearest(key: &str) -> String {
    let known = KEYS.iter().flat_map(|(name, others)| std::iter::once(name).chain(others.iter()));
    let near = known.map(|name| (strsim::osa_distance(name, &key.to_ascii_lowercase()), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!(", did you mean `{name}`?"),
        _ => String::new(),
    }
}

impl Kind {
    /// What `options` mean, without a look at this host.
    ///
    /// # Errors
    /// The first thing that is wrong, and what would be right.
    pub fn parse(options: &Options) -> Result<Self, OptionsError> {
        let known = |key: &str| KEYS.iter().any(|(name, others)| *name == key || others.contains(&key));
        if let Some(key) = options.keys().find(|key| !known(key)) {
            return Err(OptionsError::Unknown { key: key.clone() });
        }
        let [device, opts, driver, mount, unmount] = KEYS.map(|(name, others)| take(options, name, others));
        let (device, opts, driver) = (device?, opts?, driver?);
        let template = |option: &'static str, source: Option<&str>| match source {
            None | Some("") => Ok(None),
            Some(source) => Template::parse(source).map(Some).map_err(|error| {
                let secrets = secrets::command_secrets(source);
                let error = error.map_words(|words| secrets::cut_out(words, &secrets));
                OptionsError::Template { option, error }
            }),
        };
        let spec = Spec {
            device: device.unwrap_or_default().to_owned(),
            opts: opts.unwrap_or_default().to_owned(),
            driver: parse_type(driver)?,
            mount_command: template("mount_command", mount?)?,
            unmount_command: template("unmount_command", unmount?)?,
        };
        check_device(&spec)?;
        if spec.mount_command.is_none() {
            check_mount_options(&spec.opts)?;
        }
        Ok(Self::Command(spec))
    }

    /// Whether this host and its operator can do what the options ask for. Programs that are named by a path are looked for by
    /// [`Self::check_paths`].
    ///
    /// # Errors
    /// A program that is missing, or a command that is not allowed.
    pub fn check(&self, policy: Policy) -> Result<(), OptionsError> {
        let Self::Command(spec) = self;
        self.check_policy(policy)?;
        if spec.mount_command.is_none() && program::find("mount.fuse").is_none() {
            return Err(missing("mount.fuse", "`mount -t fuse` needs", "type `apt install fuse3`"));
        }
        for (program, why) in programs(spec).into_iter().filter(|(program, _)| !is_path(program)) {
            if program::find(program).is_none() {
                return Err(missing(program, why, "install it, or correct the option"));
            }
        }
        let helper = spec.helper();
        if spec.mount_command.is_none() && !is_path(helper) {
            // mount(8) prefers a helper of its own for the type.
            let own = program::find_helper(&format!("mount.{}", spec.driver));
            if (own.is_none() || spec.driver == "fuse") && program::find_helper(helper).is_none() {
                return Err(missing(helper, HELPER, &install(helper)));
            }
        }
        Ok(())
    }

    /// Whether the programs that are named by a path are there. A path may lead into a filesystem that hangs.
    ///
    /// # Errors
    /// A program that is missing, or whose path gives no answer.
    pub async fn check_paths(&self) -> Result<(), OptionsError> {
        let Self::Command(spec) = self;
        let mut wanted = programs(spec);
        if spec.mount_command.is_none() {
            wanted.push((spec.helper(), HELPER));
        }
        for (program, why) in wanted.into_iter().filter(|(program, _)| is_path(program)) {
            match program::is_executable_at(program).await {
                Some(true) => {}
                Some(false) => return Err(missing(program, why, "install it, or correct the path")),
                None => return Err(OptionsError::NoAnswer(program.to_owned())),
            }
        }
        Ok(())
    }

    /// Whether the operator allows it; asked again before each mount, since the daemon's flags may have changed.
    ///
    /// # Errors
    /// A command that is not allowed.
    pub fn check_policy(&self, policy: Policy) -> Result<(), OptionsError> {
        let Self::Command(spec) = self;
        match (&spec.mount_command, &spec.unmount_command) {
            _ if policy.allow_mount_command => Ok(()),
            (Some(_), _) => Err(OptionsError::CommandRefused("mount_command")),
            (_, Some(_)) => Err(OptionsError::CommandRefused("unmount_command")),
            (None, None) => Ok(()),
        }
    }

    /// `text` without the secrets that the options hold.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let Self::Command(spec) = self;
        let mut found = secrets::secrets(&spec.device, &spec.opts);
        for command in [&spec.mount_command, &spec.unmount_command].into_iter().flatten() {
            found.extend(secrets::command_secrets(command.source()));
        }
        secrets::cut_out(text, &found)
    }
}

/// Options that may be shown.
#[must_use]
pub(super) fn masked(options: &Options) -> Options {
    let mask = |(key, value): (&String, &String)| {
        let shown = match key.as_str() {
            "device" => secrets::mask_device(value),
            "mount_command" | "unmount_command" => secrets::mask_command(value),
            _ => secrets::mask_options(value),
        };
        (key.clone(), shown)
    };
    options.iter().map(mask).collect()
}

/// The value of an option under any of its names. One that is there twice with the same value is there once.
fn take<'a>(
    options: &'a Options,
    name: &'static str,
    others: &[&'static str],
) -> Result<Option<&'a str>, OptionsError> {
    let mut found: Option<(&'static str, &str)> = None;
    for key in std::iter::once(name).chain(others.iter().copied()) {
        let Some(value) = options.get(key) else { continue };
        if value.chars().any(|c| c.is_control() && c != '\n') {
            return Err(OptionsError::Control(key));
        }
        match found {
            Some((first, other)) if other != value => return Err(OptionsError::Twice { first, second: key }),
            _ => found = Some((key, value)),
        }
    }
    Ok(found.map(|(_, value)| value))
}

fn parse_type(driver: Option<&str>) -> Result<String, OptionsError> {
    match driver {
        None | Some("" | "fuse") => Ok("fuse".to_owned()),
        Some("ec2fs") => Err(OptionsError::NoEc2fs),
        Some(other) => match other.strip_prefix("fuse.") {
            Some(helper) if is_word(helper) => Ok(other.to_owned()),
            _ => Err(OptionsError::Type(other.to_owned())),
        },
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c))
}

fn check_device(spec: &Spec) -> Result<(), OptionsError> {
    let needed = spec.mount_command.as_ref().is_none_or(|template| template.uses(Placeholder::Device));
    if spec.device.is_empty() {
        return if needed { Err(OptionsError::NoDevice) } else { Ok(()) };
    }
    if spec.mount_command.is_some() {
        return Ok(());
    }
    if spec.device.starts_with('-') {
        return Err(OptionsError::Device("a word that mount takes for an option"));
    }
    if spec.device.contains('\n') {
        return Err(OptionsError::Device("of more than one line"));
    }
    match spec.helper() {
        "" => Err(OptionsError::Device("without a helper before the `#`")),
        helper if !is_word(helper.trim_start_matches('/').replace('/', "_").as_str()) => {
            Err(OptionsError::Device("without a helper's name before the first `#`"))
        }
        _ => Ok(()),
    }
}

/// Mount options are a list of words; an empty element would reach the helper as an option without a name.
fn check_mount_options(opts: &str) -> Result<(), OptionsError> {
    for line in opts.split('\n').filter(|line| !line.is_empty()) {
        if line.split(',').any(|option| option.starts_with('=')) {
            return Err(OptionsError::MountOptions("a value without a name"));
        }
        if line.starts_with('-') {
            return Err(OptionsError::MountOptions("a flag"));
        }
    }
    Ok(())
}

/// Why a helper is needed.
const HELPER: &str = "the device or type names";

/// The programs of the templates, or of the commands that stand for them, each with why it is needed.
fn programs(spec: &Spec) -> Vec<(&str, &'static str)> {
    fn of<'a>(template: Option<&'a Template>, usual: &'a str) -> Option<&'a str> {
        template.map_or(usual.split(' ').next(), Template::program)
    }
    let mount =
        of(spec.mount_command.as_ref(), DEFAULT_MOUNT).map(|program| (program, "`mount_command` runs"));
    let unmount =
        of(spec.unmount_command.as_ref(), DEFAULT_UNMOUNT).map(|program| (program, "`unmount_command` runs"));
    mount.into_iter().chain(unmount).collect()
}

fn is_path(program: &str) -> bool {
    program.contains('/')
}

/// What to type for a helper that is missing.
fn install(helper: &str) -> String {
    // Those whose package in Debian has their name.
    let packaged = [
        "sshfs",
        "bindfs",
        "rclone",
        "s3fs",
        "gocryptfs",
        "encfs",
        "squashfuse",
        "fuse-overlayfs",
        "curlftpfs",
    ];
    if packaged.contains(&helper) {
        return format!("type `apt install {helper}`");
    }
    "install it, or write its full path".to_owned()
}

fn missing(program: &str, why: &'static str, install: &str) -> OptionsError {
    OptionsError::NoProgram { program: program.to_owned(), why, install: install.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<Spec, OptionsError> {
        Kind::parse(&options(pairs)).map(|Kind::Command(spec)| spec)
    }

    #[test]
    fn the_usual_volume() {
        let spec = parse(&[("device", "sshfs#u@h:/p"), ("o", "port=2022,reconnect")]).unwrap();
        assert_eq!(
            (spec.device.as_str(), spec.opts.as_str(), spec.driver.as_str()),
            ("sshfs#u@h:/p", "port=2022,reconnect", "fuse")
        );
        assert_eq!(parse(&[("device", "u@h:/p"), ("type", "fuse.sshfs")]).unwrap().driver, "fuse.sshfs");
    }

    #[test]
    fn other_names_of_options() {
        for (key, other) in [("opts", "driver"), ("options", "type")] {
            let spec = parse(&[("device", "x#y"), (key, "ro"), (other, "fuse")]).unwrap();
            assert_eq!(spec.opts, "ro");
        }
        let twice = parse(&[("device", "x#y"), ("o", "a"), ("opts", "b")]).unwrap_err();
        assert_eq!(twice, OptionsError::Twice { first: "o", second: "opts" });
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        let message = |key: &str| parse(&[("device", "x#y"), (key, "1")]).unwrap_err().to_string();
        assert!(message("devise").starts_with("unknown option `devise`, did you mean `device`?"));
        assert!(message("mount-command").contains("did you mean `mount_command`?"));
        assert!(!message("zzzzzz").contains("did you mean"));
    }

    #[test]
    fn what_is_wrong_with_a_device() {
        assert_eq!(parse(&[]).unwrap_err(), OptionsError::NoDevice);
        assert_eq!(parse(&[("device", "")]).unwrap_err(), OptionsError::NoDevice);
        for device in ["-o suid", "#x", "a\nb#c", "u@h:/p"] {
            assert!(matches!(parse(&[("device", device)]), Err(OptionsError::Device(_))), "{device}");
        }
        assert!(matches!(parse(&[("device", "a\0b")]), Err(OptionsError::Control("device"))));
        assert!(parse(&[("mount_command", "p {target}")]).is_ok());
        assert_eq!(parse(&[("mount_command", "p {device}")]).unwrap_err(), OptionsError::NoDevice);
    }

    #[test]
    fn types() {
        for bad in ["nfs", "fuse.", "fuse.a/b", "fuse.-x", "FUSE"] {
            assert_eq!(
                parse(&[("device", "x#y"), ("type", bad)]).unwrap_err(),
                OptionsError::Type(bad.to_owned())
            );
        }
        assert_eq!(parse(&[("type", "ec2fs")]).unwrap_err(), OptionsError::NoEc2fs);
    }

    #[test]
    fn commands_need_the_operators_word() {
        let kind = Kind::parse(&options(&[("mount_command", "true"), ("unmount_command", "true")])).unwrap();
        assert_eq!(kind.check(Policy::default()), Err(OptionsError::CommandRefused("mount_command")));
        assert_eq!(kind.check(Policy { allow_mount_command: true }), Ok(()));
    }

    #[test]
    fn a_missing_helper_is_named() {
        let kind = Kind::parse(&options(&[("mount_command", "no-such-helper {target}")])).unwrap();
        let error = kind.check(Policy { allow_mount_command: true }).unwrap_err().to_string();
        assert!(error.contains("no program `no-such-helper`"), "{error}");
    }

    #[test]
    fn secrets_are_neither_shown_nor_passed_on_in_words() {
        let options = options(&[("device", "x#y"), ("o", "password=hunter2,ro")]);
        assert_eq!(masked(&options)["o"], "password=***,ro");
        assert_eq!(Kind::parse(&options).unwrap().redact("bad password hunter2"), "bad password ***");
    }
}
