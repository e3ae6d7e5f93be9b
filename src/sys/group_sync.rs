//! One fsync of a directory for all who wait for one.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::durable;

/// A directory whose changes are made durable for many at once.
///
/// Each thread that waits for the disk costs the machine more than the disk does. Those who wait here hold no thread, and
/// all who came while one fsync ran share the next.
#[derive(Clone, Debug)]
pub struct GroupSync(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    running: bool,
    waiting: Vec<oneshot::Sender<io::Result<()>>>,
}

impl GroupSync {
    /// For the directory `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self(Arc::new(Shared { dir, queue: Mutex::default() }))
    }

    /// Return once what was changed in the directory before this call is on the disk.
    ///
    /// # Errors
    /// What the filesystem said; all who shared the fsync hear of it.
    pub async fn sync(&self) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        if self.0.join(done) {
            let shared = self.0.clone();
            drop(tokio::task::spawn_blocking(move || shared.run()));
        }
        match outcome.await {
            Ok(outcome) => outcome,
            // As in `blocking`: nobody runs it any more, since the runtime goes down.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Shared {
    /// Wait for the next fsync; whether somebody has to start it.
    fn join(&self, done: oneshot::Sender<io::Result<()>>) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.push(done);
        !std::mem::replace(&mut queue.running, true)
    }

    /// Those who wait; none: this is over, and whoever comes next starts it again.
    fn take(&self) -> Vec<oneshot::Sender<io::Result<()>>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.running = !queue.waiting.is_empty();
        std::mem::take(&mut queue.waiting)
    }

    fn run(&self) {
        loop {
            let waiting = self.take();
            if waiting.is_empty() {
                return;
            }
            // Started after each of them came, so that it covers what each of them changed. The kernel reports an error
            // once: all of them must get it, for a second fsync would succeed.
            let outcome = durable::sync_dir(&self.dir);
            for done in waiting {
                _ = done.send(match &outcome {
                    Ok(()) => Ok(()),
                    Err(error) => Err(same(error)),
                });
            }
        }
    }
}

fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everybody_is_answered_and_nobody_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let group = GroupSync::new(dir.path().to_owned());
        for _ in 0..20 {
            let tasks: Vec<_> = (0..50)
                .map(|_| {
                    let group = group.clone();
                    tokio::spawn(async move { group.sync().await })
                })
                .collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
        }
        assert!(group.0.queue.lock().unwrap().waiting.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_error_reaches_all_who_shared_it() {
        let group = GroupSync::new("/no/such/directory".into());
        let (one, other) = tokio::join!(group.sync(), group.sync());
        assert_eq!(one.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
