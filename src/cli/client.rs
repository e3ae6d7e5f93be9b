//! Asking the daemon, over its socket.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyperlocal::{UnixClientExt, UnixConnector, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plugin::wire::Failure;

/// A connection to the daemon.
pub(super) struct Client<'a> {
    socket: &'a Path,
    http: HttpClient<UnixConnector, Full<Bytes>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(socket: &'a Path) -> Self {
        Self { socket, http: HttpClient::unix() }
    }

    /// Send a request and read its answer; a refusal is an error with the daemon's own words.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> anyhow::Result<A> {
        let answer = tokio::time::timeout(limit, self.send(path, serde_json::to_vec(body)?)).await;
        let (ok, bytes) = answer.map_err(|_| {
            anyhow!("the daemon on {} did not answer in {limit:.0?}", self.socket.display())
        })??;
        if !ok {
            let failure = serde_json::from_slice::<Failure>(&bytes);
            bail!(
                failure.map_or_else(|_| "the daemon failed without a word".to_owned(), |failure| failure.err)
            );
        }
        serde_json::from_slice(&bytes)
            .context("the daemon's answer makes no sense; is it of another version?")
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> anyhow::Result<(bool, Bytes)> {
        let uri: hyper::Uri = Uri::new(self.socket, path).into();
        let request = hyper::Request::post(uri).body(Full::new(Bytes::from(body)))?;
        let response = self.http.request(request).await.map_err(|error| self.explain(&error))?;
        let ok = response.status().is_success();
        Ok((ok, response.into_body().collect().await?.to_bytes()))
    }

    fn explain(&self, error: &hyper_util::client::legacy::Error) -> anyhow::Error {
        let mut source: Option<&dyn std::error::Error> = Some(error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                let hint = match io.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                        "; start it (`systemctl start easyfuse.socket`, or `easyfuse serve`), or say where it is with --sock"
                    }
                    ErrorKind::PermissionDenied => "; only root may speak to it, try sudo",
                    _ => "",
                };
                return anyhow!("no daemon on {}: {io}{hint}", self.socket.display());
            }
            source = cause.source();
        }
        anyhow!("the daemon on {} hung up: {error}", self.socket.display())
    }
}
