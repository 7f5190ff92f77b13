//! What an image says of how it is run.

use serde::Deserialize;

use super::{Digest, ImageError};

/// The part of an image's configuration that is heeded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ImageSettings {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
    #[serde(rename = "WorkingDir")]
    working_dir: Option<String>,
    #[serde(rename = "User")]
    user: Option<String>,
    /// Digests of the layers before they were compressed.
    #[serde(skip_deserializing)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    config: Option<ImageSettings>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl ImageSettings {
    /// Reads an image's configuration.
    ///
    /// # Errors
    /// When it is none, or that of another kind of machine.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let whole: Whole = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::Damaged(format!("the image's configuration cannot be read: {error}")))?;
        let (os, architecture) = (whole.os.as_str(), whole.architecture.as_str());
        let fits = |found: &str, wanted: &str| found.is_empty() || found == wanted;
        if !fits(os, "linux") || !fits(architecture, super::manifest::architecture()) {
            return Err(ImageError::Unfit(format!(
                "the image is for {os}/{architecture}, and this machine is linux/{}: build it for that",
                super::manifest::architecture()
            )));
        }
        Ok(Self {
            diff_ids: whole.rootfs.diff_ids,
            ..whole.config.unwrap_or_default()
        })
    }

    /// Entrypoint and its arguments: what is run when the spec names no command.
    pub fn command(&self) -> Vec<String> {
        let parts = [&self.entrypoint, &self.cmd];
        parts.into_iter().flatten().flatten().cloned().collect()
    }

    /// Variables; of one that is named twice the later counts.
    pub fn env(&self) -> Vec<(String, String)> {
        let all = self.env.iter().flatten().filter_map(|line| line.split_once('='));
        let fits = |name: &str| !name.is_empty() && !name.contains('\0');
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, value) in all.filter(|(name, value)| fits(name) && !value.contains('\0')) {
            found.retain(|(known, _)| known != name);
            found.push((name.to_owned(), value.to_owned()));
        }
        found
    }

    /// Where the command starts.
    pub fn working_dir(&self) -> &str {
        match self.working_dir.as_deref() {
            None | Some("") => "/",
            Some(path) => path,
        }
    }

    /// `USER`: a name or a number, with or without a group.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or_default()
    }

    /// The digest of each layer before it was compressed.
    ///
    /// # Errors
    /// When there are not as many as layers.
    pub fn diff_ids(&self, layers: usize) -> Result<Vec<Digest>, ImageError> {
        let found: Result<Vec<Digest>, _> = self.diff_ids.iter().map(|id| id.parse()).collect();
        match found {
            Ok(found) if found.len() == layers => Ok(found),
            _ => Err(ImageError::Damaged(format!(
                "the image's configuration and its {layers} layers do not agree"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_is_read_and_what_it_leaves_out_has_defaults() {
        let whole = serde_json::json!({
            "os": "linux", "architecture": crate::images::manifest::architecture(),
            "config": {
                "Env": ["A=1", "PATH=/x", "A=2=3", "broken"], "Entrypoint": ["/run"], "Cmd": ["-v"], "User": "app:web",
                "WorkingDir": "/w", "Labels": {"a": "b"},
            },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"a").as_str()] },
        });
        let read = |value: &serde_json::Value| ImageSettings::parse(value.to_string().as_bytes());
        let found = read(&whole).unwrap();
        assert_eq!(found.command(), ["/run", "-v"]);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(found.env(), [pair("PATH", "/x"), pair("A", "2=3")]);
        assert_eq!((found.user(), found.working_dir()), ("app:web", "/w"));
        assert_eq!(found.diff_ids(1).unwrap(), [Digest::of(b"a")]);
        assert!(found.diff_ids(2).is_err());
        let bare = read(&serde_json::json!({ "config": null, "rootfs": {} })).unwrap();
        assert_eq!((bare.command().len(), bare.user(), bare.working_dir()), (0, "", "/"));
        let other = read(&serde_json::json!({ "os": "windows", "architecture": "amd64", "rootfs": {} }));
        assert!(other.unwrap_err().to_string().contains("windows/amd64"));
    }
}
