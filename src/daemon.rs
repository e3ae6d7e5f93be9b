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
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::plugin;
use crate::sys::blocking;
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
/// How soon directories and records that could not be had are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How often the log repeats what has to be mended.
const REMIND: Duration = Duration::from_secs(60);

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
    /// A fault of the daemon's own.
    #[error("the daemon's own work ended, which is a fault: {0}")]
    Ended(String),
    /// Signals that can't be waited for.
    #[error("could not wait for signals: {0}")]
    Signal(io::Error),
}

/// Run until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting. With sockets of systemd nothing does: engines can connect whether there is a daemon or not,
/// and one that does not answer would hang dockerd's start, so it answers what it can and tries again.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let (endpoints, cancel) = (settings.endpoints, CancellationToken::new());
    let first = open_registry(settings.volumes.clone(), cancel.clone()).await;
    let first = match first {
        Err(error) if !endpoints.systemd => return Err(error.into()),
        other => other,
    };
    serve(&endpoints, settings.drain_timeout, cancel.clone(), async move |publish| {
        let registry = opened(first, settings.volumes, cancel).await;
        load(&registry).await;
        publish.send_replace(Some(registry.clone()));
        notify(&[NotifyState::Ready, NotifyState::Status("serving volumes")]);
        registry.tend().await;
    })
    .await
}

/// Answer on systemd's sockets that there is a plugin, and nothing else, until SIGTERM or SIGINT: for settings that make no
/// sense, which `reason` says.
///
/// # Errors
/// When systemd passed no socket.
pub async fn wait_for_mending(reason: String) -> Result<(), Error> {
    let endpoints = Endpoints { systemd: true, ..Endpoints::default() };
    serve(&endpoints, Duration::ZERO, CancellationToken::new(), async move |publish| {
        // Nobody will ever publish a registry, so that requests are hung up on and none waits.
        drop(publish);
        loop {
            log::error!("no volume can be used until this is mended and easyfuse restarted: {reason}");
            notify(&[NotifyState::Ready, NotifyState::Status(&format!("waiting to be mended: {reason}"))]);
            tokio::time::sleep(REMIND).await;
        }
    })
    .await
}

type Publish = watch::Sender<Option<Arc<Registry>>>;

/// Listen, run `work` beside, which publishes the registry, and go down in order.
async fn serve<W: Future<Output = ()> + Send + 'static>(
    endpoints: &Endpoints,
    drain_timeout: Duration,
    cancel: CancellationToken,
    work: impl FnOnce(Publish) -> W,
) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let sockets = sockets::open(endpoints).await.map_err(Error::Listen)?;
    let (publish, registry) = watch::channel(None);
    let (stop, requests, servers) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let router = plugin::router(registry, requests.clone());
    let (listeners, _own_socket) = sockets.into_parts();
    for listener in listeners {
        servers.spawn(plugin::serve(listener, router.clone(), stop.clone()));
    }
    let watchdog = tokio::spawn(watchdog());
    let mut work = tokio::spawn(work(publish));

    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        // It never ends by itself: whoever started this may do better with a new one.
        ended = &mut work => return Err(Error::Ended(ended.err().map(|error| error.to_string()).unwrap_or_default())),
    };
    log::info!("{name}: no new requests; those in flight have {drain_timeout:.0?}");
    let at_most = drain_timeout + AFTER_CANCEL + LAST_WORDS * 2;
    let at_most = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing requests"),
        NotifyState::ExtendTimeoutUsec(at_most),
    ]);
    stop.cancel();
    servers.close();
    requests.close();
    let drained = async {
        // Answers are to be written; but a client that sent half a request may never send the rest, so that only work is
        // waited for any longer.
        _ = tokio::time::timeout(LAST_WORDS, servers.wait()).await;
        requests.wait().await;
    };
    tokio::pin!(drained);
    let in_time = tokio::time::timeout(drain_timeout, &mut drained).await.is_ok();
    cancel.cancel();
    if !in_time {
        log::warn!("requests are still in flight: ending their helpers");
        if tokio::time::timeout(AFTER_CANCEL, drained).await.is_err() {
            log::error!("helpers that do not end are left behind; the next start cleans up");
        }
    }
    _ = tokio::time::timeout(LAST_WORDS, servers.wait()).await;
    watchdog.abort();
    work.abort();
    log::info!("stopped; mounts stay as they are");
    Ok(())
}

/// Open the registry. What another daemon has is tried again for a moment: a process that a killed one was just starting
/// has its locks until it runs its own program.
async fn open_registry(config: Config, cancel: CancellationToken) -> Result<Registry, OpenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let (config, cancel) = (config.clone(), cancel.clone());
        match blocking(move || Registry::open(config, cancel)).await {
            Err(error) if error.is_busy() && Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PATIENCE / 20).await;
            }
            other => return other,
        }
    }
}

/// The registry, tried again until its directories can be had.
async fn opened(
    first: Result<Registry, OpenError>,
    config: Config,
    cancel: CancellationToken,
) -> Arc<Registry> {
    let mut outcome = first;
    loop {
        match outcome {
            Ok(registry) => return Arc::new(registry),
            Err(error) => wait_after(&error.to_string()).await,
        }
        outcome = open_registry(config.clone(), cancel.clone()).await;
    }
}

/// Load the records. An answer that says "no such volume", or any other error, would make dockerd forget labels and options for
/// good: so requests wait until the records can be read.
async fn load(registry: &Registry) {
    while let Err(reason) = registry.load().await {
        wait_after(&reason).await;
    }
}

async fn wait_after(reason: &str) {
    log::error!("{reason}; trying again");
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("waiting: {reason}"))]);
    tokio::time::sleep(TRY_AGAIN).await;
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
