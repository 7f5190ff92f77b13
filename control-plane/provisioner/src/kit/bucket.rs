//! How a plane's pod gets at its bucket, where that takes more than keys in its configuration: a session that is written anew while it
//! runs, or a token of its account that an object store takes. Both are in the plane's container alone.

use contract::cloud::{BucketCredentials, KubernetesConfig};
use serde_json::{Value, json};

use super::TenantKit;
use super::names::{BUCKET_KEYS, SECRET};

/// The directory of the session.
pub const BUCKET_DIRECTORY: &str = "/etc/howdah-bucket";
/// Its file.
pub const BUCKET_KEYS_FILE: &str = "keys.json";
/// The directory of the token.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/howdah-bucket";
/// Its file.
pub const BUCKET_TOKEN_FILE: &str = "/var/run/secrets/howdah-bucket/token";
/// Whom the token is for.
const AUDIENCE: &str = "sts.amazonaws.com";

/// Whether planes get sessions.
pub fn has_sessions(config: &KubernetesConfig) -> bool {
    matches!(config.buckets.credentials, BucketCredentials::Session { .. })
}

/// The secret that holds the plane's session.
pub fn bucket_keys(kit: &TenantKit<'_>, session: &str) -> Value {
    use base64::Engine;
    let data = base64::engine::general_purpose::STANDARD.encode(session);
    // Not of the part `plane`: that it changes is no reason to look at the plane.
    let body = json!({ "type": "Opaque", "data": { BUCKET_KEYS_FILE: data } });
    kit.object(&SECRET, BUCKET_KEYS, "bucket", body)
}

/// The volume, if there is one, and where it is mounted.
pub(super) fn volume(config: &KubernetesConfig) -> Option<(Value, Value)> {
    let (source, place) = match config.buckets.credentials {
        BucketCredentials::Static { .. } | BucketCredentials::Issued { .. } => return None,
        BucketCredentials::Session { .. } => {
            let secret = json!({ "secret": { "secretName": BUCKET_KEYS, "defaultMode": 0o440 } });
            (secret, BUCKET_DIRECTORY)
        }
        BucketCredentials::Irsa { .. } => {
            let token = json!({ "path": "token", "audience": AUDIENCE, "expirationSeconds": 3600 });
            let projected =
                json!({ "projected": { "defaultMode": 0o440, "sources": [{ "serviceAccountToken": token }] } });
            (projected, TOKEN_DIRECTORY)
        }
    };
    let mut volume = source;
    volume["name"] = "bucket".into();
    let mount = json!({ "name": "bucket", "mountPath": place, "readOnly": true });
    Some((volume, mount))
}
