//! Trails as a service writes them, and every way to falsify one.

use contract::api::{AuditEvent, SignedCheckpoint};
use contract::audit::{self, CheckpointClaims, Entry, Trail};
use contract::ids::OrganizationId;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;

const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

fn organization(number: u8) -> OrganizationId {
    OrganizationId::generate(u64::from(number), [number; 10])
}

/// Rows as the service makes them, with the function that the service makes them with.
fn rows(of: OrganizationId, count: u64) -> Vec<AuditEvent> {
    let (mut rows, mut before) = (Vec::new(), Vec::new());
    for seq in 1..=count {
        let subject = format!("viewer on default/images {seq} \u{e4}\"\n");
        let at = DateTime::UNIX_EPOCH + chrono::Duration::microseconds(1_700_000_000_123_456 + seq as i64);
        let entry = Entry {
            trail: Trail::Control,
            organization: of,
            seq,
            at,
            actor: "acc_1",
            actor_name: "ada@example.test",
            token: "tok_1",
            via: "session",
            action: "grant.create",
            subject: &subject,
            request_id: "req_1",
            address: "127.0.0.1",
        };
        let hash = entry.link(&before);
        rows.push(AuditEvent {
            trail: entry.trail,
            organization: of,
            seq,
            format: audit::FORMAT,
            at,
            actor: entry.actor.to_owned(),
            actor_name: entry.actor_name.to_owned(),
            token: entry.token.to_owned(),
            via: entry.via.to_owned(),
            action: entry.action.to_owned(),
            subject: subject.clone(),
            request_id: entry.request_id.to_owned(),
            address: entry.address.to_owned(),
            prev_hash: hex::encode(&before),
            hash: hex::encode(hash),
        });
        before = hash.to_vec();
    }
    rows
}

fn key(seed: u8) -> (EncodingKey, JwkSet) {
    let key = EncodingKey::from_ed_der(&[PKCS8_HEAD.as_slice(), &[seed; 32]].concat());
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap_or_else(|e| panic!("{e}"));
    jwk.common.key_id = Some("k".to_owned());
    (key, JwkSet { keys: vec![jwk] })
}

fn signed(rows: &[AuditEvent], audience: &str, key: &EncodingKey) -> SignedCheckpoint {
    let last = rows.last().unwrap_or_else(|| panic!("no rows"));
    let checkpoint = audit::Checkpoint {
        organization: last.organization,
        trail: last.trail,
        seq: last.seq,
        hash: last.hash.clone(),
        at: DateTime::UNIX_EPOCH,
    };
    let claims = CheckpointClaims {
        iss: "https://howdah.test".to_owned(),
        aud: audience.to_owned(),
        iat: 0,
        checkpoint: checkpoint.clone(),
    };
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("k".to_owned());
    let signed = jsonwebtoken::encode(&header, &claims, key).unwrap_or_else(|e| panic!("{e}"));
    SignedCheckpoint { checkpoint, signed }
}

fn file(rows: &[AuditEvent], end: Option<&SignedCheckpoint>) -> Vec<u8> {
    let rows = rows.iter().map(|row| json!(row).to_string());
    let end = end.iter().map(|end| json!(end).to_string());
    rows.chain(end)
        .flat_map(|line| format!("{line}\n").into_bytes())
        .collect()
}

fn whole(rows: &[AuditEvent]) -> Vec<u8> {
    let audience = audit::audience(rows[0].organization);
    file(rows, Some(&signed(rows, &audience, &key(7).0)))
}

fn checked(file: &[u8]) -> Result<Report, Wrong> {
    check(file, Some(&key(7).1), &[]).map(|mut reports| reports.remove(0))
}

/// The same against what an earlier export ended with, without keys.
fn since(earlier: &Report, file: &[u8]) -> Result<Report, Wrong> {
    check(file, None, std::slice::from_ref(earlier)).map(|mut reports| reports.remove(0))
}

#[test]
fn a_trail_as_the_service_writes_it_holds() {
    let rows = rows(organization(1), 12);
    let report = checked(&whole(&rows)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.rows, report.hash), (12, rows[11].hash.clone()));
    assert_eq!(report.signed_by.as_deref(), Some("https://howdah.test"));
}

#[test]
fn every_field_of_every_row_is_covered() {
    let good = rows(organization(1), 3);
    let end = signed(&good, &audit::audience(organization(1)), &key(7).0);
    for at in 0..3 {
        let row = json!(good[at]);
        for name in row.as_object().unwrap_or_else(|| panic!("no object")).keys() {
            let mut lines: Vec<Value> = good.iter().map(|row| json!(row)).collect();
            lines[at][name] = match &row[name] {
                Value::Number(number) => json!(number.as_u64().unwrap_or(0) + 1),
                Value::String(text) if name == "at" => json!(text.replace("123", "124")),
                Value::String(text) if name == "organization" => json!(format!("{}0", &text[..text.len() - 1])),
                Value::String(_) if name == "trail" => json!("plane"),
                Value::String(text) if name == "hash" || name == "prev_hash" => {
                    json!(text.get(2..).map_or("00".to_owned(), |rest| format!("00{rest}")))
                }
                other => json!(format!("{}x", other.as_str().unwrap_or_default())),
            };
            let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            text.push_str(&format!("{}\n", json!(end)));
            let wrong = checked(text.as_bytes());
            assert!(wrong.is_err(), "row {} may say another `{name}`", at + 1);
        }
    }
}

#[test]
fn what_was_done_to_a_trail_is_named_with_its_row() {
    let good = rows(organization(1), 9);
    let end = signed(&good, &audit::audience(organization(1)), &key(7).0);
    let told = |rows: &[AuditEvent]| match checked(&file(rows, Some(&end))) {
        Ok(_) => "it holds".to_owned(),
        Err(wrong) => wrong.to_string(),
    };
    let mut altered = good.clone();
    altered[4].subject.push('!');
    assert!(told(&altered).starts_with("row 5 was altered"), "{}", told(&altered));
    let mut removed = good.clone();
    removed.remove(4);
    assert!(told(&removed).starts_with("row 5 is missing"), "{}", told(&removed));
    let mut swapped = good.clone();
    swapped.swap(3, 4);
    assert!(told(&swapped).starts_with("row 4 is missing"), "{}", told(&swapped));
    let mut twice = good.clone();
    twice.insert(5, good[4].clone());
    assert!(told(&twice).starts_with("row 5 stands where row 6"), "{}", told(&twice));
    let mut foreign = good.clone();
    foreign[4] = rows(organization(2), 9)[4].clone();
    assert!(
        told(&foreign).starts_with("row 5 belongs to another trail"),
        "{}",
        told(&foreign)
    );
    // A row that was made anew, hash and all, does not fit those behind it.
    let mut other = good.clone();
    other[4] = AuditEvent {
        subject: "nothing".to_owned(),
        ..good[4].clone()
    };
    let row: Row = serde_json::from_value(json!(other[4])).unwrap_or_else(|e| panic!("{e}"));
    other[4].hash = hash_of(&row).unwrap_or_default();
    assert!(told(&other).starts_with("row 6 does not follow"), "{}", told(&other));
    assert!(told(&good[..8]).contains("ends with row 8") || told(&good[..8]).contains("end with row 8"));
    assert!(matches!(checked(&file(&good, None)), Err(Wrong::NoEnd(9))));
}

#[test]
fn a_trail_that_was_made_anew_from_one_row_on_has_no_signature() {
    let good = rows(organization(1), 9);
    let end = signed(&good, &audit::audience(organization(1)), &key(7).0);
    let mut forged = good[..4].to_vec();
    for row in &good[4..] {
        let mut row = AuditEvent {
            subject: "nothing".to_owned(),
            ..row.clone()
        };
        row.prev_hash = forged.last().map_or(String::new(), |r: &AuditEvent| r.hash.clone());
        let read: Row = serde_json::from_value(json!(row)).unwrap_or_else(|e| panic!("{e}"));
        row.hash = hash_of(&read).unwrap_or_default();
        forged.push(row);
    }
    assert!(matches!(
        checked(&file(&forged, Some(&end))),
        Err(Wrong::OtherEnd(9, 9))
    ));
    let mut claimed = end.clone();
    claimed.checkpoint.hash.clone_from(&forged[8].hash);
    assert!(matches!(
        checked(&file(&forged, Some(&claimed))),
        Err(Wrong::Signature(_))
    ));
    let by_another = signed(&forged, &audit::audience(organization(1)), &key(8).0);
    assert!(matches!(
        checked(&file(&forged, Some(&by_another))),
        Err(Wrong::Signature(_))
    ));
    // What the service signs for something else is no word about a trail.
    let for_a_plane = signed(&forged, "plane:x", &key(7).0);
    assert!(matches!(
        checked(&file(&forged, Some(&for_a_plane))),
        Err(Wrong::Signature(_))
    ));
    // Even the service itself cannot tell it otherwise to whom it told it before.
    let anew = whole(&forged);
    assert!(checked(&anew).is_ok());
    let before = checked(&whole(&good[..6])).unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(since(&before, &anew), Err(Wrong::Rewritten(6))));
    let shorter = whole(&good[..5]);
    assert!(matches!(since(&before, &shorter), Err(Wrong::Rewritten(6))));
    let later = since(&before, &whole(&good)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(later.continues, Some(6));
}

#[test]
fn rows_of_the_first_format_hold_and_say_nothing_that_it_does_not_cover() {
    let mut row = rows(organization(1), 1).remove(0);
    (row.format, row.via, row.request_id, row.address) = (1, String::new(), String::new(), String::new());
    // As it was written when there was no second format, spelled out.
    let mut hasher = Sha256::new();
    for part in [
        &[][..],
        row.organization.to_string().as_bytes(),
        &1_i64.to_be_bytes(),
        &row.at.timestamp_micros().to_be_bytes(),
        row.actor.as_bytes(),
        row.actor_name.as_bytes(),
        row.token.as_bytes(),
        row.action.as_bytes(),
        row.subject.as_bytes(),
    ] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    row.hash = hex::encode(hasher.finalize());
    let held = |row: &AuditEvent| checked(&whole(std::slice::from_ref(row)));
    assert!(held(&row).is_ok(), "{:?}", held(&row));
    row.address = "192.0.2.1".to_owned();
    assert!(matches!(held(&row), Err(Wrong::Altered(1))));
}

#[test]
fn a_line_with_something_beside_the_row_is_refused() {
    let good = rows(organization(1), 1);
    let text = String::from_utf8(whole(&good)).unwrap_or_default();
    for (from, to) in [
        ("{\"action\"", "{\"note\":\"x\",\"action\""),
        ("{\"action\"", "{\"subject\":\"x\",\"action\""),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        assert!(matches!(checked(changed.as_bytes()), Err(Wrong::Line(1, _))), "{to}");
    }
    let broken_off = format!("{}\n{}\n", json!(good[0]), json!({ "type": "x", "detail": "gone" }));
    assert!(matches!(checked(broken_off.as_bytes()), Err(Wrong::BrokenOff(_))));
    let mut longer = whole(&good);
    longer.extend(file(&rows(organization(1), 2)[1..], None));
    assert!(matches!(checked(&longer), Err(Wrong::Foreign(2, _))));
}

#[test]
fn both_trails_of_an_organization_stand_in_one_file_and_neither_goes_missing() {
    let control = rows(organization(1), 4);
    let mut plane: Vec<AuditEvent> = Vec::new();
    for row in rows(organization(1), 3) {
        let before = plane.last().map_or(String::new(), |row| row.hash.clone());
        let mut row = AuditEvent {
            trail: Trail::Plane,
            prev_hash: before,
            ..row
        };
        let read: Row = serde_json::from_value(json!(row)).unwrap_or_else(|e| panic!("{e}"));
        row.hash = hash_of(&read).unwrap_or_default();
        plane.push(row);
    }
    let both = [whole(&control), whole(&plane)].concat();
    let reports = check(both.as_slice(), Some(&key(7).1), &[]).unwrap_or_else(|e| panic!("{e}"));
    let told: Vec<(&str, u64)> = reports.iter().map(|r| (r.trail.as_str(), r.rows)).collect();
    assert_eq!(told, [("control", 4), ("plane", 3)]);
    assert!(check(both.as_slice(), None, &reports).is_ok());
    let alone = whole(&control);
    assert!(matches!(
        check(alone.as_slice(), None, &reports),
        Err(Wrong::TrailGone(_))
    ));
    // A row of the one in the other, one trail twice, and another organization's behind it.
    let mixed = [file(&control[..2], None), file(&plane[2..], None)].concat();
    assert!(matches!(check(mixed.as_slice(), None, &[]), Err(Wrong::Foreign(3, _))));
    let twice = [whole(&control), whole(&control)].concat();
    assert!(matches!(check(twice.as_slice(), None, &[]), Err(Wrong::Foreign(1, _))));
    let foreign = [whole(&control), whole(&rows(organization(2), 2))].concat();
    assert!(matches!(
        check(foreign.as_slice(), None, &[]),
        Err(Wrong::Foreign(1, _))
    ));
}
