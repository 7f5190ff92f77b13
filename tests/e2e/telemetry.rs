//! What an operator gets by OTLP: one trace from a person's command to the datums that it set in motion, through both planes, with metrics
//! and logs beside it; and metrics to be scraped by who has the token.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::harness::{Service, eventually};
use crate::wire::ask;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A receiver of OTLP over HTTP, as the protocol's own message types read it.
#[derive(Default)]
struct Received {
    spans: Vec<(String, Span)>,
    metrics: Vec<String>,
    lines: usize,
}

fn name_of(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|r| r.attributes.as_slice()).unwrap_or_default();
    let named = attributes.iter().find(|a| a.key == "service.name");
    match named.and_then(|a| a.value.as_ref()).and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}

fn receive() -> (String, Arc<Mutex<Received>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let url = format!("http://{}", listener.local_addr().expect("it has an address"));
    let received = Arc::new(Mutex::new(Received::default()));
    let kept = Arc::clone(&received);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || while let Some(()) = answer(&stream, &kept) {});
        }
    });
    (url, received)
}

/// Takes one request of a connection.
fn answer(stream: &TcpStream, kept: &Mutex<Received>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut kept = kept.lock().expect("no test has failed");
    match path.as_str() {
        "/v1/traces" => {
            for of in ExportTraceServiceRequest::decode(&body[..])
                .expect("it is OTLP")
                .resource_spans
            {
                let name = name_of(of.resource.as_ref());
                let spans = of.scope_spans.into_iter().flat_map(|s| s.spans);
                kept.spans.extend(spans.map(|span| (name.clone(), span)));
            }
        }
        "/v1/metrics" => {
            for of in ExportMetricsServiceRequest::decode(&body[..])
                .expect("it is OTLP")
                .resource_metrics
            {
                let metrics = of.scope_metrics.into_iter().flat_map(|s| s.metrics);
                kept.metrics.extend(metrics.map(|m| m.name));
            }
        }
        "/v1/logs" => {
            for of in ExportLogsServiceRequest::decode(&body[..])
                .expect("it is OTLP")
                .resource_logs
            {
                kept.lines += of.scope_logs.iter().map(|s| s.log_records.len()).sum::<usize>();
            }
        }
        _ => {}
    }
    drop(kept);
    (&mut &*stream)
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        .ok()
}

/// A pipeline that has copied a file, put by a command whose caller named a trace, to be told to this receiver.
fn story(url: &str) -> Service {
    let service = Service::prepare();
    let up = ["up", "--detach", "--listen", &service.listen];
    let operator = [("HOWDAH_OTLP_ENDPOINT", url), ("HOWDAH_METRICS_TOKEN", "scrape me")];
    let started = service.operator_with(up, &operator);
    assert!(started.status.success(), "{}", service.logs());
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "images"]);
    service.file("a.txt", b"1");
    service.file(
        "pipeline.yaml",
        b"pipeline: {name: copy}\ninput: {pfs: {repo: images, glob: /*}}\ntransform: {cmd: [sh, -c, \"cp /pfs/images/* /pfs/out/\"]}\n",
    );
    ada.run(&["pipeline", "apply", "-f", "pipeline.yaml"]);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let put = ada.run_with(["put", "images@main", "a.txt"], b"", &[("TRACEPARENT", &parent)]);
    assert!(put.status.success());
    ada.run(&["wait", "copy@main"]);
    // What is not bulk goes through the gateway.
    let list = ada.run_with(["repo", "list"], b"", &[("TRACEPARENT", &parent)]);
    assert!(list.status.success());

    service
}

fn ours(kept: &Received) -> Vec<(String, Span)> {
    let trace = hex::decode(TRACE).expect("it is hex");
    kept.spans
        .iter()
        .filter(|(_, s)| s.trace_id == trace)
        .cloned()
        .collect()
}

/// The spans from the first of a name up to that of the caller who named the trace: each with its service. Nothing where one of them has not
/// come yet: each process tells its own spans when it sees fit.
fn ancestry(spans: &[(String, Span)], name: &str) -> Option<Vec<(String, String)>> {
    let by_id: HashMap<&[u8], &(String, Span)> = spans.iter().map(|s| (s.1.span_id.as_slice(), s)).collect();
    let caller = hex::decode(CALLER).expect("it is hex");
    let mut at = spans.iter().find(|(_, span)| span.name == name)?;
    let mut line = vec![(at.0.clone(), at.1.name.clone())];
    while at.1.parent_span_id != caller {
        at = by_id.get(at.1.parent_span_id.as_slice())?;
        line.push((at.0.clone(), at.1.name.clone()));
    }
    Some(line)
}

#[test]
fn one_trace_leads_from_a_command_through_both_planes_to_the_datums_that_it_set_in_motion() {
    let (url, received) = receive();
    let service = story(&url);
    eventually("the trace is whole", || {
        let kept = received.lock().expect("no test has failed");
        let spans = ours(&kept);
        kept.lines > 0
            && ["datum", "GET /v1/repos"]
                .iter()
                .all(|name| ancestry(&spans, name).is_some())
    });
    let spans = ours(&received.lock().expect("no test has failed"));
    let line = |name| ancestry(&spans, name).expect("the trace is whole");
    let of = |service: &str, name: &str| (service.to_owned(), name.to_owned());
    let data = "howdah-data-plane";
    assert_eq!(
        line("datum"),
        [of(data, "datum"), of(data, "job"), of(data, "POST /v1/files")]
    );
    assert_eq!(
        line("GET /v1/repos"),
        [
            of(data, "GET /v1/repos"),
            of("howdah-control-plane", "GET /o/{org}/{*path}")
        ]
    );
    let shown = format!("{spans:?}");
    assert!(
        !shown.contains("hwd_") && !shown.contains("Bearer"),
        "no secret is in a span"
    );

    let scraped = ask(&service.listen, "GET", "/metrics", "scrape me", None);
    assert_eq!(scraped.status, 200, "{}", scraped.body);
    assert!(
        scraped.body.contains("http_server_request_duration_seconds_bucket"),
        "{}",
        scraped.body
    );
    assert_eq!(
        ask(&service.listen, "GET", "/metrics", "something else", None).status,
        401
    );
    // The last metrics come when the service ends.
    service.down();
    assert!(
        received
            .lock()
            .expect("no test has failed")
            .metrics
            .iter()
            .any(|m| m == "http.server.request.duration")
    );
}
