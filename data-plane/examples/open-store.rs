//! Opens a bucket as a data plane does, the `store` of its configuration on standard input, with a key that it marks the bucket with.

use chassis::Environment;
use contract::config::StoreConfig;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    chassis::process::install_tls_provider();
    let store: StoreConfig = serde_json::from_reader(std::io::stdin())?;
    let key = "07".repeat(32);
    data_plane::stores::open_encrypted(&store, Some(&key), &Environment::system()).await?;
    println!("opened");
    Ok(())
}
