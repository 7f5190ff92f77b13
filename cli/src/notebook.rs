//! `pipeline from-notebook`: the code of a Jupyter notebook as the script of a pipeline. The conversion is pure; the same
//! notebook gives the same spec, so applying it again changes nothing.

mod script;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use contract::api::ApplyPipelines;
use contract::names::RepoName;
use contract::reference::RepoRef;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::{Failure, Outcome, io};
use crate::output::Output;
use crate::pipeline::send;

/// Make a pipeline of a Jupyter notebook
#[derive(Debug, Args)]
#[command(
    after_help = "The code cells become one Python script, in order, which reads /pfs/REPO/… and writes /pfs/out/…. Cells tagged `skip` are left out,\nas are magics that only change how things look (`%matplotlib`). Other magics and `!commands` are refused, with their lines.\n\nExample: howdah pipeline from-notebook analysis.ipynb --input images:/* --apply\n         howdah pipeline from-notebook join.ipynb --input images@main:/* --input truth:/ --name scores -o scores.yaml"
)]
pub struct FromNotebook {
    /// The notebook, an .ipynb file
    notebook: PathBuf,
    /// What it reads: `[project/]repo[@branch]:glob`; of several every combination (a cross)
    #[arg(long = "input", value_name = "INPUT", required = true, value_parser = input)]
    inputs: Vec<Input>,
    /// The pipeline's name [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// Write the spec to a file (.json or YAML) instead of standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "apply")]
    output: Option<PathBuf>,
    /// Apply it
    #[arg(long)]
    apply: bool,
}

/// An input of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Input {
    repo: RepoRef,
    branch: Option<String>,
    glob: String,
}

fn input(text: &str) -> Result<Input, String> {
    let unclear =
        || format!("`{text}` is no input: write `[project/]repo[@branch]:glob`, for example `images@main:/*`");
    let (place, glob) = text.split_once(':').ok_or_else(unclear)?;
    let (repo, branch) = match place.split_once('@') {
        Some((repo, branch)) if !branch.is_empty() => (repo, Some(branch.to_owned())),
        Some(_) => return Err(unclear()),
        None => (place, None),
    };
    if glob.is_empty() {
        return Err(unclear());
    }
    Ok(Input {
        repo: repo.parse().map_err(|e| format!("{}: {e}", unclear()))?,
        branch,
        glob: glob.to_owned(),
    })
}

/// Runs the command.
///
/// # Errors
/// When the notebook is none, or holds what a script cannot do; what the service answers.
pub async fn run(arguments: FromNotebook, client: &Client, output: Output) -> Outcome {
    let path = &arguments.notebook;
    let text = std::fs::read_to_string(path).map_err(io("read", path))?;
    let script = script::convert(&text).map_err(|why| {
        Failure::new(
            format!("{} cannot be made a pipeline", path.display()),
            why,
            "change these cells, or tag them `skip` (in JupyterLab: the gears at the right, cell tags)",
        )
    })?;
    for note in &script.notes {
        output.hint(note);
    }
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => default_name(path),
    };
    if let Err(error) = name.parse::<RepoName>() {
        return Err(Failure::usage(
            format!("`{name}` is no name of a pipeline"),
            error,
            "give it one with `--name`",
        ));
    }
    let spec = spec(&name, &client.settings.project, &script.lines, &arguments.inputs);
    if arguments.apply {
        let body = ApplyPipelines {
            specs: vec![spec],
            dry_run: false,
            image: None,
            code_revision: None,
            reprocess: false,
        };
        return send(&body, client, output).await;
    }
    let Some(to) = &arguments.output else {
        return output.result(&spec, || yaml(&spec).trim_end().to_owned());
    };
    let json = to.extension().is_some_and(|e| e == "json");
    let text = match json {
        true => format!("{}\n", serde_json::to_string_pretty(&spec).unwrap_or_default()),
        false => yaml(&spec),
    };
    let written = std::fs::File::create(to).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(io("write", to))?;
    let shown = to.display().to_string();
    output.result(&json!({ "pipeline": name, "file": shown }), || {
        format!("wrote {shown}; `howdah pipeline apply -f {shown}` applies it")
    })
}

fn default_name(path: &std::path::Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = stem.chars().map(plain).collect();
    name.trim_matches(['-', '_']).to_owned()
}

fn spec(name: &str, project: &str, lines: &[String], inputs: &[Input]) -> Value {
    let leaves: Vec<Value> = inputs
        .iter()
        .map(|input| {
            let mut pfs = json!({ "repo": input.repo.repo, "glob": input.glob });
            if let Some(project) = &input.repo.project {
                pfs["project"] = json!(project);
            }
            if let Some(branch) = &input.branch {
                pfs["branch"] = json!(branch);
            }
            json!({ "pfs": pfs })
        })
        .collect();
    let input = match leaves.as_slice() {
        [one] => one.clone(),
        _ => json!({ "cross": leaves }),
    };
    let mut pipeline = json!({ "name": name });
    if project != "default" {
        pipeline["project"] = json!(project);
    }
    json!({
        "pipeline": pipeline,
        "input": input,
        "transform": { "cmd": ["python3", "-"], "stdin": lines },
    })
}

/// As YAML that people read: the script one line a line.
fn yaml(spec: &Value) -> String {
    let mut text = format!(
        "pipeline: {}\ninput: {}\ntransform:\n  cmd: {}\n  stdin:\n",
        spec["pipeline"], spec["input"], spec["transform"]["cmd"]
    );
    for line in spec["transform"]["stdin"].as_array().into_iter().flatten() {
        text.push_str(&format!("    - {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_read_as_they_are_written() {
        let read = input("vision/images@dev:/*/[a:b]").unwrap();
        assert_eq!(read.repo.to_string(), "vision/images");
        assert_eq!((read.branch.as_deref(), read.glob.as_str()), (Some("dev"), "/*/[a:b]"));
        for wrong in ["images", "images:", "images@:/", ":/"] {
            assert!(input(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_yaml_is_the_spec() {
        let lines = [
            "import os".to_owned(),
            String::new(),
            "print('a: \"b\" # {')".to_owned(),
        ];
        let inputs = [input("images:/*").unwrap(), input("truth@dev:/").unwrap()];
        let spec = spec("scores", "vision", &lines, &inputs);
        let read: Value = serde_saphyr::from_str(&yaml(&spec)).unwrap();
        assert_eq!(read, spec);
        assert_eq!(
            default_name(std::path::Path::new("/x/My analysis (2).ipynb")),
            "My-analysis--2"
        );
    }
}
