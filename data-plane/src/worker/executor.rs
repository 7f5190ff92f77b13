//! What the executor of a plane can give code. A spec that asks for more is refused when it is applied, where code would find
//! something else than it was promised; what only a cluster makes sense of is kept and told to be without effect.

use contract::executor::ExecutorConfig;
use contract::ids::OrganizationId;
use provenance::spec::{Network, PipelineSpec};

/// What runs code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executor {
    /// In words: "it …".
    pub how: &'static str,
    /// It gives GPUs.
    pub gpus: bool,
    /// One datum may run over several nodes.
    pub several_nodes: bool,
    /// There are machines to choose from, and pods to be changed.
    pub cluster: bool,
    /// Contents are fetched when they are read.
    pub lazy: bool,
    /// Code may run among the programs of a machine, and as another user than the executor's.
    pub machine: bool,
}

/// Code as processes of the machine that the plane is on.
pub const PROCESSES: Executor = Executor {
    how: "it runs code as processes of one machine",
    gpus: false,
    several_nodes: false,
    cluster: false,
    lazy: true,
    machine: true,
};

/// Code in pods of a cluster.
pub const PODS: Executor = Executor {
    how: "it runs code in pods of a cluster",
    gpus: true,
    several_nodes: false,
    cluster: true,
    lazy: false,
    machine: false,
};

/// A place in a spec, and what is to be said of it.
pub type Told = (&'static str, String);

impl Executor {
    /// The one of that configuration.
    pub const fn of(config: &ExecutorConfig) -> &'static Self {
        match config {
            ExecutorConfig::Processes => &PROCESSES,
            ExecutorConfig::Kubernetes(_) => &PODS,
        }
    }

    /// What of a spec it cannot give, so that the spec cannot be applied.
    pub fn refuses(&self, spec: &PipelineSpec) -> Vec<Told> {
        let mut told = Vec::new();
        for (at, amount) in [
            ("/resource_requests/gpu", &spec.resource_requests),
            ("/resource_limits/gpu", &spec.resource_limits),
        ] {
            if amount.gpu.is_some() && !self.gpus {
                let message = format!(
                    "can't be given on this data plane: {}, and hands out no GPUs; remove `gpu`, or apply the spec where there are some",
                    self.how
                );
                told.push((at, message));
            }
        }
        if let Some(distributed) = spec.distributed.filter(|d| d.nodes > 1 && !self.several_nodes) {
            let message = format!(
                "are {} nodes for one datum, which this data plane does not have: {}; write `nodes: 1`, or apply the spec where there are more",
                distributed.nodes, self.how
            );
            told.push(("/distributed/nodes", message));
        }
        if spec.distributed.is_some() && spec.network != Network::None && !self.cluster {
            let message = format!(
                "can't stand beside `network` on this data plane, whose network all datums would share, and with it the \
                 address where their processes meet: {}; remove one of the two",
                self.how
            );
            told.push(("/distributed", message));
        }
        self.refuses_running(spec, &mut told);
        told
    }

    /// What of how its code runs and is fed.
    fn refuses_running(&self, spec: &PipelineSpec, told: &mut Vec<Told>) {
        let lacks = [
            (
                "/input",
                !self.lazy && spec.input.leaves().iter().any(|leaf| leaf.lazy),
                "`lazy` files can't be given yet: remove `lazy`, and each datum's files are there before its code starts",
            ),
            (
                "/transform/user",
                !self.machine && spec.transform.user.is_some(),
                "all code runs as user 65532: remove `user`, and let that one read and run what the image has for it",
            ),
        ];
        let lacks = lacks.into_iter().filter(|(_, lacks, _)| *lacks);
        told.extend(lacks.map(|(at, _, message)| (at, format!("on this data plane {message} ({})", self.how))));
    }

    /// What a spec lacks, so that it cannot be applied.
    pub fn misses(&self, spec: &PipelineSpec) -> Option<Told> {
        let misses = !self.machine && spec.transform.image.is_none();
        misses.then(|| {
            let message = format!(
                "is needed on this data plane: {}, so name the image with what the code needs",
                self.how
            );
            ("/transform/image", message)
        })
    }

    /// What of a spec is without effect.
    pub fn ignores(&self, spec: &PipelineSpec) -> Vec<String> {
        let given = [
            ("resource_requests", spec.resource_requests != Default::default()),
            ("resource_limits.cpu", spec.resource_limits.cpu_millis.is_some()),
            ("scheduling_spec", spec.scheduling != Default::default()),
            ("tolerations", !spec.tolerations.is_empty()),
            ("pod_patch", !spec.pod_patch.is_empty()),
        ];
        let ignored = given.into_iter().filter(|(_, given)| *given && !self.cluster);
        ignored
            .map(|(field, _)| format!("`{field}` is kept and ignored on this data plane: {}", self.how))
            .collect()
    }
}

/// What of a spec the pods of this plane may not have, by its operator's rules.
pub fn refused_by_policy(
    config: &ExecutorConfig,
    organization: OrganizationId,
    spec: &PipelineSpec,
) -> Vec<pods::manifest::Unfit> {
    let ExecutorConfig::Kubernetes(config) = config else {
        return Vec::new();
    };
    let plane = pods::manifest::Plane {
        organization,
        config: (**config).clone(),
    };
    pods::manifest::refusals(&plane, spec)
}

/// The variables by which programs that run as several processes find each other, as torchrun and Kubeflow's trainer set them, of
/// the one node that there is.
pub fn of_one_node(spec: &PipelineSpec) -> Vec<(String, String)> {
    const ADDRESS: &str = "127.0.0.1";
    const PORT: &str = "29500";
    let Some(distributed) = spec.distributed else {
        return Vec::new();
    };
    let processes = distributed.processes_per_node.to_string();
    let all = [
        ("MASTER_ADDR", ADDRESS),
        ("MASTER_PORT", PORT),
        ("WORLD_SIZE", &processes),
        ("RANK", "0"),
        ("PET_NNODES", "1"),
        ("PET_NPROC_PER_NODE", &processes),
        ("PET_NODE_RANK", "0"),
        ("PET_MASTER_ADDR", ADDRESS),
        ("PET_MASTER_PORT", PORT),
    ];
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

#[cfg(test)]
mod tests {
    use contract::names::ProjectName;
    use serde_json::{Value, json};

    use super::*;

    const CLUSTER: Executor = Executor {
        how: "it runs code in pods",
        gpus: true,
        several_nodes: true,
        cluster: true,
        ..PODS
    };

    fn spec(more: &[(&str, Value)]) -> PipelineSpec {
        let mut value = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"] },
            "input": { "pfs": { "repo": "r", "glob": "/" } } });
        for (name, field) in more {
            value[name] = field.clone();
        }
        PipelineSpec::parse(&value, &ProjectName::default_project()).unwrap()
    }

    #[test]
    fn what_code_would_miss_is_refused_and_what_only_a_cluster_knows_is_ignored() {
        let gpu = json!({ "gpu": { "type": "nvidia.com/gpu", "number": 1 } });
        let much = spec(&[
            ("resource_limits", gpu),
            ("distributed", json!({ "nodes": 2 })),
            ("network", json!("internet")),
            ("resource_requests", json!({ "cpu": 2 })),
            ("scheduling_spec", json!({ "node_selector": { "disk": "ssd" } })),
            ("tolerations", json!([{ "key": "spot" }])),
            (
                "pod_patch",
                json!([{ "op": "add", "path": "/spec/hostname", "value": "x" }]),
            ),
        ]);
        let places: Vec<&str> = PROCESSES.refuses(&much).iter().map(|(at, _)| *at).collect();
        assert_eq!(places, ["/resource_limits/gpu", "/distributed/nodes", "/distributed"]);
        assert_eq!(PROCESSES.ignores(&much).len(), 4);
        assert!(CLUSTER.refuses(&much).is_empty() && CLUSTER.ignores(&much).is_empty());
        let image = ("transform", json!({ "cmd": ["a"], "image": "a:1", "user": "ada" }));
        let lazy = spec(&[
            image,
            ("input", json!({ "pfs": { "repo": "r", "glob": "/", "lazy": true } })),
        ]);
        let places: Vec<&str> = PODS.refuses(&lazy).iter().map(|(at, _)| *at).collect();
        assert_eq!(places, ["/input", "/transform/user"]);
        assert!(PROCESSES.refuses(&lazy).is_empty() && PODS.misses(&lazy).is_none());
        let serving = spec(&[("service", json!({ "internal_port": 8080 }))]);
        assert!(PODS.refuses(&serving).is_empty());
        assert_eq!(PODS.misses(&serving).unwrap().0, "/transform/image");
        assert!(PROCESSES.misses(&serving).is_none());
        let plain = spec(&[("distributed", json!({ "nodes": 1, "processes_per_node": 3 }))]);
        assert!(PROCESSES.refuses(&plain).is_empty() && PROCESSES.ignores(&plain).is_empty());
        assert!(of_one_node(&plain).contains(&("WORLD_SIZE".to_owned(), "3".to_owned())));
        assert!(of_one_node(&spec(&[])).is_empty());
    }
}
