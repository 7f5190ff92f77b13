//! Reading `egress`: where the output of each job is sent once it was made.

use contract::names::SecretName;
use serde_json::{Value, json};

use super::fields::{Errors, Fields, join};

/// Where outputs are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// To what.
    pub target: EgressTarget,
    /// What holds the keys to it.
    pub secret: Option<EgressSecret>,
}

/// What outputs are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressTarget {
    /// Objects of a bucket.
    Bucket(BucketTarget),
    /// Tables of a PostgreSQL database.
    Database(DatabaseTarget),
}

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketTarget {
    /// The bucket.
    pub bucket: String,
    /// Before each path, without slashes at its ends; empty: none.
    pub prefix: String,
    /// What serves it; `None` = AWS.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
}

/// A database whose tables are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTarget {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// How the connection is encrypted, in libpq's words.
    pub ssl_mode: Option<&'static str>,
    /// What the files are.
    pub format: RowFormat,
    /// The columns that the files have: of CSV then named by the first line of each file; empty = those of the table.
    pub columns: Vec<String>,
}

/// How rows stand in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// Comma-separated values.
    Csv,
    /// An object on each line.
    Json,
}

/// The secret of the pipeline's project that holds the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSecret {
    /// Its name.
    pub name: SecretName,
    /// Which of its values is a database's password. A bucket's keys have names of their own.
    pub key: Option<String>,
}

/// The names of a bucket's keys in a secret: id, secret, and the token of temporary ones.
pub const BUCKET_KEYS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

impl BucketTarget {
    /// What names the place, without anything secret.
    pub fn shown(&self) -> String {
        let url = format!("s3://{}/{}", self.bucket, self.prefix);
        match &self.endpoint {
            Some(endpoint) => format!("{url} at {endpoint}"),
            None => url,
        }
    }
}

impl DatabaseTarget {
    /// What names the place, without anything secret.
    pub fn shown(&self) -> String {
        let Self {
            host,
            port,
            user,
            database,
            ..
        } = self;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        format!("postgresql://{user}@{host}:{port}/{database}")
    }
}

/// Reads the field.
pub(super) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Egress> {
    let (value, pointer) = fields.take("egress")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let places = [inner.take("object_storage"), inner.take("sql_database")];
    let [storage, database] = places;
    let egress = match (storage, database) {
        (None, None) => {
            let egress = bucket(&mut inner, errors);
            inner.finish(errors);
            return egress;
        }
        (Some(_), Some(_)) => {
            errors.add(&pointer, "has two places: make a pipeline for each");
            None
        }
        (Some((value, at)), None) => {
            let mut place = Fields::open(value, &at, errors)?;
            let egress = bucket(&mut place, errors);
            place.finish(errors);
            egress
        }
        (None, Some((value, at))) => {
            let mut place = Fields::open(value, &at, errors)?;
            let egress = sql(&mut place, errors);
            place.finish(errors);
            egress
        }
    };
    inner.finish(errors);
    egress
}

/// Pachyderm writes `URL` too.
fn url(fields: &mut Fields<'_>, example: &str, errors: &mut Errors) -> Option<(String, String)> {
    let found = fields.take("url").or_else(|| fields.take("URL"));
    let text = found
        .as_ref()
        .and_then(|(value, at)| Some((value.as_str()?.to_owned(), at.clone())));
    if text.is_none() {
        let at = found.map_or_else(|| fields.pointer().to_owned(), |(_, at)| at);
        errors.add(&at, format!("must have a `url` such as `{example}`"));
    }
    text
}

fn bucket(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Egress> {
    let example = "s3://bucket/prefix";
    let found = url(fields, example, errors);
    let endpoint = fields.string("endpoint", errors);
    let region = fields.string("region", errors);
    let secret = secret(fields, errors);
    let (text, at) = found?;
    let Some(rest) = text.strip_prefix("s3://") else {
        // What is written there may hold a password.
        errors.add(&at, format!("must be the address of an S3 bucket such as `{example}`; for PostgreSQL write `sql_database` with its `url`"));
        return None;
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) || bucket.contains("..") {
        errors.add(&at, format!("names no bucket: write `{example}`"));
        return None;
    }
    let prefix = prefix.trim_matches('/');
    let odd = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
    if prefix.len() > 512 || !prefix.is_empty() && prefix.split('/').any(odd) {
        errors.add(
            &at,
            "has an empty part, `.`, `..` or a control character in its prefix, or more than 512 bytes",
        );
        return None;
    }
    if secret.is_none() {
        let message = format!(
            "must name the `secret` with the bucket's keys: `howdah secret set NAME {}=… {}=…`",
            BUCKET_KEYS[0], BUCKET_KEYS[1]
        );
        errors.add(fields.pointer(), message);
    }
    let target = BucketTarget {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint,
        region,
    };
    Some(Egress {
        target: EgressTarget::Bucket(target),
        secret,
    })
}

fn secret(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<EgressSecret> {
    let (value, pointer) = fields.take("secret")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    if value.get("name").is_none_or(Value::is_null) {
        errors.add(&pointer, "must have the `name` of a secret");
    }
    let name = inner.parsed::<SecretName>("name", errors);
    let key = inner.string("key", errors);
    inner.finish(errors);
    Some(EgressSecret { name: name?, key })
}

fn sql(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Egress> {
    let found = url(fields, "postgresql://user@host:5432/database", errors);
    let secret = secret(fields, errors);
    if secret.as_ref().is_some_and(|secret| secret.key.is_none()) {
        let at = join(fields.pointer(), "secret");
        errors.add(
            &at,
            "must have the `key` of the password, for example `PACHYDERM_SQL_PASSWORD`",
        );
    }
    let format = file_format(fields, errors);
    let (text, at) = found?;
    let read = database(&text);
    let mut target = read.map_err(|message| errors.add(&at, message)).ok()?;
    (target.format, target.columns) = format?;
    Some(Egress {
        target: EgressTarget::Database(target),
        secret,
    })
}

fn file_format(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<(RowFormat, Vec<String>)> {
    let Some((value, pointer)) = fields.take("file_format") else {
        errors.add(
            fields.pointer(),
            "must have a `file_format` with a `type`, `CSV` or `JSON`",
        );
        return None;
    };
    let mut inner = Fields::open(value, &pointer, errors)?;
    let words = [
        ("CSV", RowFormat::Csv),
        ("JSON", RowFormat::Json),
        ("csv", RowFormat::Csv),
        ("json", RowFormat::Json),
    ];
    if value.get("type").is_none_or(Value::is_null) {
        errors.add(&pointer, "must have a `type`, `CSV` or `JSON`");
    }
    let format = inner.word("type", &words, errors);
    let columns = inner.strings("columns", errors);
    inner.finish(errors);
    let mut sorted: Vec<&String> = columns.iter().collect();
    sorted.sort();
    if columns.iter().any(String::is_empty) || sorted.windows(2).any(|two| two[0] == two[1]) {
        errors.add(
            &join(&pointer, "columns"),
            "has a name that is empty or stands there twice",
        );
    }
    Some((format?, columns))
}

/// Nothing of it is quoted in the message: there may be a password in it.
fn database(text: &str) -> Result<DatabaseTarget, &'static str> {
    let rest = text
        .strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
        .ok_or("must be the address of a PostgreSQL database such as `postgresql://user@host:5432/database`")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, server) = authority
        .rsplit_once('@')
        .ok_or("must name the user: `postgresql://user@host:5432/database`")?;
    if user.contains(':') {
        return Err(
            "has a password, which everybody who reads the pipeline would see: put it into a secret and name that in `secret`",
        );
    }
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => server
            .split_once(':')
            .map_or((server, None), |(host, port)| (host, Some(port))),
    };
    let port = port
        .map_or(Ok(5432), str::parse)
        .map_err(|_| "has no port from 1 to 65535")?;
    let plain = |more: &'static [u8]| move |b: u8| b.is_ascii_alphanumeric() || more.contains(&b);
    if host.is_empty() || !host.bytes().all(plain(b".-:_")) {
        return Err("names no host");
    }
    let name = |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(plain(b"_-.$"));
    if !name(user) || !name(database) {
        return Err("must name user and database, of letters, digits, `_`, `-`, `.` and `$`");
    }
    let mut ssl_mode = None;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        ssl_mode = SSL_MODES.into_iter().find(|mode| *mode == value);
        if key != "sslmode" || ssl_mode.is_none() {
            return Err(
                "may have no other parameter than `sslmode`, one of disable, allow, prefer, require, verify-ca, verify-full",
            );
        }
    }
    Ok(DatabaseTarget {
        host: host.to_ascii_lowercase(),
        port,
        user: user.to_owned(),
        database: database.to_owned(),
        ssl_mode,
        format: RowFormat::Csv,
        columns: Vec::new(),
    })
}

/// As in a spec.
pub(super) fn written(egress: &Egress) -> Value {
    let secret = egress.secret.as_ref().map(|secret| {
        let mut value = json!({ "name": secret.name });
        if let Some(key) = &secret.key {
            value["key"] = json!(key);
        }
        value
    });
    let mut place = match &egress.target {
        EgressTarget::Bucket(target) => {
            let mut value = json!({ "url": format!("s3://{}/{}", target.bucket, target.prefix) });
            for (name, text) in [("endpoint", &target.endpoint), ("region", &target.region)] {
                if let Some(text) = text {
                    value[name] = json!(text);
                }
            }
            value
        }
        EgressTarget::Database(target) => {
            let mode = target
                .ssl_mode
                .map(|mode| format!("?sslmode={mode}"))
                .unwrap_or_default();
            let kind = match target.format {
                RowFormat::Csv => "CSV",
                RowFormat::Json => "JSON",
            };
            let mut format = json!({ "type": kind });
            if !target.columns.is_empty() {
                format["columns"] = json!(target.columns);
            }
            json!({ "url": format!("{}{mode}", target.shown()), "file_format": format })
        }
    };
    if let Some(secret) = secret {
        place["secret"] = secret;
    }
    match egress.target {
        EgressTarget::Bucket(_) => place,
        EgressTarget::Database(_) => json!({ "sql_database": place }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<Egress, Vec<String>> {
        let mut errors = Errors::default();
        let whole = json!({ "egress": value });
        let mut fields = Fields::open(&whole, "", &mut errors).unwrap();
        let read = read(&mut fields, &mut errors);
        let messages: Vec<String> = errors
            .0
            .into_iter()
            .map(|e| format!("{} {}", e.pointer, e.message))
            .collect();
        match read {
            Some(egress) if messages.is_empty() => Ok(egress),
            _ => Err(messages),
        }
    }

    #[test]
    fn every_way_to_write_an_egress_is_read_and_written_back() {
        let keys = json!({ "name": "aws" });
        let database = "postgresql://app@db.example.org/shop";
        for (value, shown) in [
            (json!({ "url": "s3://bucket/a/b/", "secret": keys }), "s3://bucket/a/b"),
            (json!({ "URL": "s3://bucket", "secret": keys }), "s3://bucket/"),
            (
                json!({ "objectStorage": { "url": "s3://bucket/a", "secret": keys, "endpoint": "http://s3:9000", "region": "eu-1" } }),
                "s3://bucket/a at http://s3:9000",
            ),
            (
                json!({ "sqlDatabase": { "url": database, "fileFormat": { "type": "CSV" } } }),
                "postgresql://app@db.example.org:5432/shop",
            ),
            (
                json!({ "sql_database": { "url": "postgres://a@[::1]:99/b?sslmode=require", "file_format": { "type": "JSON", "columns": ["x", "y"] },
                        "secret": { "name": "db", "key": "PACHYDERM_SQL_PASSWORD" } } }),
                "postgresql://a@[::1]:99/b",
            ),
        ] {
            let egress = parse(&value).unwrap_or_else(|e| panic!("{value}: {e:?}"));
            let found = match &egress.target {
                EgressTarget::Bucket(target) => target.shown(),
                EgressTarget::Database(target) => target.shown(),
            };
            assert_eq!(found, shown);
            assert_eq!(parse(&written(&egress)), Ok(egress));
        }
    }

    #[test]
    fn an_egress_that_leads_nowhere_is_refused_without_repeating_a_password() {
        let sql = |url: &str| json!({ "sql_database": { "url": url, "file_format": { "type": "CSV" } } });
        for value in [
            json!({}),
            json!({ "url": "s3://bucket/a" }),
            json!({ "url": "gs://bucket/a", "secret": { "name": "k" } }),
            json!({ "url": "s3://bucket/../a", "secret": { "name": "k" } }),
            json!({ "url": "s3://Bucket/a", "secret": { "name": "k" } }),
            json!({ "url": "s3://bucket/a", "secret": {} }),
            json!({ "url": "s3://bucket/a", "secret": { "name": "k" }, "sql_database": {} }),
            json!({ "object_storage": {}, "sql_database": {} }),
            json!({ "sql_database": { "url": "postgresql://a@b/c" } }),
            json!({ "sql_database": { "url": "postgresql://a@b/c", "file_format": { "type": "PARQUET" } } }),
            json!({ "sql_database": { "url": "postgresql://a@b/c", "file_format": { "type": "CSV", "columns": ["x", "x"] } } }),
            sql("mysql://a@b/c"),
            sql("postgresql://a:hunter2@b/c"),
            sql("postgresql://b/c"),
            sql("postgresql://a@b:x/c"),
            sql("postgresql://a@b"),
            sql("postgresql://a@b/c?host=/run/postgresql"),
            sql("postgresql://a@b/c?sslmode=never"),
        ] {
            let errors = parse(&value).expect_err(&value.to_string());
            assert!(
                !errors.is_empty() && errors.iter().all(|e| !e.contains("hunter2")),
                "{errors:?}"
            );
        }
    }
}
