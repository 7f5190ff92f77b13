//! Empties a bucket, page by page: every version of every object where the service keeps versions, else the objects.

use anyhow::Context;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::is_unknown;

/// Removes a page. `false`: there was nothing.
pub(super) async fn remove_page(client: &Client, bucket: &str) -> anyhow::Result<bool> {
    let page = match versions(client, bucket).await? {
        Page::Unknown => objects(client, bucket).await?,
        page => page,
    };
    match page {
        Page::Gone | Page::Unknown => Ok(false),
        Page::Of(found) if found.is_empty() => Ok(false),
        Page::Of(found) => remove(client, bucket, found).await.map(|()| true),
    }
}

/// What is there of a bucket.
enum Page {
    /// There is no such bucket.
    Gone,
    /// The service cannot say.
    Unknown,
    /// This, and maybe more.
    Of(Vec<ObjectIdentifier>),
}

/// A page of versions, and of the marks that stand for removed objects. A service that keeps none of them calls each object's
/// only version `null`, or does not know what is asked for.
async fn versions(client: &Client, bucket: &str) -> anyhow::Result<Page> {
    let page = match client.list_object_versions().bucket(bucket).send().await {
        Ok(page) => page,
        Err(error) if error.code() == Some("NoSuchBucket") => return Ok(Page::Gone),
        Err(error) if is_unknown(&error) => return Ok(Page::Unknown),
        // Where nobody may ask for versions there are none as a rule; else the bucket cannot be removed, which says so.
        Err(error) if error.code() == Some("AccessDenied") => return Ok(Page::Unknown),
        Err(error) => return Err(error).with_context(|| format!("the bucket `{bucket}` cannot be listed")),
    };
    let versions = page.versions().iter().map(|found| (found.key(), found.version_id()));
    let marks = page.delete_markers().iter().map(|mark| (mark.key(), mark.version_id()));
    let found = versions
        .chain(marks)
        .filter_map(|(key, version)| Some(named(key?, version)));
    Ok(Page::Of(found.collect::<Result<_, _>>()?))
}

async fn objects(client: &Client, bucket: &str) -> anyhow::Result<Page> {
    let page = match client.list_objects_v2().bucket(bucket).send().await {
        Ok(page) => page,
        Err(error) if error.code() == Some("NoSuchBucket") => return Ok(Page::Gone),
        Err(error) => return Err(error).with_context(|| format!("the bucket `{bucket}` cannot be listed")),
    };
    let keys = page.contents().iter().filter_map(|object| object.key());
    Ok(Page::Of(keys.map(|key| named(key, None)).collect::<Result<_, _>>()?))
}

fn named(key: &str, version: Option<&str>) -> Result<ObjectIdentifier, aws_sdk_s3::error::BuildError> {
    ObjectIdentifier::builder()
        .key(key)
        .set_version_id(version.map(str::to_owned))
        .build()
}

async fn remove(client: &Client, bucket: &str, found: Vec<ObjectIdentifier>) -> anyhow::Result<()> {
    let delete = Delete::builder().set_objects(Some(found)).quiet(true).build()?;
    let deleted = client.delete_objects().bucket(bucket).delete(delete).send().await;
    let deleted = deleted.with_context(|| format!("objects of the bucket `{bucket}` cannot be removed"))?;
    if let Some(error) = deleted.errors().first() {
        anyhow::bail!(
            "`{}` of the bucket `{bucket}` cannot be removed: {}",
            error.key().unwrap_or_default(),
            error.message().unwrap_or_default()
        );
    }
    Ok(())
}
