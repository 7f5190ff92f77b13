//! The directories of a tenant: `home/tenants/<organization>/{bucket,plane}` and its log. Nobody but the service's own
//! user may look into them.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use contract::ids::OrganizationId;

/// Where a tenant's files are.
pub(super) struct Directories {
    pub tenant: PathBuf,
    pub bucket: PathBuf,
    pub home: PathBuf,
    pub log: PathBuf,
}

impl Directories {
    pub fn of(service: &Path, organization: OrganizationId) -> Self {
        let tenant = service.join("tenants").join(organization.to_string());
        Self {
            bucket: tenant.join("bucket"),
            home: tenant.join("plane"),
            log: service.join("log").join(format!("plane-{organization}.log")),
            tenant,
        }
    }

    pub async fn create(&self) -> anyhow::Result<()> {
        let log = self.log.parent().map(Path::to_owned);
        let all = [self.home.clone(), self.bucket.clone()];
        tokio::task::spawn_blocking(move || {
            for directory in all.into_iter().chain(log) {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&directory)
                    .with_context(|| format!("the directory `{}` cannot be made", directory.display()))?;
            }
            Ok(())
        })
        .await?
    }
}

pub(super) async fn exists(path: &Path) -> anyhow::Result<bool> {
    tokio::fs::try_exists(path)
        .await
        .with_context(|| format!("`{}` cannot be looked at", path.display()))
}

/// Removes a file or a directory with all in it; one that is not there is removed already.
pub(super) async fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match tokio::fs::symlink_metadata(path).await {
        Ok(about) if about.is_dir() => tokio::fs::remove_dir_all(path).await,
        Ok(_) => tokio::fs::remove_file(path).await,
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("`{}` cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
