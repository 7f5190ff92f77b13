//! The whole trail as JSON lines, oldest first, and the signed checkpoint under it. It is read piece by piece, each in a
//! transaction of its own: a slow reader holds no connection, and who loses the right to read the trail gets no further piece.

use bytes::Bytes;
use chassis::audit::Filter;
use chassis::http::ApiError;
use contract::api::SignedCheckpoint;
use contract::audit::Trail;
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use futures::stream::{self, Stream};
use serde::Serialize;

use super::checkpoints;
use super::queries;
use crate::authz::ViewAudit;
use crate::call::Call;
use crate::database::signed;
use crate::refusal::Refusal;

/// So many rows are read at once.
const PIECE: i64 = 500;

/// Where the export stands.
struct Export {
    call: Call,
    org: OrganizationName,
    organization: OrganizationId,
    /// The last row that it will tell, as it was when the export began.
    head: (u64, String),
    told: u64,
    ended: bool,
}

/// The lines of an export. What fails on the way is told in a problem document as the last line.
pub(super) async fn lines(
    call: Call,
    org: OrganizationName,
) -> Result<impl Stream<Item = Result<Bytes, std::convert::Infallible>>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewAudit>(&mut tx, &org).await?;
    let head = queries::get_head(&mut tx, &allowed).await?;
    drop(tx);
    let export = Export {
        organization: allowed.organization(),
        call,
        org,
        head,
        told: 0,
        ended: false,
    };
    Ok(stream::unfold(export, |mut export| async move {
        if export.ended {
            return None;
        }
        let piece = export.next().await.unwrap_or_else(|refusal| {
            export.ended = true;
            line(&refusal.0.0).unwrap_or_default()
        });
        Some((Ok(Bytes::from(piece)), export))
    }))
}

fn line<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    let mut line = serde_json::to_vec(value).map_err(ApiError::internal)?;
    line.push(b'\n');
    Ok(line)
}

impl Export {
    async fn next(&mut self) -> Result<Vec<u8>, Refusal> {
        if self.told >= self.head.0 {
            self.ended = true;
            return line(&self.checkpoint()?);
        }
        let mut tx = self.call.begin().await?;
        let allowed = self.call.authorize::<ViewAudit>(&mut tx, &self.org).await?;
        if allowed.organization() != self.organization {
            return Err(Refusal::not_found());
        }
        let place = (signed(self.told), PIECE);
        let rows = queries::list_events(&mut tx, &allowed, &Filter::all(), place).await?;
        let mut lines = Vec::new();
        for row in rows.iter().filter(|row| row.seq <= self.head.0) {
            lines.extend(line(row)?);
        }
        // Whether rows are missing is for whoever checks the chain to say.
        self.told = rows.last().map_or(self.head.0, |row| row.seq);
        Ok(lines)
    }

    fn checkpoint(&self) -> Result<SignedCheckpoint, Refusal> {
        checkpoints::sign(&self.call.app, self.organization, Trail::Control, self.head.clone())
    }
}
