//! The routes: each parses a body, asks the registry, and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::peer::Peer;
use super::wire::{self, Admin, BODY_LIMIT, CONTENT_TYPE, Create, Failure, Named, Request, Use};
use crate::volume::{Caller, Registry};

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What all routes share.
#[derive(Clone, Debug)]
struct Plugin {
    /// Nothing until the records are loaded.
    registry: watch::Receiver<Option<Arc<Registry>>>,
    /// The work that requests started, which goes on when their client hangs up.
    work: TaskTracker,
    listed: Arc<ArcSwapOption<Listed>>,
}

/// The last answer to List. Docker asks for it with each `docker volume ls`, `docker system df` and prune, and most of the
/// time nothing has changed.
#[derive(Debug)]
struct Listed {
    /// The registry's version that it shows, or a later one.
    version: u64,
    answer: Bytes,
}

type Answer = Result<Bytes, String>;

/// All routes, over `registry`; what they start is tracked by `work`. As long as there is no registry, requests wait for one,
/// but for those that an engine sends first and without a time limit: they are answered at once.
pub fn router(registry: watch::Receiver<Option<Arc<Registry>>>, work: TaskTracker) -> Router {
    let plugin = Plugin { registry, work, listed: Arc::default() };
    Router::new()
        .route("/Plugin.Activate", fixed(r#"{"Implements":["VolumeDriver"]}"#))
        .route("/VolumeDriver.Capabilities", fixed(r#"{"Capabilities":{"Scope":"local"}}"#))
        .route("/VolumeDriver.Create", post(create))
        .route("/VolumeDriver.Remove", post(remove))
        .route("/VolumeDriver.Mount", post(mount))
        .route("/VolumeDriver.Unmount", post(unmount))
        .route("/VolumeDriver.Path", post(path))
        .route("/VolumeDriver.Get", post(get))
        .route("/VolumeDriver.List", post(list))
        .route("/Easyfuse.Daemon", post(daemon))
        .route("/Easyfuse.Volumes", post(volumes))
        .route("/Easyfuse.Remount", post(remount))
        .route("/Easyfuse.Unmount", post(unmount_all))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(plugin)
}

/// An answer that never changes, also while records load or every volume hangs.
fn fixed(answer: &'static str) -> axum::routing::MethodRouter<Plugin> {
    post(move |request: HttpRequest| async move {
        match read(request).await {
            Ok(_) => respond(StatusCode::OK, Bytes::from_static(answer.as_bytes())),
            Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    })
}

async fn create(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Create, caller| async move {
            let name = required(body.name, Create::EXAMPLE)?;
            registry.create(&name, body.opts.unwrap_or_default(), &caller).await.map_err(describe)?;
            Ok(done())
        })
        .await
}

async fn remove(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Named, caller| async move {
            let name = required(body.name, Named::EXAMPLE)?;
            registry.remove(&name, &caller).await.map_err(describe)?;
            Ok(done())
        })
        .await
}

async fn mount(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Use, caller| async move {
            let (name, id) = (required(body.name, Use::EXAMPLE)?, body.id.unwrap_or_default());
            let target = registry.mount(&name, &id, &caller).await.map_err(describe)?;
            // From here to the answer nothing is waited for: who has hung up by now is the last to do so unnoticed.
            if caller.is_gone() {
                registry.unmount(&name, &id, &caller).await.map_err(describe)?;
            }
            json(&json!({ "Mountpoint": &*target, "Err": "" }))
        })
        .await
}

async fn unmount(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Use, caller| async move {
            let name = required(body.name, Use::EXAMPLE)?;
            registry.unmount(&name, &body.id.unwrap_or_default(), &caller).await.map_err(describe)?;
            Ok(done())
        })
        .await
}

async fn path(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .look(request, async |registry, body: Named| {
            let view = registry.get(&required(body.name, Named::EXAMPLE)?).map_err(describe)?;
            json(&json!({ "Mountpoint": view.mountpoint(), "Err": "" }))
        })
        .await
}

async fn get(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    // dockerd repeats without its body what a restart cut off, and an error would make it forget the volume's labels and
    // options for good. A connection that breaks does not.
    let from_engine = request.headers().get(header::ACCEPT).is_some_and(|accept| accept == CONTENT_TYPE);
    let empty = request.body().size_hint().exact() == Some(0);
    if from_engine && empty && plugin.registry().await.is_none_or(|registry| registry.may_have_cut_off()) {
        return hang_up();
    }
    plugin
        .look(request, async |registry, body: Named| {
            let view = registry.get(&required(body.name, Named::EXAMPLE)?).map_err(describe)?;
            json(&VolumeAnswer { volume: wire::Volume::whole(&view), err: "" })
        })
        .await
}

async fn list(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .look(request, async |registry, _: Named| {
            // Looked at first: a change that comes while the answer is made leaves it out of date, not falsely current.
            let version = registry.version();
            if let Some(listed) = plugin.listed.load().as_ref().filter(|listed| listed.version == version) {
                return Ok(listed.answer.clone());
            }
            let views = registry.list();
            let volumes: Vec<wire::Brief<'_>> = views.iter().map(Into::into).collect();
            let answer = json(&VolumesAnswer { volumes, err: "" })?;
            plugin.listed.store(Some(Arc::new(Listed { version, answer: answer.clone() })));
            Ok(answer)
        })
        .await
}

async fn daemon(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .look(request, async |registry, _: Named| {
            let config = registry.config();
            json(&wire::Daemon {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                state: config.state.to_string_lossy().into_owned(),
                mount_dir: registry.mount_dir().to_string_lossy().into_owned(),
                allow_mount_command: config.policy.allow_mount_command,
            })
        })
        .await
}

async fn volumes(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Named, _| async move {
            let views = registry.list();
            registry.refresh(body.name.as_deref()).await;
            let views = match &body.name {
                Some(name) => vec![registry.get(name).map_err(describe)?],
                None if views.is_empty() => views,
                None => registry.list(),
            };
            json(&VolumesAnswer {
                volumes: views.iter().map(wire::Volume::whole).collect::<Vec<_>>(),
                err: "",
            })
        })
        .await
}

async fn remount(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Admin, caller| async move {
            let name = required(body.name, Admin::EXAMPLE)?;
            registry.remount(&name, body.force, &caller).await.map_err(describe)?;
            Ok(done())
        })
        .await
}

async fn unmount_all(State(plugin): State<Plugin>, request: HttpRequest) -> Response {
    plugin
        .change(request, |registry, body: Admin, caller| async move {
            let name = required(body.name, Admin::EXAMPLE)?;
            registry.unmount_all(&name, body.force, &caller).await.map_err(describe)?;
            Ok(done())
        })
        .await
}

async fn unknown(request: HttpRequest) -> Response {
    let known = "POST /VolumeDriver.Create, Remove, Mount, Unmount, Path, Get, List, Capabilities or /Plugin.Activate";
    let (method, path) = (request.method(), request.uri().path());
    let status = if method == Method::POST { StatusCode::NOT_FOUND } else { StatusCode::METHOD_NOT_ALLOWED };
    failure(status, format!("{method} {path:?} is nothing that a volume plugin answers; use {known}"))
}

impl Plugin {
    /// A request that changes something. Its work goes on when the client hangs up, since what is half done is worse than
    /// what is done in vain; but then it knows.
    async fn change<B, F>(
        &self,
        request: HttpRequest,
        work: impl FnOnce(Arc<Registry>, B, Caller) -> F + Send + 'static,
    ) -> Response
    where
        B: Request + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
        let caller = Caller::new(peer.engine, NUMBER.fetch_add(1, Ordering::Relaxed));
        let body = match read(request).await.and_then(|body| B::parse(&body)) {
            Ok(body) => body,
            Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        let mut waiting = Waiting(Some(caller.clone()));
        // Waited for here, where a client that hangs up ends the request.
        let Some(registry) = self.registry().await else { return hang_up() };
        let task = self.work.spawn(work(registry, body, caller));
        let answer = task.await.unwrap_or_else(|error| {
            log::error!("a request ended in a panic: {error}");
            Err("internal error, see the daemon's log; please report it".to_owned())
        });
        waiting.0 = None;
        reply(answer)
    }

    /// The registry, as soon as there is one; `None` if there will never be any.
    async fn registry(&self) -> Option<Arc<Registry>> {
        if let Some(registry) = &*self.registry.borrow() {
            return Some(registry.clone());
        }
        let mut registry = self.registry.clone();
        registry.wait_for(Option::is_some).await.ok().and_then(|found| found.clone())
    }

    /// A request that only looks, and never waits but for the records.
    async fn look<B: Request>(
        &self,
        request: HttpRequest,
        work: impl AsyncFnOnce(&Registry, B) -> Answer,
    ) -> Response {
        let body = match read(request).await.and_then(|body| B::parse(&body)) {
            Ok(body) => body,
            Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        match self.registry().await {
            Some(registry) => reply(work(&registry, body).await),
            None => hang_up(),
        }
    }
}

/// Dropped with the handler's future when the client hangs up.
struct Waiting(Option<Caller>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(caller) = &self.0 {
            caller.hang_up();
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeAnswer {
    volume: wire::Volume,
    err: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumesAnswer<V> {
    volumes: Vec<V>,
    err: &'static str,
}

/// Read a body, whatever its content type.
async fn read(request: HttpRequest) -> Result<Bytes, String> {
    let over_tcp = request.extensions().get::<Peer>().is_some_and(|peer| peer.over_tcp);
    if over_tcp && request.headers().contains_key(header::ORIGIN) {
        return Err("a web page may not speak to this plugin; no engine sends an Origin header".to_owned());
    }
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect();
    match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err("the request body is larger than 1 MiB; no volume needs that much".to_owned())
        }
        Ok(Err(error)) => Err(format!("the request body could not be read: {error}")),
        Err(_) => Err("the request body did not arrive within 30 s".to_owned()),
    }
}

fn required(name: Option<String>, example: &str) -> Result<String, String> {
    // Docker repeats a request without its body: whoever typed the command should not have to know that.
    name.ok_or_else(|| {
        format!(
            "Name is missing; if a restart of easyfuse cut the request off, try again; it should look like {example}"
        )
    })
}

#[allow(clippy::needless_pass_by_value, reason = "fits map_err")]
fn describe(error: crate::volume::Error) -> String {
    error.to_string()
}

fn done() -> Bytes {
    Bytes::from_static(br#"{"Err":""}"#)
}

fn json(value: &impl Serialize) -> Answer {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| format!("internal error: {error}"))
}

fn reply(answer: Answer) -> Response {
    match answer {
        Ok(body) => respond(StatusCode::OK, body),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn failure(status: StatusCode, message: String) -> Response {
    // Docker shows it on one line.
    let err =
        if message.contains(char::is_control) { message.replace(char::is_control, " ") } else { message };
    respond(status, serde_json::to_vec(&Failure { err }).unwrap_or_default())
}

/// In the extensions of a response that is not to be sent: the connection ends instead.
#[derive(Clone, Copy, Debug)]
pub(super) struct HangUp;

/// No answer. To an engine this is a plugin that is not there just now, and nothing that it would draw conclusions from.
fn hang_up() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(HangUp);
    response
}

fn respond(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}
