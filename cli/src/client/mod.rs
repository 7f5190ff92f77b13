//! Speaks to the control plane and, with short-lived access tokens, to data planes. What can be repeated safely is repeated:
//! a plane that wakes up, a token that ran out, a plane that moved. Everything else is the caller's to decide.

mod bucket;
mod request;
mod stream;
mod trace;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use contract::api::{AccessTokenMade, Page, WhoAmI};
use contract::problem::{Problem, ProblemKind};
use futures::future::BoxFuture;
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::account;
use crate::clock;
use crate::credentials::{CachedAccess, Credentials, Login};
use crate::embedded::home::Home;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::settings::Settings;
pub use request::{Request, segment};
pub use stream::blocking_reader;
pub use wire::broken;
use wire::{chain, unreachable};

const EPOCH: &str = "howdah-epoch";
/// How long a plane may take to wake, and a busy service to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A wait that people are told of.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// How long a control plane that died may take to come back.
const RESTART_PATIENCE: Duration = Duration::from_secs(15);

/// The client of one run.
pub struct Client {
    http: reqwest::Client,
    /// For this machine itself, which no proxy can reach, nor should see passwords on the way to it.
    http_here: reqwest::Client,
    /// What the environment says.
    pub settings: Settings,
    /// What is remembered.
    pub credentials: Credentials,
    output: Output,
    /// All requests of one command are one trace, that of who calls the command if he says so.
    trace: String,
    access: tokio::sync::Mutex<Option<CachedAccess>>,
    /// What could not be written down.
    unwritten: Mutex<Login>,
    /// The plane's own address cannot be reached from here.
    through_gateway: AtomicBool,
}

/// Which address a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Control,
    Plane,
    /// The plane itself where it can be reached: for bulk bytes.
    Direct,
}

impl Client {
    /// A client with the settings of the environment.
    ///
    /// # Errors
    /// When the HTTP library cannot start.
    pub fn new(settings: Settings, output: Output) -> Outcome<Self> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("howdah/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(10))
        };
        let failed = |e| Failure::new("cannot start", e, "check this machine's certificates");
        Ok(Self {
            http: builder().build().map_err(failed)?,
            http_here: builder().no_proxy().build().map_err(failed)?,
            credentials: Credentials::new(&settings.config, &settings.url),
            settings,
            output,
            trace: trace::of_command(),
            access: tokio::sync::Mutex::new(None),
            unwritten: Mutex::default(),
            through_gateway: AtomicBool::new(false),
        })
    }

    /// Says something beside the result; to people only.
    pub fn hint(&self, text: &str) {
        self.output.hint(text);
    }

    /// Asks the control plane.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control<T: DeserializeOwned>(&self, request: Request) -> Outcome<T> {
        read(self.send(Target::Control, &request).await?).await
    }

    /// Asks the control plane without a token: to sign up or log in.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control_anonymous<T: DeserializeOwned>(&self, request: Request) -> Outcome<T> {
        read(self.send(Target::Control, &request.anonymous()).await?).await
    }

    /// The same for something whose answer is nothing.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control_anonymous_done(&self, request: Request) -> Outcome {
        self.send(Target::Control, &request.anonymous()).await.map(drop)
    }

    /// Asks the organization's data plane.
    ///
    /// # Errors
    /// What it answers.
    pub async fn plane<T: DeserializeOwned>(&self, request: Request) -> Outcome<T> {
        read(self.send(Target::Plane, &request).await?).await
    }

    /// Asks for something whose answer is nothing.
    ///
    /// # Errors
    /// What the plane answers.
    pub async fn plane_done(&self, request: Request) -> Outcome {
        self.send(Target::Plane, &request).await.map(drop)
    }

    /// The same at the control plane; an answer with an epoch is remembered.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control_done(&self, request: Request) -> Outcome {
        let response = self.send(Target::Control, &request).await?;
        let bytes = response.bytes().await.unwrap_or_default();
        if let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
            && let Some(epoch) = value.get("epoch").and_then(serde_json::Value::as_u64)
        {
            self.saw_epoch(epoch).await?;
        }
        Ok(())
    }

    /// All pages of a list of the control plane.
    ///
    /// # Errors
    /// What it answers.
    pub async fn control_list<T: DeserializeOwned>(&self, request: Request) -> Outcome<Vec<T>> {
        self.pages(Target::Control, request, None).await
    }

    /// All pages of a list of the data plane, or as many rows as asked for.
    ///
    /// # Errors
    /// What it answers.
    pub async fn plane_list<T: DeserializeOwned>(&self, request: Request, limit: Option<usize>) -> Outcome<Vec<T>> {
        self.pages(Target::Plane, request, limit).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        target: Target,
        request: Request,
        most: Option<usize>,
    ) -> Outcome<Vec<T>> {
        let mut items: Vec<T> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let left = most.map_or(200, |most| most.saturating_sub(items.len()).min(200));
            if left == 0 {
                return Ok(items);
            }
            let mut request = request.clone().query("limit", left);
            if let Some(cursor) = &cursor {
                request = request.query("cursor", cursor);
            }
            let page: Page<T> = read(self.send(target, &request).await?).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    /// One page: the items and where the next begins.
    ///
    /// # Errors
    /// What the plane answers.
    pub async fn plane_page<T: DeserializeOwned>(&self, request: Request) -> Outcome<Page<T>> {
        self.plane(request).await
    }

    async fn send(&self, target: Target, request: &Request) -> Outcome<Response> {
        let began = Instant::now();
        let spinner = self.output.spinner("");
        let (mut renewed, mut told, mut proved) = (false, false, false);
        loop {
            let (builder, base) = self.prepare(target, request).await?;
            let response = match builder.send().await {
                Ok(response) => response,
                Err(error) if error.is_connect() && target == Target::Direct && !self.through_gateway() => {
                    // It slept or moved: a new access token wakes it and tells where it is. Else it listens where this
                    // machine does not reach it, and the gateway does.
                    if renewed {
                        self.through_gateway.store(true, Ordering::Relaxed);
                    }
                    renewed = true;
                    self.forget_access().await?;
                    continue;
                }
                Err(error) if error.is_connect() && self.is_restarting(began) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
                Err(error) => return Err(unreachable(&base, &error)),
            };
            if let Some(epoch) = epoch_of(&response) {
                self.saw_epoch(epoch).await?;
            }
            if response.status().is_success() || response.status() == StatusCode::PARTIAL_CONTENT {
                return Ok(response);
            }
            let failure = problem_of(response).await;
            let expired = failure.is(ProblemKind::TokenExpired) || failure.is(ProblemKind::SignedOut);
            if expired && target != Target::Control && !renewed {
                renewed = true;
                self.forget_access().await?;
            } else if failure.is(ProblemKind::ProofRequired) && request.path != account::PROOF && !proved {
                spinner.finish_and_clear();
                proved = Box::pin(account::prove_at_terminal(self)).await?;
                if !proved {
                    return Err(failure);
                }
            } else if may_repeat(&failure, request.repeatable) && began.elapsed() < PATIENCE {
                spinner.set_message(failure.what.clone());
                if failure.pause >= LONG_PAUSE && !std::mem::replace(&mut told, true) {
                    self.hint(&format!("{}: {}; trying again for a minute", failure.what, failure.why));
                }
                tokio::time::sleep(failure.pause).await;
            } else {
                return Err(failure);
            }
        }
    }

    async fn prepare(&self, target: Target, request: &Request) -> Outcome<(reqwest::RequestBuilder, String)> {
        let (base, token, epoch) = match target {
            Target::Control if request.anonymous => (self.settings.url.clone(), None, None),
            Target::Control => (self.settings.url.clone(), Some(self.token()?), None),
            Target::Plane | Target::Direct => {
                let access = self.access().await?;
                let direct = access
                    .direct_url
                    // An address of this machine is of use only where the service itself is on it: a service behind a proxy
                    // may take a caller from elsewhere for one of its own machine.
                    .filter(|direct| !is_here(direct) || is_here(&self.settings.url))
                    .filter(|_| target == Target::Direct && !self.through_gateway());
                let epoch = self.remembered().epochs.get(&access.organization_id).copied();
                (direct.unwrap_or(access.plane_url), Some(access.access_token), epoch)
            }
        };
        let http = if is_here(&base) { &self.http_here } else { &self.http };
        let mut builder = http
            .request(request.method.clone(), format!("{base}{}", request.path))
            .query(&request.query);
        builder = builder.header("traceparent", &self.trace);
        if let Some(token) = token {
            builder = builder.bearer_auth(token);
        }
        if let Some(epoch) = epoch {
            builder = builder.header(EPOCH, epoch);
        }
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        Ok((builder, base))
    }

    /// `HOWDAH_TOKEN`, else the stored session.
    ///
    /// # Errors
    /// Exit code 4 when there is neither.
    pub fn token(&self) -> Outcome<String> {
        if let Some(token) = &self.settings.token {
            return Ok(token.clone());
        }
        self.credentials.read().session_token.ok_or_else(|| {
            Failure::new(
                "not logged in",
                format!("there is no stored login for {}", self.settings.url),
                "log in with `howdah login`, sign up with `howdah signup`, or set HOWDAH_TOKEN",
            )
            .with_exit(Exit::Denied)
        })
    }

    /// The organization that commands are about.
    ///
    /// # Errors
    /// When there are none or several and none was chosen.
    pub async fn organization(&self) -> Outcome<String> {
        let remembered = || {
            self.credentials
                .read()
                .organization
                .filter(|_| self.settings.token.is_none())
        };
        if let Some(name) = self.settings.organization.clone().or_else(remembered) {
            return Ok(name);
        }
        let who: WhoAmI = self.control(Request::get("/v1/account")).await?;
        let names: Vec<String> = who.organizations.iter().map(|o| o.name.to_string()).collect();
        match names.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Failure::usage(
                "no organization",
                "you are not a member of any",
                "make one with `howdah org create NAME`, or accept an invitation with `howdah org accept TOKEN`",
            )),
            several => Err(Failure::usage(
                "several organizations",
                format!("you are a member of {}", several.join(", ")),
                "choose one with `howdah org use NAME` or HOWDAH_ORG",
            )),
        }
    }

    async fn access(&self) -> Outcome<CachedAccess> {
        let mut held = self.access.lock().await;
        let soon = clock::now() + TimeDelta::seconds(30);
        if let Some(access) = held.as_ref().filter(|a| a.expires_at > soon) {
            return Ok(access.clone());
        }
        let login = self.credentials.read();
        let key = self.access_key(&login)?;
        if let Some(access) = login.access.get(&key).filter(|a| a.expires_at > soon) {
            *held = Some(access.clone());
            return Ok(access.clone());
        }
        let made = self.exchange(&login).await?;
        let access = CachedAccess {
            access_token: made.access_token,
            expires_at: clock::now() + TimeDelta::seconds(i64::try_from(made.expires_in).unwrap_or(0)),
            organization_id: made.organization.id.to_string(),
            plane_url: reached_from_here(&self.settings.url, made.plane_url),
            direct_url: made.direct_url,
        };
        self.remember(|login| {
            let now = clock::now();
            login.access.retain(|_, a| a.expires_at > now);
            login.access.insert(key.clone(), access.clone());
            raise(login, &access.organization_id, made.epoch);
        })?;
        *held = Some(access.clone());
        Ok(access)
    }

    /// Boxed: asking for a token is a request too.
    fn exchange<'a>(&'a self, login: &Login) -> BoxFuture<'a, Outcome<AccessTokenMade>> {
        let own = login.organization.clone().filter(|_| self.settings.token.is_none());
        let organization = self.settings.organization.clone().or(own);
        let body = serde_json::json!({ "organization": organization });
        Box::pin(async move {
            let request = Request::post("/v1/access-tokens").body(&body)?;
            read(self.send(Target::Control, &request).await?).await
        })
    }

    /// Whom and what a cached access token is for. The last characters of a token are its checksum, no secret.
    fn access_key(&self, login: &Login) -> Outcome<String> {
        let token = self.token()?;
        let checksum = token.get(token.len().saturating_sub(6)..).unwrap_or_default();
        let own = login.organization.as_ref().filter(|_| self.settings.token.is_none());
        let organization = self.settings.organization.as_ref().or(own);
        Ok(format!("{checksum}@{}", organization.map_or("", String::as_str)))
    }

    async fn forget_access(&self) -> Outcome {
        *self.access.lock().await = None;
        let key = self.access_key(&self.credentials.read())?;
        self.remember(|login| {
            login.access.remove(&key);
        })
    }

    /// Remembers the epoch of a change, so that what is read next is at least that new.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub async fn saw_epoch(&self, epoch: u64) -> Outcome {
        let login = self.remembered();
        let held = self.access.lock().await.as_ref().map(|a| a.organization_id.clone());
        let current = match held {
            Some(id) => Some(id),
            None => {
                let key = self.access_key(&login).ok();
                let known = key.and_then(|key| login.access.get(&key));
                known.map(|a| a.organization_id.clone())
            }
        };
        // Without an access token the next thing is to get one, and that says which epoch is the newest.
        let Some(id) = current else { return Ok(()) };
        if login.epochs.get(&id).is_some_and(|known| *known >= epoch) {
            return Ok(());
        }
        self.remember(|login| raise(login, &id, epoch))
    }

    /// Writes down what was learned by using the service. Who has his token from the environment may have no place to write
    /// to: then it is known to this command only.
    fn remember(&self, change: impl Fn(&mut Login)) -> Outcome {
        match self.credentials.change(&change) {
            Err(_) if self.settings.token.is_some() => {
                change(&mut self.unwritten.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(())
            }
            written => written,
        }
    }

    fn remembered(&self) -> Login {
        let mut login = self.credentials.read();
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        for (organization, epoch) in &unwritten.epochs {
            raise(&mut login, organization, *epoch);
        }
        login
    }

    fn through_gateway(&self) -> bool {
        self.through_gateway.load(Ordering::Relaxed)
    }

    fn is_restarting(&self, began: Instant) -> bool {
        began.elapsed() < RESTART_PATIENCE && Home::new(&self.settings.home).is_supervised()
    }
}

fn raise(login: &mut Login, organization: &str, epoch: u64) {
    let known = login.epochs.entry(organization.to_owned()).or_default();
    *known = (*known).max(epoch);
}

/// The gateway's address of a plane. A service that listens on all addresses calls itself by the loopback's; who reached it
/// by another one goes on by that.
fn reached_from_here(service: &str, plane_url: String) -> String {
    if !is_here(&plane_url) || is_here(service) {
        return plane_url;
    }
    match reqwest::Url::parse(&plane_url) {
        Ok(url) => format!("{service}{}", url.path()),
        Err(_) => plane_url,
    }
}

/// Whether an address is this machine's own.
fn is_here(base: &str) -> bool {
    let Some(host) = reqwest::Url::parse(base)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned))
    else {
        return false;
    };
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn epoch_of(response: &Response) -> Option<u64> {
    response.headers().get(EPOCH)?.to_str().ok()?.parse().ok()
}

fn retry_after(response: &Response) -> Duration {
    let header = response
        .headers()
        .get("retry-after")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    // A plane wakes in less than the second that the header can say at the least.
    match header {
        Some(0 | 1) | None => Duration::from_millis(200),
        Some(seconds) => Duration::from_secs(seconds).min(Duration::from_secs(10)),
    }
}

/// Whether nothing has happened yet, or asking again changes nothing.
fn may_repeat(failure: &Failure, repeatable: bool) -> bool {
    let unknown = failure.is(ProblemKind::Overloaded) || failure.is(ProblemKind::UpstreamTimeout);
    nothing_was_done(failure) || unknown && repeatable
}

/// Whether the service refused to begin, for now.
pub fn nothing_was_done(failure: &Failure) -> bool {
    use ProblemKind as P;
    let kinds = [P::PlaneStarting, P::SlowDown, P::PolicyUnreachable];
    kinds.into_iter().any(|kind| failure.is(kind))
}

async fn read<T: DeserializeOwned>(response: Response) -> Outcome<T> {
    let bytes = response.bytes().await.map_err(|e| broken(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Failure::new(
            "the service's answer was not understood",
            e,
            "check that `howdah --version` and the service's version fit",
        )
    })
}

/// What an answer that is no success says.
pub async fn problem_of(response: Response) -> Failure {
    let status = response.status();
    let url = response.url().clone();
    let pause = retry_after(&response);
    let bytes = response.bytes().await.unwrap_or_default();
    let failure = match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => Failure::from_problem(problem),
        Err(_) => Failure::new(
            "the service answered with an error",
            format!("{status} from {}", url.path()),
            "check that HOWDAH_URL is a Howdah service; see `howdah status`",
        ),
    };
    Failure {
        pause,
        status: Some(status.as_u16()),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_listens_on_all_addresses_is_spoken_to_by_the_one_it_was_reached_by() {
        let of = |service: &str, plane: &str| reached_from_here(service, plane.to_owned());
        let here = "http://127.0.0.1:7433/o/acme";
        assert_eq!(of("http://10.0.0.1:7433", here), "http://10.0.0.1:7433/o/acme");
        assert_eq!(of("http://127.0.0.1:7433", here), here);
        let there = "https://howdah.example.org/o/acme";
        assert_eq!(of("https://howdah.example.org", there), there);
    }

    #[test]
    fn a_proxy_is_never_asked_for_this_machine() {
        for here in [
            "http://127.0.0.1:7433",
            "http://127.8.0.1",
            "http://localhost:1/o/acme",
            "http://LOCALHOST",
            "http://[::1]:7433",
        ] {
            assert!(is_here(here), "{here}");
        }
        for there in [
            "https://howdah.example.org",
            "http://10.0.0.1:7433",
            "http://localhost.example.org",
            "nothing",
        ] {
            assert!(!is_here(there), "{there}");
        }
    }
}
