//! Why the cluster finds no node for a pod, out of the sentence in which its scheduler says so: `0/5 nodes are available: 1 Insufficient
//! cpu, 4 node(s) had untolerated taint {…}.` It counts nodes of other tenants too and quotes their taints, so it is not passed on.

use std::collections::BTreeSet;

/// What nodes lack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// GPUs, or whatever else is given in pieces.
    Pieces(String),
    /// Memory.
    Memory,
    /// Processors.
    Cpu,
    /// Disk.
    Disk,
    /// Room for one more pod.
    Places,
    /// The labels that the spec selects by.
    Labels,
    /// They have taints that the spec does not tolerate: those that may be named.
    Tolerations(BTreeSet<String>),
    /// The volume.
    Volume,
    /// There is no node that could be asked.
    Nodes,
}

/// Taints of this service's own name tenants.
const OURS: &str = "howdah.dev/";

/// What the scheduler says, in the order of what can be done about it.
pub fn lacks(message: &str) -> Vec<Lack> {
    let told = message.split(" preemption:").next().unwrap_or_default();
    let reasons = told.split_once(": ").map_or("", |(_, rest)| rest);
    let mut found = BTreeSet::new();
    let mut taints: Option<BTreeSet<String>> = None;
    for reason in reasons.trim_end_matches('.').split(", ") {
        if let Some((_, what)) = reason.split_once("Insufficient ") {
            found.insert(insufficient(what.trim()));
        } else if reason.contains("taint") {
            taints.get_or_insert_default().extend(taint(reason));
        } else if reason.to_lowercase().contains("volume") {
            // Before affinity: a volume has one of its own, which no label of the spec mends.
            found.insert(Lack::Volume);
        } else if reason.contains("affinity") || reason.contains("selector") {
            found.insert(Lack::Labels);
        } else if reason.contains("Too many pods") {
            found.insert(Lack::Places);
        }
    }
    found.extend(taints.map(Lack::Tolerations));
    if found.is_empty() {
        found.insert(Lack::Nodes);
    }
    found.into_iter().collect()
}

fn insufficient(what: &str) -> Lack {
    match what {
        "cpu" => Lack::Cpu,
        "memory" => Lack::Memory,
        "ephemeral-storage" => Lack::Disk,
        "pods" => Lack::Places,
        other => Lack::Pieces(other.to_owned()),
    }
}

/// The name of the taint in `1 node(s) had untolerated taint {spot: true}`, if it may be told.
fn taint(reason: &str) -> Option<String> {
    let (_, braces) = reason.split_once('{')?;
    let key = braces.split([':', '}']).next()?.trim();
    let told = !key.is_empty() && !key.starts_with(OURS);
    told.then(|| key.to_owned())
}

impl Lack {
    /// In words: what there is none of, and what would help.
    fn words(&self) -> String {
        match self {
            Self::Pieces(kind) => format!("`{kind}` (ask for fewer in `resource_limits.gpu`, or have more added)"),
            Self::Memory => "memory (lower `resource_requests.memory`)".to_owned(),
            Self::Cpu => "processors (lower `resource_requests.cpu`)".to_owned(),
            Self::Disk => "disk (lower `resource_limits.disk`)".to_owned(),
            Self::Places => "room for one more pod".to_owned(),
            Self::Labels => "the labels that `scheduling_spec.node_selector` asks for".to_owned(),
            Self::Tolerations(named) if named.is_empty() => "leave for this pipeline".to_owned(),
            Self::Tolerations(named) => {
                let named: Vec<String> = named.iter().map(|key| format!("`{key}`")).collect();
                format!(
                    "leave for it (they have the taint {}: name it in `tolerations`)",
                    named.join(", ")
                )
            }
            Self::Volume => "the volume that `pod_patch` asks for".to_owned(),
            Self::Nodes => "anything free".to_owned(),
        }
    }
}

/// All of them in one sentence.
pub fn in_words(lacks: &[Lack]) -> String {
    let words: Vec<String> = lacks.iter().map(Lack::words).collect();
    format!("no node of the cluster has {}", words.join("; others have not "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scheduler_says_is_told_apart() {
        let named = |keys: &[&str]| Lack::Tolerations(keys.iter().map(|k| (*k).to_owned()).collect());
        for (message, wanted) in [
            ("0/1 nodes are available: 1 Insufficient cpu.", vec![Lack::Cpu]),
            (
                "0/3 nodes are available: 1 Insufficient memory, 2 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.",
                vec![Lack::Pieces("nvidia.com/gpu".to_owned()), Lack::Memory],
            ),
            (
                "0/4 nodes are available: 1 node(s) had untolerated taint {spot: true}, 2 node(s) had untolerated taint {howdah.dev/organization: org_other}, 1 node(s) didn't match Pod's node affinity/selector.",
                vec![Lack::Labels, named(&["spot"])],
            ),
            (
                "0/1 nodes are available: 1 node(s) had untolerated taint {howdah.dev/organization: org_other}.",
                vec![named(&[])],
            ),
            (
                "0/2 nodes are available: 2 node(s) had untolerated taint(s).",
                vec![named(&[])],
            ),
            (
                "0/2 nodes are available: 1 Too many pods, 1 Insufficient ephemeral-storage.",
                vec![Lack::Disk, Lack::Places],
            ),
            (
                "0/1 nodes are available: persistentvolumeclaim \"x\" not found, 1 node(s) had volume node affinity conflict.",
                vec![Lack::Volume],
            ),
            ("no nodes available to schedule pods", vec![Lack::Nodes]),
            ("", vec![Lack::Nodes]),
        ] {
            let found = lacks(message);
            assert_eq!(found, wanted, "{message}");
            assert!(!in_words(&found).contains("org_other"), "{message}");
        }
    }
}
