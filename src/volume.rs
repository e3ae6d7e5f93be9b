//! What a volume is: its name, its options, its record on disk, who uses it, and how it lives.

mod create;
mod entry;
mod error;
mod legacy;
mod name;
mod options;
mod record;
mod references;
mod registry;
mod secrets;
mod store;
mod sweep;
mod uses;
mod view;

pub use self::error::Error;
pub use self::name::{MountId, VolumeName};
pub use self::options::{Kind, Options, OptionsError, Policy};
pub use self::references::{Engine, Reference, References};
pub use self::registry::{Caller, Config, OpenError, Registry};
pub use self::view::{Condition, LastError, Status, View};
