//! `howdah secret`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use contract::api::{NewSecret, Secret as SecretView};

use crate::client::{Client, Request, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, time};
use crate::references::project;

/// Secrets that pipelines use
#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Set the values of a secret: from files, or as lines `KEY=VALUE` on standard input, which a terminal does not show. They replace all that it had
    #[command(
        after_help = "Example: printf 'password=%s\\n' \"$PASSWORD\" | howdah secret set database\n         \
                            howdah secret set tls --from-file key.pem=./key.pem\n\n\
                            A spec uses it so: transform.secrets: [{name: database, env_var: PGPASSWORD, key: password}]\n\
                            or [{name: tls, mount_path: /secrets/tls}]. Nobody is ever shown a value."
    )]
    Set {
        /// Its name
        name: String,
        /// A key and the file that holds its value
        #[arg(long = "from-file", value_name = "KEY=FILE")]
        files: Vec<String>,
        /// Its project
        #[arg(long)]
        project: Option<String>,
    },
    /// List the secrets of a project, without their values
    #[command(after_help = "Example: howdah secret list")]
    List {
        /// The project
        #[arg(long)]
        project: Option<String>,
    },
    /// Delete a secret; jobs that use it fail from then on
    #[command(after_help = "Example: howdah secret delete database")]
    Delete {
        /// Its name
        name: String,
        /// Its project
        #[arg(long)]
        project: Option<String>,
    },
}

fn path(named: Option<String>, client: &Client, rest: &str) -> Outcome<String> {
    let named = named.unwrap_or_else(|| client.settings.project.to_string());
    Ok(format!("/v1/projects/{}/secrets{rest}", project(&named)?))
}

/// Runs a command on secrets.
///
/// # Errors
/// What the service answers; wrong usage when nothing says a value.
pub async fn run(command: Secret, client: &Client, output: Output) -> Outcome {
    match command {
        Secret::Set { name, files, project } => {
            let values = if files.is_empty() {
                from_lines(&lines()?)?
            } else {
                from_files(&files)?
            };
            let request = Request::put(path(project, client, &format!("/{}", segment(&name)))?);
            let set: SecretView = client.plane(request.body(&NewSecret { values })?).await?;
            output.result(&set, || {
                let keys = set.keys.join(", ");
                format!(
                    "set {} of project {}, version {}: {keys}",
                    set.name, set.project, set.version
                )
            })
        }
        Secret::List { project } => {
            let items: Vec<SecretView> = client
                .plane_list(Request::get(path(project, client, "")?), None)
                .await?;
            output.list(&items, &["project", "name", "version", "keys", "set", "by"], |s| {
                vec![
                    s.project.to_string(),
                    s.name.to_string(),
                    s.version.to_string(),
                    s.keys.join(", "),
                    time(&s.updated_at),
                    s.actor.name.clone(),
                ]
            })
        }
        Secret::Delete { name, project } => {
            client
                .plane_done(Request::delete(path(project, client, &format!("/{}", segment(&name)))?))
                .await?;
            output.result(&serde_json::json!({ "deleted": name }), || format!("deleted {name}"))
        }
    }
}

/// What stands on standard input. Somebody who types is asked, and nothing of it is shown.
fn lines() -> Outcome<String> {
    if !std::io::stdin().is_terminal() {
        return std::io::read_to_string(std::io::stdin()).map_err(unreadable);
    }
    let mut text = String::new();
    loop {
        let line =
            rpassword::prompt_password("KEY=VALUE (not shown; an empty line is the end): ").map_err(unreadable)?;
        if line.trim().is_empty() {
            return Ok(text);
        }
        text.push_str(&line);
        text.push('\n');
    }
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::new(
        "cannot read the values",
        error,
        "send lines `KEY=VALUE` on standard input, or name files of text",
    )
}

fn pair<'a>(text: &'a str, form: &str) -> Outcome<(&'a str, &'a str)> {
    // Not the text itself: it may be a value.
    text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
        Failure::usage(
            "a value has no key",
            "there is no `=` behind a key",
            format!("write `{form}`"),
        )
    })
}

fn from_lines(text: &str) -> Outcome<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (key, value) = pair(line, "KEY=VALUE on each line of standard input")?;
        values.insert(key.to_owned(), value.to_owned());
    }
    Ok(values)
}

fn from_files(files: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for text in files {
        let (key, file) = pair(text, "--from-file KEY=FILE")?;
        let value = std::fs::read_to_string(PathBuf::from(file)).map_err(unreadable)?;
        values.insert(key.to_owned(), value);
    }
    Ok(values)
}
