//! What goes on for long lasts no longer than the session or token behind it, whatever it is: a WebSocket, an answer that
//! streams, a request that waits for one. The plane ends what is revoked at once; what runs out is found here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use contract::ids::TokenId;
use contract::problem::ProblemKind;
use futures::{FutureExt, StreamExt};

use crate::app::App;
use crate::authz;
use crate::refusal::Refusal;

/// So often it is looked whether the session or token is still good.
const RENEWED_EVERY: Duration = Duration::from_secs(30);

/// Is done when a session or token is over.
pub(super) type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When that session or API token is over. Nobody who cannot be asked for goes on either.
pub(super) fn over(app: Arc<App>, token: TokenId) -> Over {
    Box::pin(async move {
        loop {
            tokio::time::sleep(RENEWED_EVERY).await;
            if authz::authenticate_again(&app.pool, token, app.environment.now())
                .await
                .is_err()
            {
                return;
            }
        }
    })
}

/// The answer to a request that waited for longer.
pub(super) fn ended() -> Refusal {
    Refusal::new(
        ProblemKind::SignedOut,
        "the session or token ended while the service was asked",
    )
    .hint("log in again with `howdah login`, or make a new token")
}

/// A body that breaks off when it is over: its reader must not take what came for all of it.
pub(super) fn until(body: Body, mut over: Over) -> Body {
    let mut frames = body.into_data_stream();
    let mut broken = false;
    Body::from_stream(futures::stream::poll_fn(move |context| {
        if broken {
            return Poll::Ready(None);
        }
        if over.poll_unpin(context).is_ready() {
            broken = true;
            let error = axum::Error::new(std::io::Error::other("the session or token ended"));
            return Poll::Ready(Some(Err(error)));
        }
        frames.poll_next_unpin(context)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn an_answer_that_streams_breaks_off_with_its_session_and_not_before() {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let (mut say, said) = futures::channel::mpsc::unbounded::<Result<&'static str, std::io::Error>>();
        let mut body = until(Body::from_stream(said), Box::pin(ended.map(drop)));
        for word in ["one", "two"] {
            say.start_send(Ok(word)).unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), word);
        }
        end.send(()).unwrap();
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
        let whole = until(Body::from("all of it"), Box::pin(std::future::pending()));
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "all of it");
    }
}
