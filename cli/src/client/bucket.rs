//! Bytes straight into the bucket, by requests that the service has signed. Such an address is a secret and stands in no message;
//! of us the bucket learns nothing but the bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use indicatif::ProgressBar;
use reqwest::Body;
use reqwest::header::CONTENT_LENGTH;

use super::{Client, chain, is_here};

/// So much is handed to the connection at once.
const SLICE_BYTES: usize = 256 << 10;
/// For one pack: 24 MiB at 1 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(240);
const TRIES: u32 = 5;
/// A bucket that cannot be connected to is seldom one that can be in a moment.
const TRIES_TO_CONNECT: u32 = 2;
const PAUSE: Duration = Duration::from_millis(500);

impl Client {
    /// Puts bytes to an address that the service has signed, again when that may help. `bar` counts them.
    ///
    /// # Errors
    /// Why they are not there.
    pub async fn put_to_bucket(&self, url: &str, bytes: &Bytes, bar: &ProgressBar) -> Result<(), String> {
        let here = is_here(url);
        if here && !is_here(&self.settings.url) {
            return Err("its address is one of another machine".to_owned());
        }
        let http = if here { &self.http_here } else { &self.http };
        let mut tries = 0;
        loop {
            tries += 1;
            let request = http.put(url).timeout(PATIENCE).header(CONTENT_LENGTH, bytes.len());
            let sent = Arc::new(AtomicU64::new(0));
            let (why, may_help) = match request.body(counted(bytes, bar, &sent)).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let passing = status.is_server_error() || [408, 429].contains(&status.as_u16());
                    (format!("it answered {status}"), passing && tries < TRIES)
                }
                Err(error) if error.is_connect() => (chain(&error), tries < TRIES_TO_CONNECT),
                Err(error) => (chain(&error), tries < TRIES),
            };
            bar.set_position(bar.position().saturating_sub(sent.load(Ordering::Relaxed)));
            if !may_help {
                return Err(why);
            }
            tokio::time::sleep(PAUSE * 2_u32.pow(tries - 1)).await;
        }
    }
}

fn counted(bytes: &Bytes, bar: &ProgressBar, sent: &Arc<AtomicU64>) -> Body {
    let (bytes, bar, sent) = (bytes.clone(), bar.clone(), Arc::clone(sent));
    let slices = (0..bytes.len()).step_by(SLICE_BYTES).map(move |at| {
        let slice = bytes.slice(at..bytes.len().min(at + SLICE_BYTES));
        bar.inc(slice.len() as u64);
        sent.fetch_add(slice.len() as u64, Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(slice)
    });
    Body::wrap_stream(stream::iter(slices))
}
