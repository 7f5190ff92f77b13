//! Bytes in and out, and answers that come line by line.

use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Body, Response};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc::Receiver;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use super::{Client, Request, Target, broken, problem_of, read, unreachable};
use crate::failure::{Failure, Outcome};

impl Client {
    /// Asks the data plane for bytes, directly where it can be reached.
    ///
    /// # Errors
    /// What it answers.
    pub async fn download(&self, request: &Request) -> Outcome<Response> {
        self.send(Target::Direct, request).await
    }

    /// The pages of a list of the control plane, as many rows as asked for.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control_list_at_most<T: DeserializeOwned>(&self, request: Request, most: usize) -> Outcome<Vec<T>> {
        self.pages(Target::Control, request, Some(most)).await
    }

    /// Asks the control plane for bytes.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control_download(&self, request: &Request) -> Outcome<Response> {
        self.send(Target::Control, request).await
    }

    /// Wakes the data plane, renews the token and finds out where it is.
    ///
    /// # Errors
    /// What it answers.
    pub async fn reach(&self) -> Outcome {
        self.send(Target::Direct, &Request::get("/healthz")).await.map(drop)
    }

    /// Asks the data plane for something small as it is asked for bytes; reaches it too.
    ///
    /// # Errors
    /// What it answers.
    pub async fn plane_directly<T: DeserializeOwned>(&self, request: &Request) -> Outcome<T> {
        read(self.send(Target::Direct, request).await?).await
    }

    /// Sends a body that can be sent only once. The plane must have been reached before.
    ///
    /// # Errors
    /// What the plane answers.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        request: &Request,
        body: Receiver<Result<Bytes, std::io::Error>>,
    ) -> Outcome<T> {
        let (builder, base) = self.prepare(Target::Direct, request).await?;
        let response = builder
            .header("content-type", "application/x-tar")
            .body(Body::wrap_stream(ReceiverStream::new(body)))
            .send()
            .await
            .map_err(|e| unreachable(&base, &e))?;
        if !response.status().is_success() {
            return Err(problem_of(response).await);
        }
        read(response).await
    }

    /// Reads JSON lines as they come.
    ///
    /// # Errors
    /// What the plane answers, a broken connection, or what `each` returns.
    pub async fn lines<T: DeserializeOwned>(&self, request: &Request, mut each: impl FnMut(T) -> Outcome) -> Outcome {
        let response = self.send(Target::Plane, request).await?;
        let stream = response
            .bytes_stream()
            .map(|chunk| chunk.map_err(std::io::Error::other));
        let mut lines = BufReader::new(StreamReader::new(stream)).lines();
        loop {
            let line = lines
                .next_line()
                .await
                .map_err(|e| Failure::new("the connection broke", e, "repeat the command; see `howdah status`"))?;
            let Some(line) = line else { return Ok(()) };
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(value) => each(value)?,
                // A stream that fails midway ends in a problem document.
                Err(error) => {
                    return Err(serde_json::from_str(&line).map_or_else(
                        |_| Failure::new("the service's answer was not understood", error, "check the versions"),
                        Failure::from_problem,
                    ));
                }
            }
        }
    }
}

/// The body of an answer as a reader for code that is not asynchronous; call it outside of the runtime's threads.
pub fn blocking_reader(response: Response) -> impl std::io::Read + Send {
    let stream = response
        .bytes_stream()
        .map(|chunk| chunk.map_err(|e| std::io::Error::other(broken(&e).why)));
    tokio_util::io::SyncIoBridge::new(StreamReader::new(Box::pin(stream)))
}
