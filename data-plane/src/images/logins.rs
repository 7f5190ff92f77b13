//! How registries that show images only to who signs in are signed in to (`transform.image_pull_secrets`). A secret holds what
//! `docker login` keeps (key `dockerconfigjson` or `config.json`), or `registry`, `username` and `password`: a pair goes to the
//! registry that is named beside it and to no other, since the name of an image may give any host. Whoever may apply a spec with a secret could print it; nothing else is ever shown it.

use std::collections::BTreeMap;

use base64::Engine as _;
use contract::names::SecretName;
use serde::{Deserialize, Serialize};

use super::{Credentials, ImageReference};
use crate::worker::protocol::Hidden;

/// Keys under which the file of `docker login` may stand.
const FILES: [&str; 2] = ["dockerconfigjson", "config.json"];
/// Names under which Docker's own registry goes.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Under which name `docker login` writes it down.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A pair for a registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// Host and port.
    host: String,
    username: String,
    password: Hidden,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

impl Auth {
    fn pair(self) -> Option<(String, String)> {
        if let (Some(username), Some(password)) = (self.username, self.password) {
            return Some((username, password));
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(self.auth?.trim())
            .ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        Some((username.to_owned(), password.to_owned()))
    }
}

/// What a secret holds for registries.
///
/// # Errors
/// In words, without any value, what it lacks.
pub fn logins(name: &SecretName, values: &BTreeMap<String, String>) -> Result<Vec<Login>, String> {
    let lacks = |what: &str| {
        format!(
            "the secret `{name}` {what}: `howdah secret set {name} --from-file config.json=~/.docker/config.json`, or set `registry`, `username` and `password`"
        )
    };
    if let Some(file) = FILES.iter().find_map(|key| values.get(*key)) {
        let config: DockerConfig =
            serde_json::from_str(file).map_err(|_| lacks("is no file as `docker login` writes it"))?;
        let logins = config.auths.into_iter().filter_map(|(address, auth)| {
            let (username, password) = auth.pair()?;
            Some(Login {
                host: host_of(&address).to_owned(),
                username,
                password: Hidden(password),
            })
        });
        let logins: Vec<Login> = logins.collect();
        // A helper of that machine keeps them.
        return match logins.is_empty() {
            true => Err(lacks("names no registry with a password in it")),
            false => Ok(logins),
        };
    }
    let (username, password) = match (values.get("username"), values.get("password")) {
        (Some(username), Some(password)) => (username.clone(), password.clone()),
        _ => return Err(lacks("signs in to no registry")),
    };
    let registry = values.get("registry").map(|address| host_of(address.trim()));
    match registry.filter(|host| !host.is_empty()) {
        Some(host) => Ok(vec![Login {
            host: host.to_owned(),
            username,
            password: Hidden(password),
        }]),
        None => Err(lacks(
            "does not say which registry its `username` and `password` are for",
        )),
    }
}

/// The file of `docker login` with all of them, for who pulls images itself. It holds their passwords. Of two for one registry the
/// first counts, as here.
pub fn docker_config(logins: &[Login]) -> String {
    let mut auths = serde_json::Map::new();
    for login in logins {
        let host = match DOCKER_HUB.contains(&login.host.as_str()) {
            true => DOCKER_HUB_KEY,
            false => login.host.as_str(),
        };
        let pair = format!("{}:{}", login.username, login.password.0);
        let auth = base64::engine::general_purpose::STANDARD.encode(pair);
        auths.entry(host).or_insert_with(|| serde_json::json!({ "auth": auth }));
    }
    serde_json::json!({ "auths": auths }).to_string()
}

/// `https://index.docker.io/v1/` → `index.docker.io`
fn host_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Who signs in where that image is: the first pair that is for that registry.
pub fn credentials(logins: &[Login], reference: &ImageReference) -> Option<Credentials> {
    let host = reference.host();
    let is_for = |named: &str| named == host || (DOCKER_HUB.contains(&named) && DOCKER_HUB.contains(&host));
    let found = logins.iter().find(|login| is_for(&login.host))?;
    Some(Credentials {
        username: found.username.clone(),
        password: found.password.0.clone().into(),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn pair(values: &[(&str, &str)], image: &str) -> Result<Option<(String, String)>, String> {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let logins = logins(&"registry".parse().unwrap(), &values)?;
        let found = credentials(&logins, &image.parse().unwrap());
        Ok(found.map(|found| (found.username, found.password.expose_secret().to_owned())))
    }

    #[test]
    fn a_pair_is_used_where_it_is_for_and_nowhere_else() {
        let ada = Ok(Some(("ada".to_owned(), "pw:1".to_owned())));
        // ada:pw:1
        let file = r#"{"auths": {"ghcr.io": {"auth": "YWRhOnB3OjE="}, "https://index.docker.io/v1/": {"username": "ada", "password": "pw:1"}}}"#;
        for key in FILES {
            assert_eq!(pair(&[(key, file)], "ghcr.io/acme/tool:1"), ada);
            assert_eq!(pair(&[(key, file)], "acme/tool:1"), ada);
            assert_eq!(pair(&[(key, file)], "quay.io/acme/tool:1"), Ok(None));
        }
        let plain = [("username", "ada"), ("password", "pw:1")];
        let unbound = pair(&plain, "quay.io/acme/tool").unwrap_err();
        assert!(unbound.contains("which registry"), "{unbound}");
        let bound = [plain[0], plain[1], ("registry", "https://ghcr.io")];
        assert_eq!(pair(&bound, "ghcr.io/acme/tool"), ada);
        assert_eq!(pair(&bound, "ghcr.io.evil.example/acme/tool"), Ok(None));
    }

    #[test]
    fn what_signs_in_to_nothing_is_said_without_its_values() {
        for values in [
            &[("username", "hunter2")][..],
            &[("username", "ada"), ("password", "hunter2"), ("registry", " ")],
            &[("config.json", "hunter2")],
            &[("config.json", r#"{"auths": {"ghcr.io": {}}, "credsStore": "hunter2"}"#)],
            &[("dockerconfigjson", r#"{"auths": {"ghcr.io": {"auth": "hunter2"}}}"#)],
        ] {
            let said = pair(values, "ghcr.io/a/b").unwrap_err();
            assert!(said.contains("`registry`") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn what_signs_in_here_signs_in_elsewhere_by_the_file_that_is_written() {
        let login = |host: &str, password: &str| Login {
            host: host.to_owned(),
            username: "ada".to_owned(),
            password: Hidden(password.to_owned()),
        };
        let all = [
            login("ghcr.io", "pw:1"),
            login("ghcr.io", "other"),
            login("docker.io", "pw:1"),
        ];
        let file = docker_config(&all);
        for image in ["ghcr.io/a/b", "a/b"] {
            let found = pair(&[("config.json", &file)], image).unwrap();
            assert_eq!(found, Some(("ada".to_owned(), "pw:1".to_owned())), "{image}");
        }
        assert!(file.contains(DOCKER_HUB_KEY), "the only name of it that kubelets know");
    }

    #[test]
    fn no_log_shows_a_password() {
        let values = [("registry", "ghcr.io"), ("username", "ada"), ("password", "hunter2")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()));
        let logins = logins(&"registry".parse().unwrap(), &values.into()).unwrap();
        let found = credentials(&logins, &"ghcr.io/a/b".parse().unwrap());
        assert!(found.is_some() && !format!("{logins:?} {found:?}").contains("hunter2"));
    }
}
