//! What the images of specs stand for when these are applied. Everything else then goes by the digest: what runs, the keys of
//! datums, releases and provenance.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};

use super::examine::{Parsed, field, invalid};
use crate::failure::Answer;
use crate::images::{Digest, ImageError, ImageReference};
use crate::plane::Plane;

/// Registries are asked so much at once.
const AT_ONCE: usize = 4;

/// An image by name, and whether the spec says what to run in it.
type Wanted = (String, bool);
/// What was found of one.
type Search<'a> = (&'a Wanted, Result<Digest, ImageError>);

/// Resolves the image of each spec that has one, each image once.
///
/// # Errors
/// `invalid` at each image that is not there, not for this machine, or may not be fetched.
pub async fn resolve(plane: &Plane, specs: &mut [Parsed]) -> Answer<()> {
    let all: BTreeSet<Wanted> = specs.iter().filter_map(wanted).collect();
    let searches: Vec<BoxFuture<'_, Search<'_>>> = all.iter().map(|wanted| find(plane, wanted).boxed()).collect();
    let searches = futures::stream::iter(searches).buffer_unordered(AT_ONCE);
    let found: BTreeMap<&Wanted, Result<Digest, ImageError>> = searches.collect().await;
    let mut errors = Vec::new();
    for (index, parsed) in specs.iter_mut().enumerate() {
        match wanted(parsed).and_then(|wanted| found.get(&wanted)) {
            Some(Ok(digest)) => parsed.image_digest = Some(digest.to_string()),
            Some(Err(error)) => errors.push(field(index, "/transform/image", error.to_string())),
            None => {}
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(errors))
    }
}

/// The image of a spec, and whether the spec says what to run in it.
fn wanted(parsed: &Parsed) -> Option<Wanted> {
    let transform = &parsed.spec.transform;
    let image = transform.image.clone()?;
    Some((image, !transform.cmd.is_empty()))
}

async fn find<'a>(plane: &Plane, wanted: &'a Wanted) -> Search<'a> {
    let (image, has_command) = wanted;
    let found = match image.parse::<ImageReference>() {
        Ok(reference) => plane.images.resolve(&reference, *has_command).await,
        Err(error) => Err(error.into()),
    };
    (wanted, found)
}
