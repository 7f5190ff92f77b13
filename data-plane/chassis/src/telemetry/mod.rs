//! What an operator sees of a process: logs on standard error (JSON when that is not a terminal; `HOWDAH_LOG` filters, `info` by default),
//! and, where a receiver is configured, traces, metrics and logs by OTLP over HTTP. Metrics can be scraped too, by who has the token.
//!
//! Nothing secret is in any of it: spans have methods, routes and ids, never queries, headers or bodies.

mod metrics;
mod traces;

use std::io::IsTerminal;
use std::time::Duration;

use contract::config::TelemetryConfig;
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub(crate) use metrics::known as known_method;
pub use metrics::{Requests, gauge, served as metrics_served};
pub use traces::{Span, inject, is_tracing, of_request, record, traceparent};

/// How long the end of a process waits for its receiver.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(5);
/// How often metrics are sent.
const PERIOD: Duration = Duration::from_secs(15);

/// What is sent, for as long as this lives. Dropping it sends what is left.
#[must_use = "what is left is sent when it is dropped"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    metrics: SdkMeterProvider,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // A receiver that is away must not hold the process, and there is nobody left to tell.
        if let Some(traces) = &self.traces {
            let _ = traces.shutdown_with_timeout(LAST_WORDS);
        }
        let _ = self.metrics.shutdown_with_timeout(LAST_WORDS);
        if let Some(logs) = &self.logs {
            let _ = logs.shutdown_with_timeout(LAST_WORDS);
        }
    }
}

/// Starts logs, traces and metrics of the service (`howdah-control-plane`, …). `of` says more of the process: names and values.
///
/// # Errors
/// When the receiver's address is not one.
pub fn init(
    service: &'static str,
    of: &[(&'static str, String)],
    config: &TelemetryConfig,
) -> anyhow::Result<Telemetry> {
    let attributes = of.iter().map(|(name, value)| KeyValue::new(*name, value.clone()));
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attributes(attributes)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    opentelemetry::global::set_text_map_propagator(TextMapCompositePropagator::new(vec![Box::new(
        TraceContextPropagator::new(),
    )]));
    let endpoint = config.otlp_endpoint.as_deref();
    let metrics = meters(resource.clone(), endpoint)?;
    let traces = endpoint.map(|url| tracers(resource.clone(), url)).transpose()?;
    let logs = endpoint.map(|url| loggers(resource, url)).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        opentelemetry::global::set_tracer_provider(provider.clone());
        traces::TRACING.store(true, std::sync::atomic::Ordering::Relaxed);
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("howdah"))
            .with_filter(EnvFilter::new(TRACED))
    });
    let bridge = logs
        .as_ref()
        .map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(EnvFilter::new(TRACED)));
    let filter = EnvFilter::try_from_env("HOWDAH_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() {
        lines.with_filter(filter).boxed()
    } else {
        lines.json().with_filter(filter).boxed()
    };
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(spans)
        .with(bridge)
        .try_init();
    Ok(Telemetry { traces, logs, metrics })
}

/// What of the process's events and spans is sent: nothing of the exporter's own client, which would never come to an end.
const TRACED: &str = "info,sqlx=warn,hyper=off,hyper_util=off,h2=off,reqwest=off,rustls=off,opentelemetry=off";

fn tracers(resource: Resource, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT)
        .with_endpoint(address(endpoint, "traces"))
        .build()?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_id_generator(traces::Ids::default())
        .with_resource(resource)
        .build())
}

fn loggers(resource: Resource, endpoint: &str) -> anyhow::Result<SdkLoggerProvider> {
    let exporter = LogExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT)
        .with_endpoint(address(endpoint, "logs"))
        .build()?;
    Ok(SdkLoggerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

fn meters(resource: Resource, endpoint: Option<&str>) -> anyhow::Result<SdkMeterProvider> {
    let mut builder = SdkMeterProvider::builder()
        .with_reader(metrics::scraped()?)
        .with_resource(resource);
    if let Some(endpoint) = endpoint {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT)
            .with_endpoint(address(endpoint, "metrics"))
            .build()?;
        builder = builder.with_reader(PeriodicReader::builder(exporter).with_interval(PERIOD).build());
    }
    let provider = builder.build();
    opentelemetry::global::set_meter_provider(provider.clone());
    Ok(provider)
}

/// Where a receiver takes one kind of signal.
fn address(endpoint: &str, signal: &str) -> String {
    format!("{}/v1/{signal}", endpoint.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_is_named_by_its_base() {
        assert_eq!(address("http://otel:4318/", "traces"), "http://otel:4318/v1/traces");
        assert_eq!(address("http://otel:4318", "logs"), "http://otel:4318/v1/logs");
    }
}
