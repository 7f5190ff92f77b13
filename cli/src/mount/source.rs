//! Where a mount gets what it shows from: the data plane, over HTTP, always by the commit's id.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use contract::api::{Commit, FileInfo, Page};
use contract::problem::ProblemKind;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::tree::File;
use crate::client::{Client, Request, broken};
use crate::failure::{Exit, Failure};

/// Lines of a page.
const PAGE: u32 = 200;
/// How long an answer, or its next piece, may take: a machine that vanished says nothing at all.
const ANSWER_MAX: Duration = Duration::from_secs(90);
const PIECE_MAX: Duration = Duration::from_secs(30);
/// Between two tries.
pub const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Between two tries, at most.
pub const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Why the service gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The commit may not be read (any more).
    Denied(Arc<str>),
    /// There is nothing there.
    Nothing,
    /// The cursor is not taken any more.
    Stale,
    /// Nobody answers, or not well; it may be better later.
    Away(Arc<str>),
}

/// A commit to read from.
pub trait Source: Send + Sync + 'static {
    /// A page of a directory's listing.
    fn page(
        &self,
        directory: &str,
        cursor: Option<&str>,
    ) -> impl Future<Output = Result<Page<FileInfo>, Refused>> + Send;

    /// What is at a path, by a listing of it: a file alone, or the beginning of a directory.
    fn look(&self, path: &str) -> impl Future<Output = Result<Page<FileInfo>, Refused>> + Send;

    /// The bytes of a file, all or a range.
    fn bytes(
        &self,
        path: &str,
        file: &File,
        range: Option<Range<u64>>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes, Refused>>, Refused>> + Send;

    /// Asks whether the commit may be read.
    fn may_read(&self) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// A commit of a data plane.
pub struct Plane {
    client: Arc<Client>,
    /// `project/repo@commit`.
    reference: String,
}

impl Plane {
    /// The commit of that full reference, which must name it by its id.
    pub fn new(client: Arc<Client>, reference: String) -> Self {
        Self { client, reference }
    }

    fn request(&self, address: &str) -> Request {
        Request::get(address).query("ref", &self.reference)
    }

    async fn list(&self, path: &str, limit: u32, cursor: Option<&str>) -> Result<Page<FileInfo>, Refused> {
        let request = self.request("/v1/files").query("path", path).query("limit", limit);
        let request = request.query_if("cursor", cursor);
        in_time(self.client.plane_page(request)).await
    }
}

impl Source for Plane {
    async fn page(&self, directory: &str, cursor: Option<&str>) -> Result<Page<FileInfo>, Refused> {
        self.list(directory, PAGE, cursor).await
    }

    async fn look(&self, path: &str) -> Result<Page<FileInfo>, Refused> {
        self.list(path, 1, None).await
    }

    async fn bytes(
        &self,
        path: &str,
        file: &File,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Refused>>, Refused> {
        let etag = format!("\"{}\"", file.digest);
        let mut request = self.request("/v1/content").query("path", path);
        if let Some(range) = &range {
            let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            request = request.header("range", &bytes).header("if-range", &etag);
        }
        let response = in_time(self.client.download(&request)).await?;
        let given = response.headers().get("etag").and_then(|v| v.to_str().ok());
        let length = response.content_length();
        let wanted = range.map_or(file.size, |range| range.end - range.start);
        if given != Some(&etag) || length.is_some_and(|length| length != wanted) {
            return Err(Refused::Away("the content that came is not what was asked for".into()));
        }
        let stream = response
            .bytes_stream()
            .map_err(|error| Refused::Away(broken(&error).why.into()));
        let stream = tokio_stream::StreamExt::timeout(stream, PIECE_MAX);
        let stream =
            stream.map(|piece| piece.unwrap_or_else(|_| Err(Refused::Away("the answer stopped coming".into()))));
        Ok(stream.boxed())
    }

    async fn may_read(&self) -> Result<(), Refused> {
        let found: Result<Commit, Refused> = in_time(self.client.plane(self.request("/v1/commits"))).await;
        match found {
            Err(Refused::Nothing) => Err(Refused::Denied("the commit is not there (any more)".into())),
            other => other.map(drop),
        }
    }
}

/// Asks again, with longer and longer pauses, while nobody answers and the patience lasts.
///
/// # Errors
/// What the service refuses, or that nobody answered.
pub async fn patiently<T, F>(patience: Duration, ask: impl Fn() -> F) -> Result<T, Refused>
where
    F: Future<Output = Result<T, Refused>>,
{
    let began = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        match ask().await {
            Err(Refused::Away(_)) if began.elapsed() + pause < patience => tokio::time::sleep(pause).await,
            other => return other,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Refused> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) => Err(refused(&failure)),
        Err(_) => Err(Refused::Away("the service does not answer".into())),
    }
}

fn refused(failure: &Failure) -> Refused {
    let text = || format!("{}: {}", failure.what, failure.why).into();
    match failure.exit {
        Exit::NotFound => Refused::Nothing,
        Exit::Denied => Refused::Denied(text()),
        _ if failure.is(ProblemKind::Malformed) => Refused::Stale,
        _ => Refused::Away(text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::problem::Problem;

    #[test]
    fn a_problem_of_the_service_is_refused_as_what_it_is() {
        let of = |kind| refused(&Failure::from_problem(Problem::new(kind, "why")));
        assert_eq!(of(ProblemKind::NotFound), Refused::Nothing);
        assert_eq!(of(ProblemKind::Malformed), Refused::Stale);
        for denied in [ProblemKind::NotAllowed, ProblemKind::SignedOut] {
            assert!(matches!(of(denied), Refused::Denied(_)), "{denied:?}");
        }
        for away in [
            ProblemKind::Overloaded,
            ProblemKind::PlaneStarting,
            ProblemKind::PolicyUnreachable,
            ProblemKind::Internal,
        ] {
            assert!(matches!(of(away), Refused::Away(_)), "{away:?}");
        }
        let nobody = Failure::new("cannot reach it", "refused", "start it");
        assert!(matches!(refused(&nobody), Refused::Away(_)));
    }
}
