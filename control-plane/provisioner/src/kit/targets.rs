//! Whom pods may reach outside of their namespace. Network policies know addresses and namespaces, the configuration has URLs: one
//! that names an address or a service of the cluster says enough, of every other host the operator says where it leads.

use contract::cloud::{KubernetesConfig, Target};
use serde_json::{Value, json};
use url::{Host, Url};

/// Somebody who may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Addresses.
    Addresses(Target),
    /// Pods of a namespace of the cluster.
    Namespace(String),
}

/// Whom pods may reach outside of their namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// The control plane.
    pub control: Vec<Reach>,
    /// PostgreSQL.
    pub databases: Vec<Reach>,
    /// The buckets.
    pub buckets: Vec<Reach>,
    /// The API server.
    pub api: Vec<Reach>,
}

/// A host whose addresses nobody knows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{host}` is neither an address nor a service of the cluster: `{field}` must say which addresses it leads to")]
pub struct UnknownHost {
    host: String,
    field: &'static str,
}

impl Targets {
    /// Reads them out of the configuration; `api` is what the cluster says of its own API server.
    ///
    /// # Errors
    /// When it names a host and not its addresses.
    pub fn of(config: &KubernetesConfig, api: &[Target]) -> Result<Self, UnknownHost> {
        let buckets = match &config.buckets.endpoint {
            Some(endpoint) => by_url(endpoint, &config.buckets.targets, "cloud.buckets.targets")?,
            None => by_host(
                &format!("s3.{}.amazonaws.com", config.buckets.region),
                443,
                &config.buckets.targets,
                "cloud.buckets.targets",
            )?,
        };
        let api = if config.api_targets.is_empty() {
            api
        } else {
            &config.api_targets
        };
        Ok(Self {
            control: by_url(&config.control_url, &config.control_targets, "cloud.control_targets")?,
            databases: by_host(
                &config.databases.host,
                config.databases.port,
                &config.databases.targets,
                "cloud.databases.targets",
            )?,
            buckets,
            api: api.iter().cloned().map(Reach::Addresses).collect(),
        })
    }
}

fn by_url(url: &str, told: &[Target], field: &'static str) -> Result<Vec<Reach>, UnknownHost> {
    let parsed = Url::parse(url).ok();
    let host = parsed.as_ref().and_then(Url::host).map(|host| match host {
        Host::Ipv6(address) => address.to_string(),
        host => host.to_string(),
    });
    let port = parsed.as_ref().and_then(Url::port_or_known_default).unwrap_or(443);
    by_host(host.as_deref().unwrap_or(url), port, told, field)
}

fn by_host(host: &str, port: u16, told: &[Target], field: &'static str) -> Result<Vec<Reach>, UnknownHost> {
    if !told.is_empty() {
        return Ok(told.iter().cloned().map(Reach::Addresses).collect());
    }
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Ok(vec![Reach::Addresses(Target {
            cidr: format!("{address}/{bits}"),
            ports: vec![port],
        })]);
    }
    // `name.namespace.svc`, with or without the cluster's domain. The pods behind a service listen where they like.
    let mut parts = host.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(namespace), Some("svc")) => Ok(vec![Reach::Namespace(namespace.to_owned())]),
        _ => Err(UnknownHost {
            host: host.to_owned(),
            field,
        }),
    }
}

impl Reach {
    /// The rule that lets pods reach it.
    pub(super) fn egress(&self) -> Value {
        match self {
            Self::Addresses(target) => json!({
                "to": [{ "ipBlock": { "cidr": target.cidr } }],
                "ports": target.ports.iter().map(|port| json!({ "protocol": "TCP", "port": port })).collect::<Vec<_>>(),
            }),
            Self::Namespace(name) => json!({ "to": [of_namespace(name)] }),
        }
    }
}

/// Pods of a namespace.
pub(super) fn of_namespace(name: &str) -> Value {
    json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_service_of_the_cluster_say_where_they_are() {
        let address = by_url("http://10.77.0.1:9000", &[], "x").unwrap();
        let target = Target {
            cidr: "10.77.0.1/32".to_owned(),
            ports: vec![9000],
        };
        assert_eq!(address, [Reach::Addresses(target.clone())]);
        let service = by_url("http://minio.storage.svc.cluster.local:9000", &[], "x").unwrap();
        assert_eq!(service, [Reach::Namespace("storage".to_owned())]);
        assert!(by_url("https://[fd00::1]:7433", &[], "x").is_ok());
        let error = by_host("db.example.org", 5432, &[], "cloud.databases.targets").unwrap_err();
        assert!(error.to_string().contains("cloud.databases.targets"), "{error}");
        assert_eq!(
            by_host("db.example.org", 5432, std::slice::from_ref(&target), "x").unwrap(),
            [Reach::Addresses(target)]
        );
    }
}
