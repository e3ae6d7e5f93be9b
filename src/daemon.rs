//! The daemon: builds the parts, listens, and goes down in order.

pub mod logging;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::plugin;
use crate::volume::{Config, OpenError, Registry};

/// How long helpers have to end, once requests in flight are given up.
const AFTER_CANCEL: Duration = Duration::from_secs(4);
/// How long connections have to write what is done, and clients to send the rest of a request.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where to listen. All of them are served at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Sockets that systemd passes.
    pub systemd: bool,
    /// A unix socket.
    pub unix: Option<PathBuf>,
    /// TCP addresses.
    pub tcp: Vec<SocketAddr>,
}

/// How long another daemon's locks are waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How soon records that could not be read are tried again.
const LOAD_AGAIN: Duration = Duration::from_secs(2);

/// All that the daemon needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub endpoints: Endpoints,
    /// What to keep and mount where.
    pub volumes: Config,
    /// How long requests in flight have to finish after SIGTERM.
    pub drain_timeout: Duration,
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory that can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A socket that can't be listened on.
    #[error("{0}")]
    Listen(String),
    /// Signals that can't be waited for.
    #[error("could not wait for signals: {0}")]
    Signal(io::Error),
}

/// Run until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let registry = Arc::new(open(&settings.volumes).await?);
    let sockets = sockets::open(&settings.endpoints).await.map_err(Error::Listen)?;

    let stop = CancellationToken::new();
    let work = TaskTracker::new();
    let router = plugin::router(registry.clone(), work.clone());
    let servers = TaskTracker::new();
    let (listeners, _own_socket) = sockets.into_parts();
    for listener in listeners {
        servers.spawn(plugin::serve(listener, router.clone(), stop.clone()));
    }
    let loader = tokio::spawn(start(registry.clone()));

    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    log::info!("{name}: no new requests; those in flight have {:.0?}", settings.drain_timeout);
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing requests")]);
    stop.cancel();
    servers.close();
    work.close();
    let drained = async {
        // Answers are to be written; but a client that sent half a request may never send the rest, so that only work is
        // waited for any longer.
        _ = tokio::time::timeout(LAST_WORDS, servers.wait()).await;
        work.wait().await;
    };
    tokio::pin!(drained);
    let in_time = tokio::time::timeout(settings.drain_timeout, &mut drained).await.is_ok();
    registry.cancel();
    if !in_time {
        log::warn!("requests are still in flight: ending their helpers");
        if tokio::time::timeout(AFTER_CANCEL, drained).await.is_err() {
            log::error!("helpers that do not end are left behind; the next start cleans up");
        }
    }
    _ = tokio::time::timeout(LAST_WORDS, servers.wait()).await;
    loader.abort();
    log::info!("stopped; mounts stay as they are");
    Ok(())
}

/// Open the registry. What another daemon has is tried again for a moment: a process that a killed one was just starting
/// has its locks until it runs its own program.
async fn open(config: &Config) -> Result<Registry, OpenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Registry::open(config.clone()) {
            Err(error) if error.is_busy() && Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PATIENCE / 20).await;
            }
            other => return other,
        }
    }
}

/// Load the records, tell systemd, and look after the volumes from then on.
async fn start(registry: Arc<Registry>) {
    tokio::spawn(watchdog());
    // An answer that says "no such volume", or any other error, would make dockerd forget labels and options for good: so
    // requests wait until the records can be read.
    while let Err(reason) = registry.load().await {
        log::error!("{reason}; trying again");
        notify(&[NotifyState::Ready, NotifyState::Status(&format!("waiting: {reason}"))]);
        tokio::time::sleep(LOAD_AGAIN).await;
    }
    notify(&[NotifyState::Ready, NotifyState::Status("serving volumes")]);
    registry.tend().await;
}

/// Tell systemd that the runtime still turns.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 3);
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("could not tell systemd: {error}");
    }
}
