//! Sources that are addresses: the service fetches them itself, so their bytes never pass through this machine. Keys of a
//! bucket come from the environment, go along with the request, and are kept by nobody.

use contract::api::{Commit, ImportLine};
use serde_json::{Map, Value, json};

use super::Put;
use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::references::Place;
use crate::settings::variable;

/// What AWS's own tools read, with what the service calls it; where there are two, the first that is set counts.
const BUCKET_SETTINGS: [(&str, &str); 7] = [
    ("AWS_ACCESS_KEY_ID", "access_key_id"),
    ("AWS_SECRET_ACCESS_KEY", "secret_access_key"),
    ("AWS_SESSION_TOKEN", "session_token"),
    ("AWS_REGION", "region"),
    ("AWS_DEFAULT_REGION", "region"),
    ("AWS_ENDPOINT_URL_S3", "endpoint"),
    ("AWS_ENDPOINT_URL", "endpoint"),
];

/// Whether a source is an address.
pub(super) fn is_address(source: &str) -> bool {
    source.contains("://")
}

/// Has the service fetch the sources into one commit.
pub(super) async fn run(arguments: &Put, target: &Place, client: &Client, output: Output) -> Outcome {
    let request = Request::post("/v1/imports").body(&body(arguments, target, variable)?)?;
    let bar = output.bytes(Some(0));
    let mut made: Option<Box<Commit>> = None;
    let read = client
        .lines(&request, |line: ImportLine| {
            match line {
                ImportLine::Progress {
                    size_bytes,
                    size_bytes_total,
                    ..
                } => {
                    bar.set_length(size_bytes_total.unwrap_or(size_bytes));
                    bar.set_position(size_bytes);
                }
                ImportLine::Commit { commit } => made = Some(commit),
            }
            Ok(())
        })
        .await;
    bar.finish_and_clear();
    read?;
    let commit = made.ok_or_else(|| {
        Failure::new(
            "the import broke off",
            "the service ended it without an answer",
            "look with `howdah log` whether the commit is there, then repeat the command",
        )
    })?;
    output.result(&commit, || crate::commit::name(&commit))
}

fn body(arguments: &Put, target: &Place, setting: impl Fn(&str) -> Option<String>) -> Outcome<Value> {
    if let Some(local) = arguments.sources.iter().find(|source| !is_address(source)) {
        return Err(Failure::usage(
            format!("cannot put {local}"),
            "files of this machine and addresses cannot be put by one command",
            "make one commit of two: `howdah commit start`, put both, `howdah commit finish`",
        ));
    }
    let sources: Vec<Value> = arguments
        .sources
        .iter()
        .map(|url| json!({ "url": url, "recursive": arguments.recursive && is_below(url) }))
        .collect();
    let mut body = json!({
        "repo": target.repo,
        "branch": target.branch,
        "path": target.path.as_deref().unwrap_or_default(),
        "sources": sources,
        "message": arguments.message,
        "append": arguments.append,
    });
    if arguments.sources.iter().any(|source| source.starts_with("s3://")) {
        let mut access = Map::new();
        for (name, key) in BUCKET_SETTINGS {
            if let Some(value) = setting(name) {
                access.entry(key).or_insert_with(|| value.into());
            }
        }
        body["s3"] = Value::Object(access);
    }
    Ok(body)
}

/// `-r` means what is below; of a bucket that is a prefix, which ends in `/`. Other addresses are single files beside it,
/// but alone they were meant to be more, which the service refuses with the reason.
fn is_below(url: &str) -> bool {
    match url.strip_prefix("s3://") {
        Some(rest) => !rest.contains('/') || rest.ends_with('/'),
        None => url.ends_with('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sources: &[&str]) -> Put {
        Put {
            target: String::new(),
            sources: sources.iter().map(|s| (*s).to_owned()).collect(),
            recursive: true,
            message: String::new(),
            append: false,
            no_resume: false,
        }
    }

    fn place() -> Place {
        Place {
            repo: "default/r".to_owned(),
            branch: contract::names::BranchName::main(),
            path: None,
        }
    }

    #[test]
    fn keys_of_a_bucket_go_along_only_where_there_is_one() {
        let keys = |name: &str| (name != "AWS_REGION").then(|| name.to_lowercase());
        let web = body(&put(&["https://a.org/f"]), &place(), keys).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(web.get("s3"), None);
        let bucket = body(&put(&["https://a.org/f", "s3://b/p/"]), &place(), keys).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(bucket["s3"]["region"], "aws_default_region");
        assert_eq!(bucket["s3"]["endpoint"], "aws_endpoint_url_s3");
        assert_eq!(bucket["sources"][0]["recursive"], false);
        assert_eq!(bucket["sources"][1]["recursive"], true);
    }

    #[test]
    fn files_and_addresses_are_put_apart() {
        let failure = body(&put(&["https://a.org/f", "local"]), &place(), |_| None).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(failure.what.contains("local"));
    }
}
