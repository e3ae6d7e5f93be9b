//! Sockets: systemd's, or our own.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::net::{TcpListener, UnixListener};

use super::Endpoints;
use crate::plugin::Listener;

/// The longest path that a socket address holds (unix(7)).
const PATH_LIMIT: usize = 107;

/// What is listened on.
#[derive(Debug)]
pub(super) struct Sockets {
    listeners: Vec<Listener>,
    own: Option<OwnSocket>,
}

/// A socket file of ours, which goes when we go: without a listener it would cost dockerd 15 s at its start.
#[derive(Debug)]
pub(super) struct OwnSocket {
    path: PathBuf,
    inode: u64,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|data| data.ino() == self.inode) {
            _ = fs::remove_file(&self.path);
        }
    }
}

impl Sockets {
    pub(super) fn into_parts(self) -> (Vec<Listener>, Option<OwnSocket>) {
        (self.listeners, self.own)
    }
}

/// Open all endpoints, or none.
pub(super) async fn open(endpoints: &Endpoints) -> Result<Sockets, String> {
    let mut sockets = Sockets { listeners: Vec::new(), own: None };
    if endpoints.systemd {
        sockets.listeners.extend(inherited()?);
    }
    if let Some(path) = &endpoints.unix {
        let (listener, own) = bind_unix(path)?;
        sockets.listeners.push(Listener::Unix(listener));
        sockets.own = Some(own);
        log::info!("listening on {}", path.display());
    }
    for address in &endpoints.tcp {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| format!("could not listen on {address}: {error}"))?;
        let bound = listener.local_addr().unwrap_or(*address);
        if !bound.ip().is_loopback() {
            log::warn!("{bound} can be reached from other hosts, and whoever reaches it is root on this one");
        }
        log::info!("listening on {bound}, without authentication");
        sockets.listeners.push(Listener::Tcp(listener));
    }
    Ok(sockets)
}

fn inherited() -> Result<Vec<Listener>, String> {
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return Err("systemd passed no socket; start easyfuse.socket (`systemctl start easyfuse.socket`), or leave out \
                    --systemd"
            .to_owned());
    }
    (0..passed.len())
        .map(|index| {
            let failed = |error: std::io::Error| {
                format!("can't use the socket number {index} that systemd passed: {error}")
            };
            if let Ok(Some(socket)) = passed.take_unix_listener(index) {
                keep_to_ourselves(&socket).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                return UnixListener::from_std(socket).map(Listener::Unix).map_err(failed);
            }
            let socket = passed.take_tcp_listener(index).map_err(failed)?;
            let socket = socket
                .ok_or_else(|| format!("the socket number {index} that systemd passed is no listener"))?;
            keep_to_ourselves(&socket).map_err(failed)?;
            socket.set_nonblocking(true).map_err(failed)?;
            TcpListener::from_std(socket).map(Listener::Tcp).map_err(failed)
        })
        .collect()
}

/// A helper that inherited the socket would keep it open after us, and nobody would answer.
fn keep_to_ourselves(socket: &impl AsFd) -> std::io::Result<()> {
    fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Listen on `path`, mode 0600. A file that a dead daemon left is replaced; a live daemon's is not.
fn bind_unix(path: &Path) -> Result<(UnixListener, OwnSocket), String> {
    let failed = |error: std::io::Error| format!("could not listen on {}: {error}", path.display());
    // Made under another name and then renamed, so that nobody finds it before its mode is right.
    let temporary = path.with_extension(format!("{}", std::process::id()));
    if temporary.as_os_str().len() > PATH_LIMIT {
        return Err(format!("{} is too long for a socket; {PATH_LIMIT} bytes are the most", path.display()));
    }
    match fs::symlink_metadata(path) {
        Ok(data) if !std::os::unix::fs::FileTypeExt::is_socket(&data.file_type()) => {
            return Err(format!(
                "{} exists and is no socket; remove it, or give --sock another path",
                path.display()
            ));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => {
                return Err(format!(
                    "another daemon answers on {}; stop it (`systemctl stop easyfuse.socket easyfuse`), or give --sock \
                     another path",
                    path.display()
                ));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                log::info!("replacing {}, which nobody listens on any more", path.display());
            }
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
        }
        Err(error) => return Err(failed(error)),
    }
    _ = fs::remove_file(&temporary);
    let listener = StdUnixListener::bind(&temporary).map_err(failed)?;
    let renamed = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::symlink_metadata(&temporary))
        .and_then(|data| fs::rename(&temporary, path).map(|()| data.ino()));
    let inode = renamed.map_err(|error| {
        _ = fs::remove_file(&temporary);
        failed(error)
    })?;
    let own = OwnSocket { path: path.to_owned(), inode };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((UnixListener::from_std(listener).map_err(failed)?, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/e.sock");
        let (listener, own) = bind_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind_unix(&path).unwrap_err().contains("another daemon answers"));
        // As after kill -9: the listener is gone, the file is not.
        std::mem::forget(own);
        drop(listener);
        // A process that another test starts has the listener too, until it runs its own program.
        while UnixStream::connect(&path).is_ok() {
            tokio::task::yield_now().await;
        }
        let (_listener, own) = bind_unix(&path).unwrap();
        drop(own);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(bind_unix(&path).unwrap_err().contains("is no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"data");
        assert!(bind_unix(&dir.path().join("x".repeat(120))).unwrap_err().contains("too long"));
    }
}
