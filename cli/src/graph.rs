//! Lineage as a graph for Graphviz or Mermaid: arrows lead from what was read to what was made of it. What the caller may
//! not know of is one opaque node.

use std::collections::BTreeSet;

use clap::ValueEnum;
use contract::api::{Lineage, UpstreamCommit};
use contract::ids::CommitId;

/// The node of all that is hidden.
const HIDDEN: &str = "restricted";

/// How lineage is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// As `--json`
    Json,
    /// For Graphviz
    Dot,
    /// For Mermaid, as Markdown shows it
    Mermaid,
    /// W3C PROV, as JSON
    Prov,
    /// OpenLineage events, one a line
    Openlineage,
}

/// Which way was walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To what it was made from.
    Up,
    /// To what was made from it.
    Down,
}

struct Graph {
    /// Id, label.
    nodes: Vec<(String, String)>,
    /// From what was read to what was made; `true` where something hidden is in between.
    edges: BTreeSet<(String, String, bool)>,
}

fn key(commit: CommitId) -> String {
    format!("c{commit}")
}

fn label(step: &UpstreamCommit) -> String {
    let id = step.commit.to_string();
    let mut text = format!("{}/{}@{}", step.project, step.repo, id.get(..12).unwrap_or(&id));
    if let (Some(pipeline), Some(version)) = (&step.pipeline, step.pipeline_version) {
        text.push_str(&format!(" by {pipeline} v{version}"));
    }
    if let Some(image) = &step.image_digest {
        text.push_str(&format!(" {image}"));
    }
    if let Some(revision) = &step.code_revision {
        text.push_str(&format!(" code {revision}"));
    }
    if step.removed {
        text.push_str(" (removed)");
    }
    text
}

fn graph(reference: &str, found: &Lineage, way: Way) -> Graph {
    let root = key(found.commit);
    let mut nodes = vec![(root.clone(), reference.to_owned())];
    nodes.extend(found.upstream.iter().map(|step| (key(step.commit), label(step))));
    let mut edges = BTreeSet::new();
    for step in &found.upstream {
        let made = key(step.commit);
        edges.extend(step.inputs.iter().map(|input| (key(*input), made.clone(), false)));
        if way == Way::Up && step.depth == 1 && !step.earlier {
            edges.insert((made, root.clone(), false));
        }
    }
    if found.restricted {
        nodes.push((HIDDEN.to_owned(), "something that you may not know of".to_owned()));
        let mut through = Vec::new();
        for step in &found.upstream {
            let node = key(step.commit);
            let is_tied = |edge: &(String, String, bool)| match way {
                Way::Up => edge.0 == node,
                Way::Down => edge.1 == node,
            };
            if !edges.iter().any(is_tied) {
                through.push(node);
            }
        }
        for node in through {
            edges.insert(match way {
                Way::Up => (node, HIDDEN.to_owned(), true),
                Way::Down => (HIDDEN.to_owned(), node, true),
            });
        }
        edges.insert(match way {
            Way::Up => (HIDDEN.to_owned(), root, true),
            Way::Down => (root, HIDDEN.to_owned(), true),
        });
    }
    Graph { nodes, edges }
}

/// A text in quotes, as both languages read it: names hold no quotes, code revisions may hold anything.
fn quoted(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| {
            if c == '"' || c == '\\' || c.is_control() {
                '\''
            } else {
                c
            }
        })
        .collect();
    format!("\"{plain}\"")
}

/// For Graphviz.
pub fn dot(reference: &str, found: &Lineage, way: Way) -> String {
    let graph = graph(reference, found, way);
    let mut lines = vec![
        "digraph lineage {".to_owned(),
        "  rankdir=LR; node [shape=box];".to_owned(),
    ];
    for (id, label) in &graph.nodes {
        let style = if id == HIDDEN { ", style=dashed" } else { "" };
        lines.push(format!("  {} [label={}{style}];", quoted(id), quoted(label)));
    }
    for (from, to, hidden) in &graph.edges {
        let style = if *hidden { " [style=dashed]" } else { "" };
        lines.push(format!("  {} -> {}{style};", quoted(from), quoted(to)));
    }
    lines.push("}".to_owned());
    lines.join("\n")
}

/// For Mermaid.
pub fn mermaid(reference: &str, found: &Lineage, way: Way) -> String {
    let graph = graph(reference, found, way);
    let mut lines = vec!["flowchart LR".to_owned()];
    lines.extend(
        graph
            .nodes
            .iter()
            .map(|(id, label)| format!("  {id}[{}]", quoted(label))),
    );
    for (from, to, hidden) in &graph.edges {
        let arrow = if *hidden { "-.->" } else { "-->" };
        lines.push(format!("  {from} {arrow} {to}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> CommitId {
        CommitId::from_uuid(uuid::Uuid::from_u128(n))
    }

    fn step(n: u128, depth: u32, inputs: &[u128]) -> UpstreamCommit {
        UpstreamCommit {
            repo: "images".parse().unwrap(),
            project: "default".parse().unwrap(),
            commit: id(n),
            pipeline: None,
            pipeline_version: None,
            image_digest: None,
            code_revision: None,
            depth,
            earlier: false,
            removed: false,
            inputs: inputs.iter().map(|n| id(*n)).collect(),
            sources: Vec::new(),
            ci: None,
        }
    }

    fn lineage(restricted: bool, upstream: Vec<UpstreamCommit>) -> Lineage {
        Lineage {
            commit: id(1),
            pipeline: None,
            pipeline_version: None,
            image_digest: None,
            code_revision: None,
            sources: Vec::new(),
            ci: None,
            restricted,
            upstream,
        }
    }

    #[test]
    fn arrows_lead_from_what_was_read_to_what_was_made() {
        let up = lineage(false, vec![step(2, 1, &[3]), step(3, 2, &[])]);
        let text = dot("score@main", &up, Way::Up);
        let edge = |from, to| format!("\"{}\" -> \"{}\";", key(id(from)), key(id(to)));
        assert!(text.contains(&edge(2, 1)) && text.contains(&edge(3, 2)), "{text}");
        assert_eq!(text.matches("->").count(), 2, "{text}");
        let down = lineage(false, vec![step(2, 1, &[1])]);
        assert!(dot("a@main", &down, Way::Down).contains(&edge(1, 2)));
        assert!(!text.contains(HIDDEN));
    }

    #[test]
    fn what_is_hidden_is_one_node_and_ties_what_would_float() {
        let up = lineage(true, vec![step(2, 2, &[]), step(3, 2, &[])]);
        let text = mermaid("score@main", &up, Way::Up);
        assert_eq!(text.matches("something that you may not know of").count(), 1);
        for from in [2, 3] {
            assert!(text.contains(&format!("{} -.-> {HIDDEN}", key(id(from)))), "{text}");
        }
        assert!(text.contains(&format!("{HIDDEN} -.-> {}", key(id(1)))), "{text}");
    }

    #[test]
    fn a_label_ends_no_text() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a'b'c'd\"");
    }
}
