use super::*;

#[test]
fn the_same_values_give_the_same_objects() {
    let place = Place::new();
    let kit = place.kit();
    let mut all = vec![kit.namespace()];
    all.extend(kit.objects());
    let value = json!({ "a": 1 });
    let workload = Workload {
        image: "howdah/data-plane:1",
        config: &value,
        agent_sha256: Some(&[1; 32]),
    };
    all.push(secret(&kit, "{}"));
    all.push(deployment(&kit, &workload, 1));
    all.extend(system());
    insta::assert_json_snapshot!(all);
}

fn organization() -> OrganizationId {
    OrganizationId::generate(1_700_000_000_000, [7; 10])
}

/// A cluster, and whom its pods may reach.
struct Place {
    config: KubernetesConfig,
    targets: Targets,
}

impl Place {
    fn kit(&self) -> TenantKit<'_> {
        TenantKit {
            organization: organization(),
            installation: "i1",
            config: &self.config,
            targets: &self.targets,
        }
    }

    fn new() -> Self {
        let config: KubernetesConfig = serde_json::from_value(json!({
            "plane_image": "howdah/data-plane:1",
            "control_url": "http://howdah.howdah-system.svc:7433",
            "gateway_cidrs": ["10.9.0.0/16"],
            "databases": { "host": "10.77.0.1" },
            "buckets": {
                "endpoint": "http://10.77.0.1:9000", "region": "eu-1",
                "credentials": { "kind": "static", "access_key_id": "a", "secret_access_key": "b" },
            },
            "gpu": { "backend": "karpenter", "classes": [{ "name": "a100", "gpus_max": 4, "requirements": [
                { "key": "karpenter.k8s.aws/instance-gpu-name", "operator": "In", "values": ["a100"] },
            ] }] },
        }))
        .unwrap();
        let api = contract::cloud::Target {
            cidr: "10.77.0.2/32".to_owned(),
            ports: vec![6443],
        };
        let targets = Targets::of(&config, &[api]).unwrap();
        Self { config, targets }
    }
}

fn with_credentials(credentials: Value) -> Place {
    let mut place = Place::new();
    place.config.buckets.credentials = serde_json::from_value(credentials).unwrap();
    place
}

/// The plane's pod, and its account.
fn pod_and_account(place: &Place) -> (Value, Value) {
    let workload = Workload {
        image: "x",
        config: &json!({}),
        agent_sha256: None,
    };
    let kit = place.kit();
    let pod = deployment(&kit, &workload, 1)["spec"]["template"]["spec"].clone();
    let mut objects = kit.objects().into_iter();
    let account = objects.find(|o| o["kind"] == "ServiceAccount" && names::name(o) == "plane");
    (pod, account.unwrap())
}

#[test]
fn what_opens_a_bucket_is_in_the_planes_own_container_and_nowhere_else() {
    let role = "arn:aws:iam::1:role/howdah-{organization}";
    let session = with_credentials(json!({ "kind": "session", "role_arn": "arn:aws:iam::1:role/r" }));
    let irsa = with_credentials(json!({ "kind": "irsa", "role_arn": role }));
    assert!(!pod_and_account(&Place::new()).0.to_string().contains("\"bucket\""));
    for (place, source, arn) in [
        (
            &session,
            json!({ "secret": { "secretName": "bucket-keys", "defaultMode": 0o440 } }),
            None,
        ),
        (
            &irsa,
            json!({ "projected": { "defaultMode": 0o440, "sources": [{ "serviceAccountToken": {
                "path": "token", "audience": "sts.amazonaws.com", "expirationSeconds": 3600,
            } }] } }),
            Some(format!("arn:aws:iam::1:role/{}", namespace(organization()))),
        ),
    ] {
        let (pod, account) = pod_and_account(place);
        let volume = pod["volumes"].as_array().unwrap().last().unwrap();
        let mut expected = source;
        expected["name"] = "bucket".into();
        assert_eq!(volume, &expected);
        let mounted = |container: &Value| container["volumeMounts"].to_string().contains("\"bucket\"");
        assert!(mounted(&pod["containers"][0]) && !mounted(&pod["initContainers"][0]));
        assert_eq!(
            account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].as_str(),
            arn.as_deref()
        );
        assert_eq!(account["automountServiceAccountToken"], false);
    }
}

#[test]
fn room_is_held_by_pods_that_give_way_to_everybody_and_are_as_large_as_a_plane() {
    let mut place = Place::new();
    place.config.warm.planes = 3;
    let [class, deployment] = &warm(&place.config, "i1")[..] else {
        panic!("other objects")
    };
    assert_eq!(
        (names::name(class), &class["value"]),
        ("howdah-system-warm-planes", &json!(-10))
    );
    assert_eq!(deployment["metadata"]["namespace"], "howdah-system");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let (plane, _) = pod_and_account(&place);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], names::name(class));
    let (room, plane_container) = (&pod["containers"][0], &plane["containers"][0]);
    assert_eq!(room["image"], place.config.plane_image);
    assert_eq!(room["resources"], plane_container["resources"]);
    assert_eq!(room["securityContext"], plane_container["securityContext"]);
    assert_eq!(pod["securityContext"], plane["securityContext"]);
    // It has nothing: no token, no secret, no volume.
    assert!(pod["volumes"].is_null() && pod["automountServiceAccountToken"] == false);
    for object in [class, deployment] {
        assert_eq!(names::owner(object), None);
        assert!(names::kind_of(object).is_some());
    }
}

#[test]
fn everything_says_whose_it_is_and_lies_in_its_namespace() {
    let place = Place::new();
    let kit = place.kit();
    for object in kit.objects() {
        assert_eq!(names::owner(&object), Some(organization()), "{object}");
        let kind = names::kind_of(&object).unwrap_or_else(|| panic!("{object}"));
        let space = object["metadata"]["namespace"].as_str();
        assert_eq!(space.is_some(), kind.namespaced, "{object}");
        assert!(space.is_none_or(|space| space == namespace(organization())));
    }
}

#[test]
fn no_policy_lets_a_pod_reach_the_metadata_of_a_cloud_or_a_private_network() {
    let place = Place::new();
    let kit = place.kit();
    for policy in kit.objects().iter().filter(|o| o["kind"] == "NetworkPolicy") {
        let rules = policy["spec"]["egress"].as_array().cloned().unwrap_or_default();
        for block in rules
            .iter()
            .filter_map(|rule| rule["to"].as_array())
            .flatten()
            .map(|to| &to["ipBlock"])
        {
            let cidr = block["cidr"].as_str().unwrap_or("10.0.0.0/32");
            let wide = cidr.ends_with("/0");
            let except = block["except"].to_string();
            assert!(!wide || cidr.contains(':') || except.contains("169.254.0.0/16") && except.contains("10.0.0.0/8"));
        }
    }
    let first = &kit.objects()[0];
    assert_eq!(names::name(first), "default-deny");
    assert!(first["spec"].get("egress").is_none() && first["spec"].get("ingress").is_none());
}

#[test]
fn nobody_but_the_plane_reaches_a_pod_of_a_pipeline_and_that_at_the_port_of_a_service_alone() {
    let place = Place::new();
    let policies: Vec<Value> = place
        .kit()
        .objects()
        .into_iter()
        .filter(|object| object["kind"] == "NetworkPolicy" && names::name(object) != "plane")
        .collect();
    let letting_in: Vec<&Value> = policies
        .iter()
        .map(|policy| &policy["spec"])
        .filter(|spec| spec["ingress"].as_array().is_some_and(|rules| !rules.is_empty()))
        .collect();
    let [spec] = letting_in.as_slice() else {
        panic!("{letting_in:?}");
    };
    assert_eq!(
        spec["podSelector"],
        json!({ "matchLabels": { names::PART: "service" } })
    );
    let plane = json!({ "podSelector": { "matchLabels": { names::PART: "plane" } } });
    let port = json!({ "protocol": "TCP", "port": contract::executor::SERVICE_PORT });
    assert_eq!(spec["ingress"], json!([{ "from": [plane], "ports": [port] }]));
    assert_ne!(contract::executor::SERVICE_PORT, names::PORT);
}

#[test]
fn another_credential_or_configuration_is_another_pod() {
    let place = Place::new();
    let kit = place.kit();
    let (one, other) = (json!({ "a": 1 }), json!({ "a": 2 }));
    let of = |config, agent: &[u8]| {
        let workload = Workload {
            image: "x",
            config,
            agent_sha256: Some(agent),
        };
        deployment(&kit, &workload, 1)
    };
    assert_eq!(of(&one, &[1]), of(&one, &[1]));
    assert_ne!(of(&one, &[1]), of(&one, &[2]));
    assert_ne!(of(&one, &[1]), of(&other, &[1]));
}
