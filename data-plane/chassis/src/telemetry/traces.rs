//! One trace from who asks to what his request sets in motion: the context comes with a request (`traceparent`), goes along to the
//! next plane, is kept with what runs later, and what has run is recorded under it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";

thread_local! {
    /// The id of the span that is begun next on this thread, if somebody has chosen it.
    static NEXT: Cell<Option<SpanId>> = const { Cell::new(None) };
}

/// Makes ids of spans at random, unless one was chosen.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        self.0.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.take().unwrap_or_else(|| self.0.new_span_id())
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            self.0.insert(name, value);
        }
    }
}

/// Makes the span of a request a part of the trace that the request names.
pub fn of_request(span: &tracing::Span, headers: &HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        let context = global::get_text_map_propagator(|p| p.extract(&Headers(headers)));
        // A span that nobody records has no parent.
        let _ = span.set_parent(context);
    }
}

/// Writes the current trace into the headers of a request that is sent on, in the place of what its sender said.
pub fn inject(headers: &mut HeaderMap) {
    let context = tracing::Span::current().context();
    if context.span().span_context().is_valid() {
        global::get_text_map_propagator(|p| p.inject_context(&context, &mut HeadersMut(headers)));
    }
}

/// The current trace as a text that can be kept, `00-<trace>-<span>-<flags>`; `None` when none is recorded.
pub fn traceparent() -> Option<String> {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Whether traces of this process are sent anywhere: who has to look something up for a span asks first.
pub fn is_tracing() -> bool {
    TRACING.load(Ordering::Relaxed)
}

pub(super) static TRACING: AtomicBool = AtomicBool::new(false);

/// Something that has run.
#[derive(Debug, Clone)]
pub struct Span {
    /// What it is called, a fixed word.
    pub name: &'static str,
    /// Its own id, where what belongs to it is recorded before it.
    pub id: Option<[u8; 8]>,
    /// The id of the span that it belongs to, of the same trace; `None`: the one that `trace` names.
    pub within: Option<[u8; 8]>,
    /// When it began.
    pub from: DateTime<Utc>,
    /// When it ended.
    pub until: DateTime<Utc>,
    /// Names and values.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Records something that has run under the trace that was kept for it.
pub fn record(trace: &str, span: Span) {
    let mut headers = HeaderMap::new();
    let Ok(value) = HeaderValue::from_str(trace) else {
        return;
    };
    headers.insert(TRACEPARENT, value);
    let mut context = global::get_text_map_propagator(|p| p.extract(&Headers(&headers)));
    let named = context.span().span_context().clone();
    if !named.is_valid() {
        return;
    }
    if let Some(within) = span.within {
        context = Context::new().with_remote_span_context(SpanContext::new(
            named.trace_id(),
            SpanId::from_bytes(within),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        ));
    }
    let tracer = global::tracer("howdah");
    let attributes = span
        .attributes
        .into_iter()
        .map(|(name, value)| KeyValue::new(name, value));
    NEXT.set(span.id.map(SpanId::from_bytes));
    let mut recorded = tracer
        .span_builder(span.name)
        .with_kind(SpanKind::Internal)
        .with_start_time(SystemTime::from(span.from))
        .with_attributes(attributes)
        .start_with_context(&tracer, &context);
    // Where nobody records, nobody took it.
    NEXT.set(None);
    if let Some(failure) = span.failure {
        recorded.set_status(Status::error(failure));
    }
    recorded.end_with_timestamp(SystemTime::from(span.until));
}
