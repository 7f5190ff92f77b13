//! Secrets of pipelines. They stand in the tenant's database encrypted under a key derived from the plane's data key, and
//! are shown to nobody. A value goes to the worker with the job that uses it, and to user code as its spec says. Whoever
//! applies a spec that uses one could have its code send it anywhere, so that takes the right to use it: write on the
//! project as a whole (or managing the organization), looked at again when a job starts. Setting takes admin on it.

pub mod queries;
pub mod routes;

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use contract::ids::ProjectId;
use contract::names::{ProjectName, SecretName};
use contract::policy::Permission;
use provenance::access::{Policy, Subject, can_in_project};
use provenance::spec::{BUCKET_KEYS, EgressTarget, PipelineSpec, SecretTarget, SecretUse};
use sqlx::PgConnection;

use crate::failure::{Answer, Failure};
use crate::images::{self, Login};
use crate::permissions::System;
use crate::plane::Plane;
use crate::projects;
use crate::worker::protocol::{Hidden, SecretFor};

const NONCE_LENGTH: usize = 24;
const USE: System = System::because("who applied the pipeline may use the secrets of its project");

/// Whether somebody may have pipelines of that project use its secrets.
pub fn may_use(policy: &Policy, subject: &Subject, project: &ProjectName) -> bool {
    let manages = policy.member(subject.principal).is_some_and(|m| m.role.manages());
    manages && subject.scopes.is_empty() || can_in_project(policy, subject, Permission::Write, project)
}

fn cipher(plane: &Plane) -> Answer<XChaCha20Poly1305> {
    let Some(key) = &plane.config.data_key else {
        return Err(Failure::invalid(
            "this organization was made before data keys, so it can keep no secrets",
        ));
    };
    let key = hex::decode(key).map_err(|_| Failure::internal("the data key is none"))?;
    let key = blake3::derive_key("howdah data plane 2026 secrets of pipelines", &key);
    Ok(XChaCha20Poly1305::new(&Key::from(key)))
}

/// What a sealed secret belongs to: it can't be moved to another row.
fn purpose(project: ProjectId, name: &SecretName, version: i32) -> String {
    format!("{project}/{name}/{version}")
}

/// Encrypts the values of a secret.
///
/// # Errors
/// `invalid` where the plane has no key.
pub fn seal(
    plane: &Plane,
    (project, name, version): (ProjectId, &SecretName, i32),
    values: &BTreeMap<String, String>,
) -> Answer<Vec<u8>> {
    let nonce: [u8; NONCE_LENGTH] = plane.environment.random();
    let purpose = purpose(project, name, version);
    let payload = Payload {
        msg: &serde_json::to_vec(values).map_err(Failure::internal)?,
        aad: purpose.as_bytes(),
    };
    let sealed = cipher(plane)?.encrypt(&XNonce::from(nonce), payload);
    let sealed = sealed.map_err(|_| Failure::internal("a secret could not be encrypted"))?;
    Ok([nonce.as_slice(), sealed.as_slice()].concat())
}

/// Decrypts the values of a secret.
///
/// # Errors
/// `invalid`, saying what to do, when they can't be.
pub fn open(
    plane: &Plane,
    (project, name, version): (ProjectId, &SecretName, i32),
    sealed: &[u8],
) -> Answer<BTreeMap<String, String>> {
    let damaged = || {
        tracing::error!(%project, secret = %name, version, "a stored secret cannot be decrypted");
        Failure::invalid(format!(
            "the secret `{name}` cannot be decrypted: set it again with `howdah secret set {name}`"
        ))
    };
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LENGTH>().ok_or_else(damaged)?;
    let purpose = purpose(project, name, version);
    let payload = Payload {
        msg: sealed,
        aad: purpose.as_bytes(),
    };
    let opened = cipher(plane)?.decrypt(&XNonce::from(*nonce), payload);
    serde_json::from_slice(&opened.map_err(|_| damaged())?).map_err(Failure::internal)
}

/// The secret that a spec uses is not there, or has no such key.
fn missing(project: &ProjectName, used: &SecretUse) -> String {
    let name = &used.name;
    match &used.key {
        Some(key) => format!(
            "there is no secret `{name}` with a key `{key}` in project `{project}`: `howdah secret set {name} --project {project}`"
        ),
        None => absent(project, name),
    }
}

/// That there is no such secret, and what to do.
pub fn absent(project: &ProjectName, name: &SecretName) -> String {
    format!("there is no secret `{name}` in project `{project}`: `howdah secret set {name} --project {project}`")
}

/// Whether there is such a secret, and it was not deleted.
///
/// # Errors
/// When the database is away.
pub async fn exists(conn: &mut PgConnection, project: &ProjectName, name: &SecretName) -> Answer<bool> {
    let found = queries::find(conn, &USE, project, name).await?;
    Ok(found.is_some_and(|row| row.sealed.is_some()))
}

/// The versions of the secrets that a spec uses, by name.
///
/// # Errors
/// `invalid`, saying what to set, when one is not there.
pub async fn versions(conn: &mut PgConnection, spec: &PipelineSpec) -> Answer<BTreeMap<SecretName, i32>> {
    let mut versions = BTreeMap::new();
    for used in &spec.transform.secrets {
        let found = queries::find(conn, &USE, &spec.project, &used.name).await?;
        let has_key = |keys: &[String]| used.key.as_ref().is_none_or(|key| keys.contains(key));
        match found.filter(|row| row.sealed.is_some() && has_key(&row.keys)) {
            Some(row) => versions.insert(used.name.clone(), row.version),
            None => return Err(Failure::invalid(missing(&spec.project, used))),
        };
    }
    Ok(versions)
}

/// Looks whether the secret that an egress uses is there with the keys it needs. Its version is counted into nothing: the
/// code does not see it.
///
/// # Errors
/// `invalid`, saying what to set, when it is not.
pub async fn of_egress(conn: &mut PgConnection, spec: &PipelineSpec) -> Answer<()> {
    let Some((egress, secret)) = spec.egress.as_ref().and_then(|e| Some((e, e.secret.as_ref()?))) else {
        return Ok(());
    };
    let keys: Vec<&str> = match &egress.target {
        EgressTarget::Bucket(_) => BUCKET_KEYS[..2].to_vec(),
        EgressTarget::Database(_) => secret.key.as_deref().into_iter().collect(),
    };
    let found = queries::find(conn, &USE, &spec.project, &secret.name).await?;
    let found = found.filter(|row| row.sealed.is_some());
    let lacks = keys
        .into_iter()
        .find(|key| !found.as_ref().is_some_and(|row| row.keys.iter().any(|k| k == key)));
    match lacks {
        None if found.is_some() => Ok(()),
        lacks => {
            let used = SecretUse {
                name: secret.name.clone(),
                key: lacks.map(str::to_owned),
                target: SecretTarget::Variable(String::new()),
            };
            Err(Failure::invalid(missing(&spec.project, &used)))
        }
    }
}

/// A digest that counts the versions of secrets in; without any it stays as it is.
pub fn counted_in(digest: [u8; 32], versions: &BTreeMap<SecretName, i32>) -> [u8; 32] {
    if versions.is_empty() {
        return digest;
    }
    let mut hasher = blake3::Hasher::new_derive_key("howdah digest with secrets v1");
    hasher.update(&digest);
    for (name, version) in versions {
        hasher.update(format!("{name}/{version}\n").as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The values of a secret of a project.
///
/// # Errors
/// `invalid`, saying what to set, when it is not there.
pub async fn values(
    plane: &Plane,
    conn: &mut PgConnection,
    project: &ProjectName,
    name: &SecretName,
) -> Answer<BTreeMap<String, String>> {
    let id = projects::queries::find_project(conn, &USE, project).await?;
    let id = id.ok_or_else(Failure::not_found)?.id;
    let absent = || {
        Failure::invalid(format!(
            "there is no secret `{name}` in project `{project}`: `howdah secret set {name}`"
        ))
    };
    let row = queries::find(conn, &USE, project, name).await?.ok_or_else(absent)?;
    let sealed = row.sealed.as_deref().ok_or_else(absent)?;
    open(plane, (id, name, row.version), sealed)
}

/// Who signs in at registries with these secrets. Code never sees these.
///
/// # Errors
/// `invalid`, saying what to set, when a secret is not there or signs in to nothing.
pub async fn of_registries(
    plane: &Plane,
    conn: &mut PgConnection,
    project: &ProjectName,
    names: &[SecretName],
) -> Answer<Vec<Login>> {
    let mut all = Vec::new();
    for name in names {
        let values = values(plane, conn, project, name).await?;
        all.extend(images::logins(name, &values).map_err(Failure::invalid)?);
    }
    Ok(all)
}

/// What the worker gives to user code of a job that was planned with these versions, if it was planned with any; `None` when another one is current:
/// its results would stand under the key of the one before.
///
/// # Errors
/// `invalid`, saying what to set, when a secret is not there or can't be decrypted.
pub async fn of_job(
    plane: &Plane,
    conn: &mut PgConnection,
    spec: &PipelineSpec,
    planned: Option<&BTreeMap<SecretName, i32>>,
) -> Answer<Option<Vec<SecretFor>>> {
    let mut all = Vec::new();
    if spec.transform.secrets.is_empty() {
        return Ok(Some(all));
    }
    let project = projects::queries::find_project(conn, &USE, &spec.project).await?;
    let project = project.ok_or_else(Failure::not_found)?.id;
    for used in &spec.transform.secrets {
        let row = queries::find(conn, &USE, &spec.project, &used.name).await?;
        let absent = || Failure::invalid(missing(&spec.project, used));
        let row = row.ok_or_else(absent)?;
        let sealed = row.sealed.as_deref().ok_or_else(absent)?;
        if planned.is_some_and(|planned| planned.get(&used.name) != Some(&row.version)) {
            return Ok(None);
        }
        let mut values = open(plane, (project, &used.name, row.version), sealed)?;
        if let Some(key) = &used.key {
            values.retain(|known, _| known == key);
            if values.is_empty() {
                return Err(absent());
            }
        }
        let values = values.into_iter().map(|(key, value)| (key, Hidden(value))).collect();
        all.push(match &used.target {
            SecretTarget::Variable(name) => SecretFor::Variable {
                name: name.clone(),
                values,
            },
            SecretTarget::Files(path) => SecretFor::Files {
                path: path.clone(),
                values,
            },
        });
    }
    Ok(Some(all))
}
