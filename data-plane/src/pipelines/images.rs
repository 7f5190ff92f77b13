//! What the images of specs stand for when these are applied. Everything else then goes by the digest: what runs, the keys of
//! datums, releases and provenance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::names::{ProjectName, SecretName};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use provenance::spec::PipelineSpec;

use super::examine::{Examined, Parsed, field, invalid};
use crate::failure::{Answer, Failure};
use crate::images::{Digest, ImageError, ImageReference, Login, credentials};
use crate::plane::Plane;
use crate::secrets;

/// Registries are asked so much at once.
const AT_ONCE: usize = 4;
/// So long all of them together are waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// An image by name, whether the spec says what to run in it, and the secrets of which project its registry is signed in to with.
type Wanted = (String, bool, (ProjectName, Vec<SecretName>));
/// What was found of one.
type Search<'a> = (&'a Wanted, Result<Digest, ImageError>);

/// Resolves the image of each spec that has one, each image once. `before` is what there is of each: an image that stays
/// keeps its digest while its registry does not answer, and needs none if it is named by that digest.
///
/// # Errors
/// `invalid` at each image that is not there, not for this machine, or may not be fetched.
pub async fn resolve(plane: &Plane, specs: &mut [Parsed], before: &[Examined]) -> Answer<()> {
    let recorded: Vec<Option<Digest>> = specs
        .iter()
        .zip(before)
        .map(|(spec, before)| recorded(spec, before))
        .collect();
    for (parsed, recorded) in specs.iter_mut().zip(&recorded) {
        let named = wanted(parsed).and_then(|(name, ..)| name.parse::<ImageReference>().ok());
        let named = named.and_then(|reference| reference.digest().cloned());
        parsed.image_digest = named
            .filter(|named| recorded.as_ref() == Some(named))
            .map(|digest| digest.to_string());
    }
    let all: BTreeSet<Wanted> = specs
        .iter()
        .filter(|parsed| parsed.image_digest.is_none())
        .filter_map(wanted)
        .collect();
    let until = tokio::time::Instant::now() + ANSWER_WITHIN;
    let searches: Vec<BoxFuture<'_, Search<'_>>> =
        all.iter().map(|wanted| find(plane, wanted, until).boxed()).collect();
    let searches = futures::stream::iter(searches).buffer_unordered(AT_ONCE);
    let found: BTreeMap<&Wanted, Result<Digest, ImageError>> = searches.collect().await;
    let mut errors = Vec::new();
    for (index, (parsed, recorded)) in specs.iter_mut().zip(recorded).enumerate() {
        match (wanted(parsed).and_then(|wanted| found.get(&wanted)), recorded) {
            (Some(Ok(digest)), _) => parsed.image_digest = Some(digest.to_string()),
            (Some(Err(error)), Some(recorded)) if error.may_pass() => parsed.image_digest = Some(recorded.to_string()),
            (Some(Err(error)), _) => errors.push(field(index, "/transform/image", error.to_string())),
            (None, _) => {}
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(errors))
    }
}

/// The digest of the version that there is, if that one runs in the image of the same name, and nobody who signed in for it is left out
/// now: without them it may be an image that may not be had.
fn recorded(parsed: &Parsed, before: &Examined) -> Option<Digest> {
    let row = before.before.as_ref().filter(|row| row.in_image)?;
    let name = row.spec.0.pointer("/transform/image")?.as_str()?;
    let same = parsed.spec.transform.image.as_deref() == Some(name);
    let old = PipelineSpec::parse(&row.spec.0, &parsed.spec.project).ok()?;
    let now = &parsed.spec.transform.image_pull_secrets;
    let signs_in = old.transform.image_pull_secrets.iter().all(|name| now.contains(name));
    row.image_digest.as_ref().filter(|_| same && signs_in)?.parse().ok()
}

/// The image of a spec.
fn wanted(parsed: &Parsed) -> Option<Wanted> {
    let transform = &parsed.spec.transform;
    let image = transform.image.clone()?;
    let secrets = (parsed.spec.project.clone(), transform.image_pull_secrets.clone());
    Some((image, !transform.cmd.is_empty(), secrets))
}

/// Who signs in. Whoever applies the spec may use these secrets: that was looked at before.
async fn logins(plane: &Plane, (project, names): &(ProjectName, Vec<SecretName>)) -> Result<Vec<Login>, ImageError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let signing = |error: Failure| ImageError::SignIn(error.detail().to_owned());
    let mut conn = plane.pool.acquire().await.map_err(|error| signing(error.into()))?;
    secrets::of_registries(plane, &mut conn, project, names)
        .await
        .map_err(signing)
}

async fn find<'a>(plane: &Plane, wanted: &'a Wanted, until: tokio::time::Instant) -> Search<'a> {
    let (image, has_command, secrets) = wanted;
    let logins = match logins(plane, secrets).await {
        Ok(logins) => logins,
        Err(error) => return (wanted, Err(error)),
    };
    let found = match image.parse::<ImageReference>() {
        Ok(reference) => {
            let who = credentials(&logins, &reference);
            let resolving = plane.images.resolve(&reference, *has_command, who.as_ref());
            let asked = tokio::time::timeout_at(until, resolving).await;
            let late = |_| {
                Err(ImageError::Unreachable(format!(
                    "the registry of `{image}` takes too long to answer"
                )))
            };
            asked.unwrap_or_else(late)
        }
        Err(error) => Err(error.into()),
    };
    (wanted, found)
}
