//! Where the log goes: to the journal with fields when systemd started this, else to stderr.

use std::io;

use log::LevelFilter;

/// Start logging.
///
/// # Errors
/// When the journal's socket can't be opened.
pub fn start(level: LevelFilter) -> io::Result<()> {
    if systemd_journal_logger::connected_to_journal() {
        let journal =
            systemd_journal_logger::JournalLog::new()?.with_syslog_identifier("easyfuse".to_owned());
        journal.install().map_err(io::Error::other)?;
        log::set_max_level(level);
        return Ok(());
    }
    env_logger::Builder::new()
        .filter_level(level)
        .format_target(false)
        .format_timestamp_millis()
        .try_init()
        .map_err(io::Error::other)
}
