//! Logs: one line per event on standard error, JSON when it is not a terminal. `HOWDAH_LOG` filters (`info` by default).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. A second call changes nothing, so tests may call it as often as they like.
pub fn init() {
    let filter = EnvFilter::try_from_env("HOWDAH_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().try_init()
    };
}
