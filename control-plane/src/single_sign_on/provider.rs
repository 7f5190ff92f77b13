//! The providers of the configuration, and how they are spoken to: their own addresses only, no redirect is followed, answers are
//! short, and an identity counts once its token fits key, issuer, audience, time and nonce.

use std::collections::BTreeMap;
use std::time::Duration;

use chassis::http::ApiError;
use chrono::{DateTime, TimeDelta, Utc};
use contract::config::ProviderConfig;
use contract::problem::ProblemKind;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreIdToken, CoreIdTokenClaims, CoreJwsSigningAlgorithm as Alg,
    CoreProviderMetadata,
};
use openidconnect::{
    AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse,
    IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, SignatureVerificationError,
    TokenResponse,
};
use tokio::sync::Mutex;

use super::Identity;
use crate::refusal::Refusal;

/// Signatures that count: none that a client's secret or nobody's key makes.
const ALGORITHMS: [Alg; 9] = [
    Alg::RsaSsaPkcs1V15Sha256,
    Alg::RsaSsaPkcs1V15Sha384,
    Alg::RsaSsaPkcs1V15Sha512,
    Alg::RsaSsaPssSha256,
    Alg::RsaSsaPssSha384,
    Alg::RsaSsaPssSha512,
    Alg::EcdsaP256Sha256,
    Alg::EcdsaP384Sha384,
    Alg::EdDsa,
];
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// OpenID Connect Core, section 2.
const SUBJECT_LENGTH_MAX: usize = 255;
const PATIENCE: Duration = Duration::from_secs(10);
/// What a provider says of itself, its keys too, is asked again after that.
const METADATA_KEPT: TimeDelta = TimeDelta::hours(1);
/// An unknown key makes us ask earlier, but not more often than that.
const METADATA_LEAST: TimeDelta = TimeDelta::minutes(1);
/// A token is made at the moment of the log-in; clocks may differ by that.
const TOKEN_AGE_MAX: TimeDelta = TimeDelta::minutes(10);

/// The providers.
#[derive(Default)]
pub struct Providers {
    by_name: BTreeMap<String, Provider>,
}

/// One of them.
pub(crate) struct Provider {
    pub config: ProviderConfig,
    redirect: RedirectUrl,
    http: reqwest::Client,
    known: Mutex<Option<(CoreProviderMetadata, DateTime<Utc>)>>,
}

/// What a log-in is begun with.
pub(super) struct Beginning {
    pub state: String,
    pub nonce: String,
    pub verifier: String,
}

/// A provider that could not be asked.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("its answer is longer than {ANSWER_BYTES_MAX} bytes, or broke off")]
    Body,
    #[error("its answer cannot be read: {0}")]
    Parts(#[from] http::Error),
}

impl Providers {
    /// Reads the configuration; asks nobody yet.
    ///
    /// # Errors
    /// Which provider's is not usable.
    pub fn new(configs: &[ProviderConfig], public_url: &str) -> anyhow::Result<Self> {
        use anyhow::Context;
        let mut by_name = BTreeMap::new();
        for config in configs {
            let name = config.name.clone();
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            anyhow::ensure!(
                !name.is_empty() && name.bytes().all(plain) && name != "second-factor",
                "the name of a provider has lower case letters, digits and `-`, and is not `second-factor`: `{name}`"
            );
            let issuer =
                url::Url::parse(&config.issuer).with_context(|| format!("the issuer of `{name}` is no URL"))?;
            let here = matches!(issuer.host_str(), Some("127.0.0.1" | "localhost"));
            anyhow::ensure!(
                issuer.scheme() == "https" || here,
                "the issuer of `{name}` must begin with `https://`"
            );
            let http = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(PATIENCE)
                .build()?;
            let redirect = RedirectUrl::new(format!("{public_url}/v1/log-in/{name}/callback"))?;
            let provider = Provider {
                config: config.clone(),
                redirect,
                http,
                known: Mutex::new(None),
            };
            anyhow::ensure!(
                by_name.insert(name.clone(), provider).is_none(),
                "there are two providers called `{name}`"
            );
        }
        Ok(Self { by_name })
    }

    /// The provider of that name.
    pub(crate) fn find(&self, name: &str) -> Option<&Provider> {
        self.by_name.get(name)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Provider> {
        self.by_name.values()
    }
}

async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, Unanswered> {
    let response = http.execute(request.try_into()?).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = Limited::new(reqwest::Body::from(response), ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|_| Unanswered::Body)?.to_bytes().to_vec();
    let mut answer = http::Response::builder().status(status).body(body)?;
    *answer.headers_mut() = headers;
    Ok(answer)
}

type Sending = BoxFuture<'static, Result<HttpResponse, Unanswered>>;

fn sender(http: reqwest::Client) -> impl Fn(HttpRequest) -> Sending + Send + Sync {
    move |request| Box::pin(send(http.clone(), request))
}

/// What went wrong, with what made it go wrong.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error;
    while let Some(source) = at.source() {
        text = format!("{text}: {source}");
        at = source;
    }
    text
}

fn discover(http: reqwest::Client, issuer: IssuerUrl) -> BoxFuture<'static, Result<CoreProviderMetadata, String>> {
    Box::pin(async move {
        let found = CoreProviderMetadata::discover_async(issuer, &sender(http)).await;
        found.map_err(|error| chain(&error))
    })
}

/// Exchanges a code for the token that says who it is.
fn exchange(
    provider: &Provider,
    metadata: CoreProviderMetadata,
    code: String,
    verifier: String,
) -> BoxFuture<'static, Result<CoreIdToken, String>> {
    let http = provider.http.clone();
    let client_id = ClientId::new(provider.config.client_id.clone());
    let secret = ClientSecret::new(provider.config.client_secret.clone());
    let redirect = provider.redirect.clone();
    Box::pin(async move {
        let client = CoreClient::from_provider_metadata(metadata, client_id, Some(secret)).set_redirect_uri(redirect);
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|e| chain(&e))?;
        let answer = request
            .set_pkce_verifier(PkceCodeVerifier::new(verifier))
            .request_async(&sender(http))
            .await
            .map_err(|error| chain(&error))?;
        answer
            .id_token()
            .cloned()
            .ok_or_else(|| "it sent no identity".to_owned())
    })
}

impl Provider {
    async fn metadata(&self, now: DateTime<Utc>, kept: TimeDelta) -> Result<CoreProviderMetadata, Refusal> {
        let mut known = self.known.lock().await;
        if let Some((metadata, _)) = known.as_ref().filter(|(_, at)| now - *at < kept) {
            return Ok(metadata.clone());
        }
        let issuer = IssuerUrl::new(self.config.issuer.clone()).map_err(ApiError::internal)?;
        let found = discover(self.http.clone(), issuer).await;
        let metadata = found.map_err(|why| self.away(&why))?;
        *known = Some((metadata.clone(), now));
        Ok(metadata)
    }

    fn away(&self, why: &str) -> Refusal {
        tracing::warn!(provider = self.config.name, "the provider cannot be asked: {why}");
        Refusal::new(
            ProblemKind::UpstreamTimeout,
            format!(
                "`{}` does not answer as a provider of OpenID Connect",
                self.config.title
            ),
        )
        .hint("try again, or log in another way")
    }

    /// The address that a browser goes to.
    pub(super) async fn address(&self, begun: &Beginning, now: DateTime<Utc>) -> Result<String, Refusal> {
        let metadata = self.metadata(now, METADATA_KEPT).await?;
        let client = CoreClient::from_provider_metadata(metadata, ClientId::new(self.config.client_id.clone()), None)
            .set_redirect_uri(self.redirect.clone());
        let verifier = PkceCodeVerifier::new(begun.verifier.clone());
        let (state, nonce) = (begun.state.clone(), begun.nonce.clone());
        let (url, _, _) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .add_scope(Scope::new("email".to_owned()))
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(url.into())
    }

    /// Who it is that the code stands for.
    pub(super) async fn identify(
        &self,
        code: String,
        verifier: String,
        nonce: String,
        now: DateTime<Utc>,
    ) -> Result<Identity, Refusal> {
        let metadata = self.metadata(now, METADATA_KEPT).await?;
        let token = exchange(self, metadata.clone(), code, verifier).await;
        let token = token.map_err(|why| self.refused(&why))?;
        let nonce = Nonce::new(nonce);
        let identity = match self.read(&token, metadata, &nonce, now) {
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey)) => {
                // Its keys may be others by now.
                let metadata = self.metadata(now, METADATA_LEAST).await?;
                self.read(&token, metadata, &nonce, now)
            }
            done => done,
        }
        .map_err(|error| self.refused(&chain(&error)))?;
        if identity.subject.is_empty() || identity.subject.len() > SUBJECT_LENGTH_MAX {
            return Err(self.refused("its subject is empty, or longer than the standard allows"));
        }
        Ok(identity)
    }

    /// Who the token says it is, if it fits in everything.
    fn read(
        &self,
        token: &CoreIdToken,
        metadata: CoreProviderMetadata,
        nonce: &Nonce,
        now: DateTime<Utc>,
    ) -> Result<Identity, ClaimsVerificationError> {
        let client_id = ClientId::new(self.config.client_id.clone());
        let client = CoreClient::from_provider_metadata(metadata, client_id, None);
        let checks = client
            .id_token_verifier()
            .set_allowed_algs(ALGORITHMS)
            .set_time_fn(move || now)
            .set_issue_time_verifier_fn(move |at| {
                let fresh = (now - at).abs() <= TOKEN_AGE_MAX;
                fresh.then_some(()).ok_or_else(|| format!("made at {at}, not now"))
            });
        Ok(self.identity(token.claims(&checks, nonce)?))
    }

    fn identity(&self, claims: &CoreIdTokenClaims) -> Identity {
        Identity {
            issuer: self.config.issuer.clone(),
            subject: claims.subject().to_string(),
            verified_email: claims
                .email()
                .filter(|_| claims.email_verified() == Some(true))
                .map(|email| email.to_string()),
        }
    }

    fn refused(&self, why: &str) -> Refusal {
        tracing::warn!(provider = self.config.name, "an identity was not taken: {why}");
        Refusal::new(
            ProblemKind::SignedOut,
            format!("what `{}` says of who you are cannot be taken", self.config.title),
        )
        .hint("begin again; if it stays, tell whoever operates this service")
    }
}
