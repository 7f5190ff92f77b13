//! Open streams under the access rule: while bytes go out, the decision is asked again whenever the policy changes and at
//! least every second; a stream whose reader lost the right is cut (R6).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use provenance::origins::OriginSet;

use crate::call::Standing;

const ASK_EVERY: Duration = Duration::from_secs(1);

struct Guarded<T> {
    bytes: BoxStream<'static, T>,
    standing: Standing,
    sets: Vec<Arc<OriginSet>>,
    timer: tokio::time::Interval,
    changes: tokio::sync::watch::Receiver<Option<Arc<provenance::access::Policy>>>,
    cut: bool,
}

impl<T> Guarded<T> {
    fn allowed(&self) -> bool {
        self.sets.iter().all(|set| self.standing.may_still_read(set))
    }
}

/// The stream, until its reader may not read what has these origins any more; then an error, which breaks the
/// connection off, so that nobody takes a part for the whole.
pub fn guarded<E: std::error::Error + Send + Sync + 'static>(
    bytes: BoxStream<'static, Result<Bytes, E>>,
    standing: Standing,
    sets: Vec<Arc<OriginSet>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let mut timer = tokio::time::interval(ASK_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    timer.reset();
    let changes = standing.plane().policy.changes();
    let guarded = Guarded {
        bytes,
        standing,
        sets,
        timer,
        changes,
        cut: false,
    };
    futures::stream::unfold(guarded, |mut g| async move {
        loop {
            if g.cut {
                return None;
            }
            let ask = tokio::select! {
                biased;
                _ = g.timer.tick() => true,
                changed = g.changes.changed() => changed.is_ok(),
                next = g.bytes.next() => {
                    let item = next?.map_err(|error| {
                        tracing::error!(error = %error, "a stream broke off: {error}");
                        io::Error::other(error)
                    });
                    g.cut = item.is_err();
                    return Some((item, g));
                }
            };
            if ask && !g.allowed() {
                g.cut = true;
                let error = io::Error::new(io::ErrorKind::PermissionDenied, "the right to read was revoked");
                return Some((Err(error), g));
            }
        }
    })
    .boxed()
}
