//! Container images that pipelines run from (`transform.image`). An image is resolved to a digest when a pipeline is applied;
//! a worker fetches that digest once, verifies and unpacks it, and its sandboxes share the unpacked files.
//!
//! Images come from registries, spoken to by the service itself and never by user code, under the rules of imports about
//! who may be reached. Those that show an image only to who signs in are signed in to with secrets of the project.

mod askers;
mod config;
mod logins;
mod manifest;
mod members;
mod reference;
mod registry;
mod store;
mod unpack;
#[cfg(test)]
mod unpack_tests;
mod users;

use contract::config::ImportConfig;

pub use config::ImageSettings;
pub use logins::{Login, credentials, docker_config, logins};
pub use reference::{Digest, ImageReference, ParseImageError};
pub use registry::{Credentials, Registry};
pub use store::{Store, Unpacked};
pub use unpack::{Bounds, Unpacking};
pub use users::User;

/// Why there is no such image here, in words that say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] ParseImageError),
    /// The registry, or what it leads to, may not be spoken to.
    #[error("{0}; whoever runs the service can allow it with HOWDAH_IMPORT_ALLOW")]
    NotAllowed(String),
    /// The registry does not show it to us.
    #[error(
        "`{0}` is not there, or only for who signs in: check the name and the tag, or name a secret in `transform.image_pull_secrets`"
    )]
    NotFound(String),
    /// Nobody can be signed in for it.
    #[error("{0}")]
    SignIn(String),
    /// It does not answer, or not as registries do.
    #[error("{0}")]
    Unreachable(String),
    /// What came is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// It is not for this machine, or beyond a bound.
    #[error("{0}")]
    Unfit(String),
    /// The disk.
    #[error("{0}; check the disk of HOWDAH_HOME")]
    Disk(String),
}

impl ImageError {
    /// Whether the same may succeed in a while.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Disk(_))
    }
}

/// Where images come from.
pub struct Images {
    registry: Registry,
}

impl Images {
    /// Makes it as configured.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(imports: &ImportConfig) -> anyhow::Result<Self> {
        Ok(Self {
            registry: Registry::new(imports)?,
        })
    }

    /// The digest that the name stands for now. The image is for this machine and says how it is run, or there is a command.
    ///
    /// # Errors
    /// When there is no such image for us.
    pub async fn resolve(
        &self,
        reference: &ImageReference,
        has_command: bool,
        who: Option<&Credentials>,
    ) -> Result<Digest, ImageError> {
        let (digest, manifest) = self.registry.manifest(reference, who).await?;
        let config = self.registry.small_blob(reference, &manifest.config, who).await?;
        let settings = ImageSettings::parse(&config)?;
        if !has_command && settings.command().is_empty() {
            return Err(ImageError::Unfit(format!(
                "`{reference}` says no command to run: give `transform.cmd`"
            )));
        }
        Ok(digest)
    }
}
