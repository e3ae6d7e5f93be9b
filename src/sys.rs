//! Thin edges to the machine: `/proc`, the mount table, durable files, programs.
//!
//! Everything here blocks. Async code calls it through [`blocking`].

pub mod durable;
pub mod file_flags;
pub mod group_sync;
pub mod json;
pub mod mount_point;
pub mod mountinfo;
pub mod namespaces;
pub mod process;
pub mod program;
pub mod spawn;
pub mod systemd;

/// Run `work` on the blocking pool.
///
/// A panic in `work` is resumed in the caller, so that it is seen once, where it matters.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => std::panic::resume_unwind(payload),
            // The pool refuses work only while the runtime goes down, and then nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}
