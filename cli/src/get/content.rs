//! A file's bytes, over as many connections as it takes: when one breaks, the next goes on behind what has come, and only if
//! the file is still the same.

use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::{Response, StatusCode};

use crate::client::{Client, Request, broken};
use crate::failure::{Exit, Failure, Outcome};

/// So many connections in a row may bring nothing.
pub const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);

/// How long to wait after so many connections that brought nothing.
pub fn pause(fruitless: u32) -> Duration {
    PAUSE * 2_u32.pow(fruitless)
}

/// Bytes on their way.
pub struct Content<'a> {
    /// How to go on; nothing when that is not possible.
    from: Option<(&'a Client, &'a Request)>,
    stream: BoxStream<'static, reqwest::Result<Bytes>>,
    etag: Option<String>,
    received: u64,
    /// Bytes to come that have come before.
    again: u64,
    fruitless: u32,
}

impl<'a> Content<'a> {
    /// The bytes of an answer to that request.
    pub fn new(response: Response, from: Option<(&'a Client, &'a Request)>) -> Self {
        Self {
            from,
            etag: etag_of(&response).map(str::to_owned),
            stream: response.bytes_stream().boxed(),
            received: 0,
            again: 0,
            fruitless: 0,
        }
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// When connections keep breaking, or the service refuses.
    pub async fn next(&mut self) -> Outcome<Option<Bytes>> {
        loop {
            match self.stream.next().await {
                None if self.again > 0 => {
                    let why = "the file ended before what had come of it already";
                    let failure = Failure::new("the connection broke", why, "repeat the command; see `howdah status`");
                    self.go_on(failure).await?;
                }
                None => return Ok(None),
                Some(Ok(mut bytes)) => {
                    let again = bytes.len().min(usize::try_from(self.again).unwrap_or(usize::MAX));
                    bytes.advance(again);
                    self.again -= again as u64;
                    if bytes.is_empty() {
                        continue;
                    }
                    self.received += bytes.len() as u64;
                    self.fruitless = 0;
                    return Ok(Some(bytes));
                }
                Some(Err(error)) => self.go_on(broken(&error)).await?,
            }
        }
    }

    async fn go_on(&mut self, failure: Failure) -> Outcome {
        let (Some((client, request)), Some(etag)) = (self.from, self.etag.as_deref()) else {
            return Err(failure);
        };
        if self.fruitless == 0 {
            client.hint(&format!("{}: {}; continuing", failure.what, failure.why));
        }
        let rest = format!("bytes={}-", self.received);
        let request = request.clone().header("range", &rest).header("if-range", etag);
        while self.fruitless < TRIES {
            tokio::time::sleep(pause(self.fruitless)).await;
            self.fruitless += 1;
            match client.download(&request).await {
                Ok(response) if response.status() == StatusCode::PARTIAL_CONTENT => {
                    (self.stream, self.again) = (response.bytes_stream().boxed(), 0);
                    return Ok(());
                }
                // The same file from its beginning: something on the way does not know of ranges.
                Ok(response) if etag_of(&response) == Some(etag) => {
                    (self.stream, self.again) = (response.bytes_stream().boxed(), self.received);
                    return Ok(());
                }
                Ok(_) => {
                    return Err(Failure::new(
                        failure.what,
                        "and the file is another one by now",
                        "repeat the command, or name the commit instead of the branch",
                    )
                    .with_exit(Exit::Conflict));
                }
                // The service answered, and no.
                Err(refused) if refused.is_refusal() => return Err(refused),
                Err(_) => {}
            }
        }
        Err(failure)
    }
}

fn etag_of(response: &Response) -> Option<&str> {
    response.headers().get("etag")?.to_str().ok()
}
