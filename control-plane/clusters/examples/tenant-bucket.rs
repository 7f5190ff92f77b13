//! Does one thing with the bucket of an organization, as the control plane does it: `create`, `session` (prints it), `remove`. The
//! object store is said on standard input, as in `cloud.buckets`. For whoever tries a store's sessions.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use clusters::buckets::TenantBuckets;
use contract::cloud::BucketsConfig;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::Buckets;
use provisioner::pass::Environment;

/// The clock of this machine.
struct Clock(chassis::Environment);

impl Environment for Clock {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }

    fn random(&self) -> [u8; 30] {
        self.0.random()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    chassis::process::install_tls_provider();
    let mut words = std::env::args().skip(1);
    let (Some(verb), Some(organization)) = (words.next(), words.next()) else {
        anyhow::bail!("say what to do, and the id of an organization");
    };
    let organization: OrganizationId = organization.parse()?;
    let config: BucketsConfig = serde_json::from_reader(std::io::stdin())?;
    let buckets = TenantBuckets::open(
        config,
        "example".to_owned(),
        Arc::new(Clock(chassis::Environment::system())),
    )
    .await?;
    match verb.as_str() {
        "create" => buckets.create(organization).await?,
        "session" => println!("{}", serde_json::to_string(&buckets.session(organization).await?)?),
        // A call removes some pages.
        "remove" => {
            while buckets.exists(organization).await? {
                buckets.remove(organization).await?;
            }
        }
        _ => anyhow::bail!("`{verb}` is nothing that can be done with a bucket"),
    }
    println!("{}", buckets.name(organization));
    Ok(())
}
