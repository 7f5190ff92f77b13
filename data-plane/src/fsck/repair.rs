//! What `fsck` repairs before it checks: damaged packs of whose bytes other packs or the disk cache have copies, and records of where the
//! bytes of a repacked pack are when that pack is still there. While it checks: packs that are gone, which only what refers to them
//! tells of; what is nowhere referred to must not come back from a cache. Everything is verified by its digest; what nobody has a copy
//! of is said, and the check behind it tells what it was needed for.

use storage::{Digest, Elsewhere, ForwardRepair, PackRepair};

use super::{CHECK, Line, queries};
use crate::failure::Answer;
use crate::plane::Plane;

fn line(severity: &'static str, subject: String, message: impl Into<String>) -> Line {
    Line {
        severity,
        subject,
        message: message.into(),
    }
}

/// Looks after one pack.
///
/// # Errors
/// When the store does not answer or is full.
pub async fn repair_pack(plane: &Plane, pack: Digest) -> Answer<Option<Line>> {
    // What is looked at must not be taken for garbage and removed meanwhile.
    let _turn = plane.collecting.lock().await;
    {
        // What is wrong with one that a client put is found by whoever takes it over, and is not to be put right here.
        let mut conn = plane.pool.acquire().await?;
        if queries::is_arriving(&mut conn, &CHECK, pack).await? {
            return Ok(None);
        }
    }
    Ok(told(pack, plane.storage.repair_pack(pack).await?))
}

/// Looks after a pack that something refers to, whether it is there or not.
///
/// # Errors
/// As [`repair_pack`].
pub async fn repair_needed_pack(plane: &Plane, pack: Digest, elsewhere: &Elsewhere) -> Answer<Option<Line>> {
    let _turn = plane.collecting.lock().await;
    Ok(told(pack, plane.storage.repair_needed_pack(pack, elsewhere).await?))
}

fn told(pack: Digest, repair: PackRepair) -> Option<Line> {
    let subject = format!("packs/{pack}");
    match repair {
        PackRepair::Whole => None,
        PackRepair::Rebuilt { pieces } => Some(line(
            "repaired",
            subject,
            format!("it was gone; it was written anew, {pieces} pieces, from what the disk cache and other packs have"),
        )),
        PackRepair::Repaired { pieces, lost: 0 } => Some(line(
            "repaired",
            subject,
            format!("it was damaged; {pieces} pieces of it were written anew from copies"),
        )),
        PackRepair::Repaired { pieces, lost } => Some(line(
            "warning",
            subject,
            format!(
                "{pieces} pieces were written anew from copies; {lost} stay damaged, since there is no copy of them"
            ),
        )),
        PackRepair::Lost { problem } => Some(line(
            "warning",
            subject,
            format!(
                "it cannot be repaired: {problem}; what is wrong with what needs it follows, and if nothing does it will be removed"
            ),
        )),
    }
}

/// Looks after the forward of a pack.
///
/// # Errors
/// When the store does not answer.
pub async fn repair_forward(plane: &Plane, name: Digest) -> Answer<Option<Line>> {
    let _turn = plane.collecting.lock().await;
    let subject = format!("forwards/{name}");
    Ok(match plane.storage.repair_forward(name).await? {
        ForwardRepair::Whole => None,
        ForwardRepair::Removed => Some(line(
            "repaired",
            subject,
            "it was damaged; the pack that was repacked is still there, so the record was removed",
        )),
        ForwardRepair::Lost => Some(line(
            "warning",
            subject,
            "it cannot be repaired: it is damaged, and the pack that was repacked is gone or damaged too; restore the object from a backup",
        )),
    })
}
