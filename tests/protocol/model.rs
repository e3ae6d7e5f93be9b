//! Random sequences of calls agree with a model of a few lines.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::uses;
use crate::support::*;

#[derive(Debug, Clone, Copy)]
enum Call {
    Create { name: usize, options: usize },
    Mount { name: usize, id: usize },
    Unmount { name: usize, id: usize },
    Remove { name: usize },
    Restart { crash: bool },
}

fn call() -> impl Strategy<Value = Call> {
    let (name, id, options) = (0..3_usize, 0..3_usize, 0..2_usize);
    prop_oneof![
        3 => (name.clone(), options).prop_map(|(name, options)| Call::Create { name, options }),
        5 => (name.clone(), id.clone()).prop_map(|(name, id)| Call::Mount { name, id }),
        5 => (name.clone(), id).prop_map(|(name, id)| Call::Unmount { name, id }),
        2 => name.prop_map(|name| Call::Remove { name }),
        1 => any::<bool>().prop_map(|crash| Call::Restart { crash }),
    ]
}

/// A volume as it should be: its options, and how often each ID uses it.
#[derive(Debug, Default)]
struct Model(BTreeMap<String, (usize, BTreeMap<String, u64>)>);

impl Model {
    /// Whether the call succeeds.
    fn expect(&mut self, call: Call, name: &str) -> bool {
        match call {
            Call::Create { options, .. } => {
                self.0.entry(name.into()).or_insert((options, BTreeMap::new())).0 == options
            }
            Call::Mount { id, .. } => {
                let volume = self.0.get_mut(name);
                volume.map(|(_, uses)| *uses.entry(mount_id(id)).or_default() += 1).is_some()
            }
            Call::Unmount { id, .. } => {
                let Some((_, uses)) = self.0.get_mut(name) else { return false };
                if let Some(count) = uses.get_mut(&mount_id(id)) {
                    *count -= 1;
                }
                uses.retain(|_, count| *count > 0);
                true
            }
            Call::Remove { .. } => {
                let unused = self.0.get(name).is_some_and(|(_, uses)| uses.is_empty());
                unused && self.0.remove(name).is_some()
            }
            Call::Restart { .. } => true,
        }
    }
}

fn perform(daemon: &mut Daemon, call: Call, name: &str) -> bool {
    match call {
        Call::Create { options, .. } => {
            let source = format!("bindfs#{}", daemon.source(&options.to_string()).display());
            daemon
                .create(name, &[("device", &source), ("mount_command", "mount -t fuse {device} {target}")])
                .is_ok()
        }
        Call::Mount { id, .. } => daemon.mount(name, &mount_id(id)).is_ok(),
        Call::Unmount { id, .. } => daemon.unmount(name, &mount_id(id)).is_ok(),
        Call::Remove { .. } => daemon.remove(name).is_ok(),
        Call::Restart { crash } => {
            if crash {
                daemon.kill9();
                daemon.start_again();
            } else {
                daemon.restart();
            }
            true
        }
    }
}

#[test]
fn any_sequence_of_calls_leaves_what_it_should() {
    require!(Bindfs);
    let config = Config { cases: 12, max_shrink_iters: 100, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&prop::collection::vec(call(), 1..40), |calls| {
        let mut daemon = Daemon::builder().args(["--allow-mount-command"]).start();
        let mut model = Model::default();
        for call in calls {
            let name = match call {
                Call::Create { name, .. } | Call::Mount { name, .. } => name,
                Call::Unmount { name, .. } | Call::Remove { name } => name,
                Call::Restart { .. } => 0,
            };
            let name = format!("v{name}");
            let expected = model.expect(call, &name);
            prop_assert_eq!(perform(&mut daemon, call, &name), expected, "{:?}", call);
            prop_assert_eq!(daemon.names(), model.0.keys().cloned().collect::<Vec<_>>());
            for (name, (_, expected)) in &model.0 {
                let expected: Vec<_> = expected.clone().into_iter().collect();
                prop_assert_eq!(
                    is_mounted(&daemon.mntpt().join(name)),
                    !expected.is_empty(),
                    "{:?} {}",
                    call,
                    name
                );
                prop_assert_eq!(uses(&daemon, name), expected, "{:?} {}", call, name);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
