//! Waiting for a condition with a limit. There is no sleep in tests: what is waited for is named.

use std::future::Future;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is something, and returns it.
///
/// # Panics
/// When the limit is over; the message names what was waited for.
pub async fn wait_for<T, F, A>(what: &str, limit: Duration, mut ask: F) -> T
where
    F: FnMut() -> A,
    A: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// Asks again and again until the answer is yes.
///
/// # Panics
/// When the limit is over; the message names what was waited for.
pub async fn wait_until<F, A>(what: &str, limit: Duration, mut ask: F)
where
    F: FnMut() -> A,
    A: Future<Output = bool>,
{
    wait_for(what, limit, || {
        let answer = ask();
        async move { answer.await.then_some(()) }
    })
    .await;
}

/// The same where nothing is asynchronous.
///
/// # Panics
/// When the limit is over; the message names what was waited for.
pub fn wait_until_blocking(what: &str, limit: Duration, mut ask: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ask() {
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(STEP);
    }
}
