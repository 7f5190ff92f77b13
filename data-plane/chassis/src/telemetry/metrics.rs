//! Counts and durations: of requests for every server, and gauges that a process adds. Scraped at `/metrics` by who has the token.

use std::sync::{LazyLock, OnceLock};
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opentelemetry::metrics::{Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};
use prometheus::{Encoder, Registry, TextEncoder};
use sha2::{Digest, Sha256};

use crate::http::{ApiError, bearer};

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Seconds; what people wait for lies between these.
const BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What a scraper reads. There is one of each process.
pub(super) fn scraped() -> anyhow::Result<opentelemetry_prometheus::PrometheusExporter> {
    let registry = REGISTRY.get_or_init(Registry::new).clone();
    Ok(opentelemetry_prometheus::exporter().with_registry(registry).build()?)
}

/// Adds a gauge that is read whenever somebody asks.
pub fn gauge(name: &'static str, what: &'static str, read: impl Fn() -> f64 + Send + Sync + 'static) {
    // It is read for as long as the process lives; the handle is for taking it away.
    let _ = global::meter("howdah")
        .f64_observable_gauge(name)
        .with_description(what)
        .with_callback(move |observer| observer.observe(read(), &[]))
        .build();
}

/// Requests of a server: how many, how long, how they ended, how many are under way.
pub struct Requests {
    seconds: Histogram<f64>,
    active: UpDownCounter<i64>,
}

static REQUESTS: LazyLock<Requests> = LazyLock::new(|| {
    let meter = global::meter("howdah");
    Requests {
        seconds: meter
            .f64_histogram("http.server.request.duration")
            .with_unit("s")
            .with_description("from the head of a request to the head of its answer")
            .with_boundaries(BOUNDS.to_vec())
            .build(),
        active: meter
            .i64_up_down_counter("http.server.active_requests")
            .with_description("requests whose answer has not begun")
            .build(),
    }
});

/// A request under way.
pub struct Timed {
    began: Instant,
    method: String,
    route: String,
    done: bool,
}

/// The method's name. Clients may send any word as one, and each would make a series of its own.
pub(crate) fn known(method: &axum::http::Method) -> String {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let name = KNOWN.iter().find(|name| **name == method.as_str());
    name.copied().unwrap_or("_OTHER").to_owned()
}

impl Requests {
    /// Begins to time a request of that route, by its template: ids would make a series of each.
    pub fn begin(method: &axum::http::Method, route: &str) -> Timed {
        REQUESTS.active.add(1, &[]);
        Timed {
            began: Instant::now(),
            method: known(method),
            route: route.to_owned(),
            done: false,
        }
    }
}

impl Timed {
    /// The answer begins.
    pub fn end(mut self, status: StatusCode) {
        self.done = true;
        REQUESTS.seconds.record(
            self.began.elapsed().as_secs_f64(),
            &[
                KeyValue::new("http.request.method", self.method.clone()),
                KeyValue::new("http.route", self.route.clone()),
                KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
            ],
        );
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        // Also of a request whose client went away.
        REQUESTS.active.add(-1, &[]);
    }
}

/// `GET /metrics`, in Prometheus' text format. Without a token nothing is there.
///
/// # Errors
/// 404 where no token is configured, `signed-out` when the request's is another.
pub async fn served(State(token): State<Option<[u8; 32]>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let wanted = token.ok_or_else(ApiError::not_found)?;
    let given: [u8; 32] = Sha256::digest(bearer(&headers)?.as_bytes()).into();
    // Digests are compared, so that how long it takes tells nothing of the token.
    if given != wanted {
        return Err(ApiError::new(
            contract::problem::ProblemKind::SignedOut,
            "the token of the request is not the one that reads metrics",
        ));
    }
    let registry = REGISTRY.get_or_init(Registry::new);
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
