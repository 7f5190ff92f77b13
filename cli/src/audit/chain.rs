//! Checks an exported audit trail: every row's hash, the chain that they are, and the signed checkpoint under them. Nothing here is
//! shared with the service that made it; `docs/audit.md` is what it is written from.

use std::io::BufRead;

use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A line longer than this is none of a trail.
const LINE_MAX: usize = 1 << 20;

/// A row as it stands in the file. A field that it does not know would be one that no hash covers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    trail: String,
    organization: String,
    seq: u64,
    format: u32,
    at: DateTime<Utc>,
    actor: String,
    actor_name: String,
    token: String,
    via: String,
    action: String,
    subject: String,
    request_id: String,
    address: String,
    prev_hash: String,
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    organization: String,
    trail: String,
    seq: u64,
    hash: String,
    at: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LastLine {
    checkpoint: Checkpoint,
    signed: String,
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    checkpoint: Checkpoint,
}

/// What holds of a trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The organization.
    pub organization: String,
    /// Which of its chains.
    pub trail: String,
    /// How many rows, all of them.
    pub rows: u64,
    /// The hash of the last.
    pub hash: String,
    /// When the checkpoint was made.
    pub at: DateTime<Utc>,
    /// Who signed it, as the signature says; nothing where no keys were given to check it with.
    pub signed_by: Option<String>,
    /// Whether it goes on from the earlier export that was given.
    pub continues: Option<u64>,
}

/// The first thing that is wrong with a trail.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// A line that is neither a row nor a checkpoint.
    #[error("line {0} is not what a trail consists of: {1}")]
    Line(u64, String),
    /// The service broke the export off.
    #[error("the export was broken off: {0}")]
    BrokenOff(String),
    /// Rows of another organization or chain.
    #[error("row {0} belongs to another trail: {1}")]
    Foreign(u64, String),
    /// Numbers leave something out.
    #[error("row {0} is missing: row {1} stands in its place")]
    Missing(u64, u64),
    /// Numbers go back.
    #[error("row {1} stands where row {0} belongs: it is there twice or out of order")]
    OutOfOrder(u64, u64),
    /// A row does not follow from the one before it.
    #[error("row {0} does not follow from the row before it: one of them was replaced")]
    Unlinked(u64),
    /// A row says something else than what was hashed.
    #[error("row {0} was altered: its hash is not that of what it says")]
    Altered(u64),
    /// The end is missing.
    #[error("it has no checkpoint under row {0}: later rows may be missing")]
    NoEnd(u64),
    /// Rows are missing before the checkpoint.
    #[error("the checkpoint is that of row {0}, and the rows end with row {1}: the end was cut off or replaced")]
    OtherEnd(u64, u64),
    /// The signature does not hold.
    #[error("the signature under it does not hold: {0}")]
    Signature(String),
    /// A trail that the earlier export has is not there.
    #[error("the trail `{0}` of the earlier export is missing")]
    TrailGone(String),
    /// The earlier export is of another trail, or tells the rows otherwise.
    #[error("it does not go on from the earlier export: row {0} has another hash there")]
    Rewritten(u64),
}

/// The chain so far.
struct Chain {
    /// Organization and trail, once a row has said it.
    of: Option<(String, String)>,
    rows: u64,
    hash: String,
    /// What an earlier export says of one row.
    expected: Option<(u64, String)>,
}

fn text(part: &str, out: &mut Vec<u8>) {
    out.extend((part.len() as u64).to_be_bytes());
    out.extend(part.as_bytes());
}

fn bytes(part: &[u8], out: &mut Vec<u8>) {
    out.extend((part.len() as u64).to_be_bytes());
    out.extend(part);
}

/// The hash that a row must have.
fn hash_of(row: &Row) -> Option<String> {
    let before = hex::decode(&row.prev_hash).ok()?;
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    match row.format {
        1 => bytes(&before, &mut head),
        2 => {
            text("howdah audit 2", &mut head);
            bytes(&before, &mut head);
            text(&row.trail, &mut head);
        }
        _ => return None,
    }
    text(&row.organization, &mut head);
    bytes(&i64::try_from(row.seq).ok()?.to_be_bytes(), &mut head);
    bytes(&row.at.timestamp_micros().to_be_bytes(), &mut head);
    for part in [&row.actor, &row.actor_name, &row.token] {
        text(part, &mut head);
    }
    if row.format == 2 {
        text(&row.via, &mut head);
        text(&row.request_id, &mut tail);
        text(&row.address, &mut tail);
    }
    text(&row.action, &mut head);
    text(&row.subject, &mut head);
    Some(hex::encode(Sha256::digest([head, tail].concat())))
}

impl Chain {
    fn add(&mut self, row: &Row) -> Result<(), Wrong> {
        let of = (row.organization.clone(), row.trail.clone());
        let expected = self.rows + 1;
        if *self.of.get_or_insert_with(|| of.clone()) != of {
            return Err(Wrong::Foreign(row.seq, format!("{}, {}", of.0, of.1)));
        }
        if row.seq > expected {
            return Err(Wrong::Missing(expected, row.seq));
        }
        if row.seq < expected {
            return Err(Wrong::OutOfOrder(expected, row.seq));
        }
        // What the hash of its format does not cover must not be there.
        let uncovered = row.format == 1
            && (row.trail != "control" || [&row.via, &row.request_id, &row.address].iter().any(|s| !s.is_empty()));
        let finer = !row.at.timestamp_subsec_nanos().is_multiple_of(1000);
        if uncovered || finer || hash_of(row).is_none_or(|hash| hash != row.hash) {
            return Err(Wrong::Altered(row.seq));
        }
        if row.prev_hash != self.hash {
            return Err(Wrong::Unlinked(row.seq));
        }
        if self
            .expected
            .as_ref()
            .is_some_and(|(seq, hash)| *seq == row.seq && *hash != row.hash)
        {
            return Err(Wrong::Rewritten(row.seq));
        }
        self.rows = row.seq;
        self.hash.clone_from(&row.hash);
        Ok(())
    }

    fn end(&self, last: &LastLine, keys: Option<&JwkSet>) -> Result<Option<String>, Wrong> {
        let checkpoint = &last.checkpoint;
        let of = (checkpoint.organization.clone(), checkpoint.trail.clone());
        if self.of.as_ref().is_some_and(|known| *known != of) {
            return Err(Wrong::Foreign(checkpoint.seq, format!("{}, {}", of.0, of.1)));
        }
        if checkpoint.seq != self.rows || checkpoint.hash != self.hash {
            return Err(Wrong::OtherEnd(checkpoint.seq, self.rows));
        }
        if let Some((seq, _)) = self.expected.as_ref().filter(|(seq, _)| *seq > self.rows) {
            return Err(Wrong::Rewritten(*seq));
        }
        let Some(keys) = keys else { return Ok(None) };
        let claims = claims_of(&last.signed, keys, &format!("audit:{}", of.0)).map_err(Wrong::Signature)?;
        if claims.checkpoint != *checkpoint {
            return Err(Wrong::Signature("it is one under something else".to_owned()));
        }
        Ok(Some(claims.iss))
    }
}

/// What a signed text says, if one of these keys signed it for that audience.
fn claims_of(signed: &str, keys: &JwkSet, audience: &str) -> Result<Claims, String> {
    let header = jsonwebtoken::decode_header(signed).map_err(|e| e.to_string())?;
    if header.alg != Algorithm::EdDSA {
        return Err("it is made in another way than the service signs".to_owned());
    }
    let kid = header.kid.unwrap_or_default();
    let key = keys
        .find(&kid)
        .ok_or_else(|| format!("the key `{kid}` is none of those given"))?;
    let key = DecodingKey::from_jwk(key).map_err(|e| e.to_string())?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_audience(&[audience]);
    rules.set_required_spec_claims(&["iss", "aud"]);
    rules.validate_exp = false;
    jsonwebtoken::decode::<Claims>(signed, &key, &rules)
        .map(|data| data.claims)
        .map_err(|e| e.to_string())
}

/// The trails of a file, one behind the other.
struct File<'a> {
    keys: Option<&'a JwkSet>,
    earlier: &'a [Report],
    chain: Option<Chain>,
    done: Vec<Report>,
}

impl File<'_> {
    /// The chain that a row or a checkpoint belongs to: the one that was begun, or a new one.
    fn chain_of(&mut self, organization: &str, trail: &str, seq: u64) -> Result<&mut Chain, Wrong> {
        let of_another = |r: &Report| r.organization != organization || r.trail == trail;
        let known = self.chain.is_none() && self.done.iter().any(of_another);
        if known || self.earlier.iter().any(|report| report.organization != organization) {
            return Err(Wrong::Foreign(seq, format!("{organization}, {trail}")));
        }
        let earlier = self.earlier.iter().find(|report| report.trail == trail);
        Ok(self.chain.get_or_insert_with(|| Chain {
            of: Some((organization.to_owned(), trail.to_owned())),
            rows: 0,
            hash: String::new(),
            expected: earlier.filter(|r| r.rows > 0).map(|r| (r.rows, r.hash.clone())),
        }))
    }

    fn end(&mut self, last: LastLine) -> Result<(), Wrong> {
        let keys = self.keys;
        let of = &last.checkpoint;
        let chain = self.chain_of(&of.organization, &of.trail, of.seq)?;
        let signed_by = chain.end(&last, keys)?;
        let (rows, hash) = (chain.rows, chain.hash.clone());
        let earlier = self.earlier.iter().find(|report| report.trail == last.checkpoint.trail);
        self.done.push(Report {
            organization: last.checkpoint.organization,
            trail: last.checkpoint.trail,
            rows,
            hash,
            at: last.checkpoint.at,
            signed_by,
            continues: earlier.map(|report| report.rows),
        });
        self.chain = None;
        Ok(())
    }
}

/// Checks the trails of a file, each from its first row to its checkpoint; `earlier` is what an earlier export of the same trails
/// ended with.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(mut file: impl BufRead, keys: Option<&JwkSet>, earlier: &[Report]) -> Result<Vec<Report>, Wrong> {
    let mut trails = File {
        keys,
        earlier,
        chain: None,
        done: Vec::new(),
    };
    let (mut number, mut line) = (0, Vec::new());
    loop {
        line.clear();
        number += 1;
        let mut limited = std::io::Read::take(&mut file, LINE_MAX as u64);
        if limited.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let wrong = |why: &dyn std::fmt::Display| Wrong::Line(number, why.to_string());
        let value: Value = serde_json::from_slice(&line).map_err(|e| wrong(&e))?;
        if let (Some(detail), None) = (value.get("detail"), value.get("seq")) {
            return Err(Wrong::BrokenOff(detail.as_str().unwrap_or_default().to_owned()));
        }
        // A name that stands twice in a line would be read one way here and another way elsewhere: the typed readers refuse it.
        if value.get("checkpoint").is_some() {
            trails.end(serde_json::from_slice(&line).map_err(|e| wrong(&e))?)?;
        } else {
            let row: Row = serde_json::from_slice(&line).map_err(|e| wrong(&e))?;
            trails.chain_of(&row.organization, &row.trail, row.seq)?.add(&row)?;
        }
    }
    if let Some(chain) = &trails.chain {
        return Err(Wrong::NoEnd(chain.rows));
    }
    if trails.done.is_empty() {
        return Err(Wrong::NoEnd(0));
    }
    let gone = earlier.iter().find(|e| !trails.done.iter().any(|d| d.trail == e.trail));
    match gone {
        Some(gone) => Err(Wrong::TrailGone(gone.trail.clone())),
        None => Ok(trails.done),
    }
}

#[cfg(test)]
mod tests;
