//! Printing.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// Write to standard output. A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Write lines of text to standard output.
pub(super) fn print_text(text: &str) -> anyhow::Result<ExitCode> {
    print(format!("{}\n", text.trim_end()).as_bytes())
}

/// Write a value as JSON to standard output.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    print_text(&serde_json::to_string_pretty(value)?)
}
