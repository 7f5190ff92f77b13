//! `service`: a command that runs until it is replaced and answers at a port.

use serde_json::Value;

use super::fields::{Errors, Fields, join};
use super::{Network, PipelineSpec, Service};

/// Below it a program needs privileges that user code does not have.
const PORT_LEAST: u32 = 1024;

/// Pachyderm's words for how its cluster shows a service. Here each one is reached through the data plane.
const TYPES: [(&str, ()); 4] = [
    ("ClusterIP", ()),
    ("NodePort", ()),
    ("LoadBalancer", ()),
    ("ExternalName", ()),
];

pub(super) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Service> {
    let (value, pointer) = fields.take("service")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    if value
        .get("internal_port")
        .or(value.get("internalPort"))
        .is_none_or(Value::is_null)
    {
        errors.add(
            &pointer,
            "must have an `internal_port`: the port that the command listens at",
        );
    }
    let port = inner.number("internal_port", PORT_LEAST, errors);
    let number = port.and_then(|port| u16::try_from(port).ok());
    if port.is_some() && number.is_none() {
        errors.add(&join(&pointer, "internal_port"), "must be a port, at most 65535");
    }
    let _ = inner.word("type", &TYPES, errors);
    for name in ["external_port", "ip", "annotations"] {
        if let Some((_, at)) = inner.take(name) {
            errors.add(
                &at,
                format!("`{name}` has no meaning here: a service is reached at the address that `howdah open` prints, under the access rule; remove it"),
            );
        }
    }
    inner.finish(errors);
    number.map(|internal_port| Service { internal_port })
}

/// What a service cannot have besides.
pub(super) fn check(spec: &PipelineSpec, errors: &mut Errors) {
    if spec.service.is_none() {
        return;
    }
    if spec.network == Network::Internet {
        errors.add(
            "/network",
            "a service has a network of its own, in which nothing else is reached: remove `network: internet`",
        );
    }
    for (given, field) in [
        (spec.datum_timeout.is_some(), "datum_timeout"),
        (spec.job_timeout.is_some(), "job_timeout"),
    ] {
        if given {
            errors.add(
                &join("", field),
                format!("a service runs until it is replaced or stopped: remove `{field}`"),
            );
        }
    }
    if spec.egress.is_some() {
        errors.add(
            "/egress",
            "a service makes no output that could be sent: remove `egress`",
        );
    }
    if !spec.transform.err_cmd.is_empty() {
        errors.add(
            "/transform/err_cmd",
            "a service that exits is started again: remove `err_cmd`",
        );
    }
}
