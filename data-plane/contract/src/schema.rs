//! The published JSON Schema (draft 2020-12) of a pipeline spec, for editors and whoever checks specs before they are applied. It
//! says of each field which it is and of which type; what several fields say together, the service checks. A test
//! of `provenance` holds it against the reader of specs.

use serde_json::{Map, Value, json};

/// As the names of repos, branches, projects and secrets are.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_-]{0,50}$";

/// A field: its name in snake case, what it is, its schema.
type Field = (&'static str, &'static str, Value);

/// The schema of one spec.
pub fn pipeline() -> Value {
    let mut schema = object(whole(), &["pipeline", "transform"]);
    // A spout reads nothing.
    schema["anyOf"] = json!([{ "required": ["input"], "properties": { "input": { "not": { "type": "null" } } } }, { "required": ["spout"], "properties": { "spout": { "type": "object" } } }]);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Howdah pipeline spec");
    schema["$defs"] = json!({ "input": input() });
    schema
}

fn whole() -> Vec<Field> {
    let every = ["until_success", "every_job"];
    let mut fields = vec![
        ("pipeline", "Name and project", pipeline_name()),
        ("description", "What it is for", text()),
        ("transform", "What runs for each datum", object(transform(), &[])),
        ("input", "What it runs on", json!({ "$ref": "#/$defs/input" })),
        ("output_branch", "The branch that outputs go to; `main`", name()),
        (
            "parallelism_spec",
            "How many datums run at once",
            object(vec![("constant", "So many", number(1))], &[]),
        ),
        ("autoscaling", "Workers may go to sleep between jobs", boolean()),
        (
            "datum_set_spec",
            "At most how much of a job a worker takes under one lease",
            object(datum_set(), &[]),
        ),
        (
            "datum_timeout",
            "The longest that code may run for one datum: `90s`, `1h30m`",
            duration(),
        ),
        ("datum_tries", "How often code may fail on a datum; 3", number(1)),
        ("job_timeout", "The longest that a job may take", duration()),
        (
            "reprocess_spec",
            "Whether datums that were done before run again",
            words(&every),
        ),
        ("salt", "Changing it makes every datum new", text()),
        ("resource_requests", "What code gets at least", object(resources(), &[])),
        ("resource_limits", "What code gets at most", object(resources(), &[])),
        (
            "service",
            "The command runs until it is replaced, and answers at a port",
            object(service(), &["internal_port"]),
        ),
        (
            "spout",
            "The command receives from outside and makes commits",
            object(
                vec![("overwrite", "Each commit has its own files alone", boolean())],
                &[],
            ),
        ),
        ("egress", "Where outputs are sent", egress()),
        ("s3_out", "Not supported yet", json!({ "enum": [false] })),
        (
            "metadata",
            "Labels and annotations, passed through",
            json!({ "type": "object" }),
        ),
        (
            "max_origins",
            "How many, or which, repos the output may come from",
            max_origins(),
        ),
        ("network", "What code can reach; `none`", words(&["none", "internet"])),
        (
            "path_collision",
            "What becomes of a path that several datums write; `fail`",
            words(&["fail", "append"]),
        ),
    ];
    fields.extend(cluster());
    fields
}

fn cluster() -> Vec<Field> {
    vec![
        (
            "scheduling_spec",
            "Which machines of a cluster it runs on",
            object(scheduling(), &[]),
        ),
        (
            "tolerations",
            "Taints of a cluster's machines that it runs in spite of",
            list(&object(toleration(), &[])),
        ),
        ("pod_patch", "A JSON patch of a cluster's pods", pod_patch()),
        (
            "distributed",
            "One datum over several nodes",
            object(distributed(), &["nodes"]),
        ),
    ]
}

fn pipeline_name() -> Value {
    let inner = object(vec![("name", "Its name", name())], &["name"]);
    let mut project = name();
    project["type"] = json!(["string", "integer", "boolean", "object"]);
    for key in ["properties", "required", "additionalProperties"] {
        project[key] = inner[key].clone();
    }
    let fields = vec![
        ("name", "Its name, and that of its output repo", name()),
        ("project", "Its project; `default`", project),
    ];
    object(fields, &["name"])
}

fn transform() -> Vec<Field> {
    let variables =
        json!({ "type": "object", "additionalProperties": text(), "propertyNames": { "pattern": "^[^=]+$" } });
    let code = json!({ "type": ["integer", "array"], "minimum": 0, "maximum": 255,
        "items": { "type": "integer", "minimum": 0, "maximum": 255 } });
    let mut command = texts();
    command["pattern"] = json!("^\\S*$");
    let mut pull = name();
    pull["type"] = json!("string");
    vec![
        (
            "image",
            "The image that it runs in; without one, among the machine's programs",
            text(),
        ),
        ("cmd", "The command and its arguments", command),
        ("stdin", "Lines for its standard input", texts()),
        ("err_cmd", "What runs when it failed", texts()),
        ("err_stdin", "Lines for that one's standard input", texts()),
        ("accept_return_code", "Exit codes other than 0 that are a success", code),
        ("env", "Environment variables", variables),
        (
            "secrets",
            "Secrets of the project that code gets",
            list(&object(secret_use(), &["name"])),
        ),
        (
            "image_pull_secrets",
            "Secrets by which the image is pulled",
            list(&pull),
        ),
        ("user", "The user of the image that runs it", text()),
        ("working_dir", "Where it runs", text()),
        (
            "code",
            "The repo that the code stands in, seen at `/code`",
            object(code_input(), &["repo"]),
        ),
    ]
}

fn secret_use() -> Vec<Field> {
    vec![
        ("name", "The secret", name()),
        ("env_var", "The variable that gets its value", text()),
        ("mount_path", "The directory that its values appear in", string()),
        ("key", "Which of its values", text()),
    ]
}

fn code_input() -> Vec<Field> {
    vec![
        ("project", "The repo's project", name()),
        ("repo", "The repo", name()),
        ("branch", "The branch; `main`", name()),
        ("path", "The path in it; all of it", text()),
    ]
}

fn input() -> Value {
    let parts = || json!({ "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/input" } });
    let kinds = vec![
        ("pfs", "Matches of a glob in a branch", object(pfs(), &["repo", "glob"])),
        ("cron", "Ticks of a schedule", object(cron(), &["name", "spec"])),
        ("cross", "Every combination of one datum of each", parts()),
        ("union", "The datums of all, equal ones once", parts()),
        ("join", "The combinations with the same key", parts()),
        ("group", "One datum a key, with everything of that key", parts()),
    ];
    let given =
        |(kind, ..): &Field| json!({ "required": [kind], "properties": { *kind: { "not": { "type": "null" } } } });
    let one: Vec<Value> = kinds.iter().map(given).collect();
    let mut schema = object(kinds, &[]);
    schema["oneOf"] = json!(one);
    schema
}

fn pfs() -> Vec<Field> {
    vec![
        ("project", "The repo's project", name()),
        ("repo", "The repo", name()),
        ("branch", "The branch; `main`", name()),
        ("name", "It appears at `/pfs/<name>`; the repo's name", name()),
        (
            "glob",
            "Which paths are datums: `/` the whole repo as one, `/*` each entry",
            text(),
        ),
        ("empty_files", "Code sees names only", boolean()),
        ("lazy", "Files are fetched when they are opened", boolean()),
        ("s3", "Not supported yet", json!({ "enum": [false] })),
        ("join_on", "The key under a join: `$1`", text()),
        ("outer_join", "Kept where another has nothing of that key", boolean()),
        ("group_by", "The key under a group: `$1`", text()),
        ("trigger", "When the pipeline takes what is new", trigger()),
    ]
}

fn trigger() -> Value {
    let conditions = [
        ("size", "It has grown by so much", quantity()),
        ("commits", "It is ahead by so many commits", number(1)),
        ("cron_spec", "A tick of this schedule has passed", string()),
        ("rate_limit_spec", "As `cron_spec`, by its older name", string()),
    ];
    let given = |(name, ..): &Field| {
        let not_null =
            |name: &str| json!({ "required": [name], "properties": { name: { "not": { "type": "null" } } } });
        [not_null(name), not_null(&camel(name))]
    };
    let one: Vec<Value> = conditions.iter().flat_map(given).collect();
    let mut fields = vec![
        ("branch", "The branch that is watched", name()),
        ("all", "All conditions have to hold", boolean()),
    ];
    fields.extend(conditions);
    let mut schema = object(fields, &[]);
    schema["anyOf"] = json!(one);
    // Null says that there is none.
    json!({ "anyOf": [schema] })
}

fn cron() -> Vec<Field> {
    vec![
        ("name", "Its files are at `/pfs/<name>`", name()),
        ("spec", "When it ticks: `@daily`, `0 6 * * *`, `never`", string()),
        ("overwrite", "Only the file of the last tick stays", boolean()),
        ("start", "Ticks count from here, RFC 3339", string()),
    ]
}

fn datum_set() -> Vec<Field> {
    vec![
        ("number", "At most so many datums", number(1)),
        (
            "size_bytes",
            "At most so many bytes of input, but one datum at least",
            quantity(),
        ),
    ]
}

fn resources() -> Vec<Field> {
    let gpu = vec![
        ("type", "As Kubernetes names it: `nvidia.com/gpu`", text()),
        ("number", "How many", number(1)),
    ];
    vec![
        ("cpu", "Processors: `2`, `0.5`, `500m`", quantity()),
        ("memory", "Bytes of memory: `512Mi`, `2G`", quantity()),
        ("disk", "Bytes of disk: `10Gi`", quantity()),
        ("gpu", "GPUs", object(gpu, &["type", "number"])),
    ]
}

fn scheduling() -> Vec<Field> {
    let labels = json!({ "type": "object", "additionalProperties": text(), "propertyNames": { "minLength": 1 } });
    vec![
        ("node_selector", "Labels that a machine must have", labels),
        ("priority_class_name", "What goes before what", text()),
    ]
}

fn toleration() -> Vec<Field> {
    let operators = ["Equal", "Exists", "EQUAL", "EXISTS", "EMPTY"];
    let effects = [
        "NoSchedule",
        "PreferNoSchedule",
        "NoExecute",
        "NO_SCHEDULE",
        "PREFER_NO_SCHEDULE",
        "NO_EXECUTE",
        "ALL_EFFECTS",
    ];
    vec![
        ("key", "The taint; without it and with `operator: Exists`, all", text()),
        ("operator", "`Equal`, or `Exists` whatever the value", words(&operators)),
        ("value", "Its value", text()),
        ("effect", "What it does; whatever", words(&effects)),
        ("toleration_seconds", "For so long", number(0)),
    ]
}

fn pod_patch() -> Value {
    let pointer = || json!({ "type": "string", "pattern": "^/" });
    let operation = vec![
        (
            "op",
            "What to do",
            words(&["add", "remove", "replace", "move", "copy", "test"]),
        ),
        ("path", "Where", pointer()),
        ("from", "From where", pointer()),
        ("value", "With what", json!({})),
    ];
    let operation = object(operation, &["op", "path"]);
    json!({ "type": ["string", "array"], "items": operation })
}

fn distributed() -> Vec<Field> {
    vec![
        ("nodes", "Over so many", number(1)),
        ("processes_per_node", "So many processes on each; 1", number(1)),
    ]
}

fn service() -> Vec<Field> {
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    vec![
        (
            "internal_port",
            "The port that the command listens at",
            json!({ "type": "integer", "minimum": 1024, "maximum": 65535 }),
        ),
        (
            "type",
            "Read and without meaning: `howdah open` leads there",
            words(&types),
        ),
    ]
}

fn egress() -> Value {
    let secret = || {
        let fields = vec![
            ("name", "A secret of the project", name()),
            ("key", "Which of its values is the password", text()),
        ];
        object(fields, &["name"])
    };
    let url = |what| ("url", what, json!({ "type": "string" }));
    let bucket = || {
        vec![
            url("`s3://bucket/prefix`"),
            ("endpoint", "What serves the bucket; AWS", text()),
            ("region", "Its region", text()),
            ("secret", "The bucket's keys", secret()),
        ]
    };
    let format = vec![
        ("type", "What the files are", words(&["CSV", "JSON", "csv", "json"])),
        ("columns", "The columns that they have", texts()),
    ];
    let database = vec![
        url("`postgresql://user@host:5432/database`"),
        ("secret", "The password", secret()),
        ("file_format", "How rows stand in files", object(format, &["type"])),
    ];
    // Pachyderm writes `URL` too.
    let addressed = |mut schema: Value| {
        schema["properties"]["url"]["type"] = json!("string");
        schema["properties"]["URL"] = schema["properties"]["url"].clone();
        schema["oneOf"] = json!([{ "required": ["url"] }, { "required": ["URL"] }]);
        schema
    };
    let bucket = || addressed(object(bucket(), &["secret"]));
    let database = addressed(object(database, &["file_format"]));
    let place = |name: &'static str, what: &'static str, schema: Value| object(vec![(name, what, schema)], &[name]);
    json!({ "anyOf": [
        bucket(), place("object_storage", "A bucket", bucket()), place("sql_database", "A database", database),
    ] })
}

fn max_origins() -> Value {
    json!({ "type": ["integer", "array"], "minimum": 0, "maximum": u32::MAX,
        "items": { "type": ["string", "integer", "boolean"], "minimum": 0 } })
}

/// A text; YAML reads `salt: 1` as a number, and what is meant is clear.
fn text() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

/// A text that no number and no truth value can be.
fn string() -> Value {
    json!({ "type": "string" })
}

/// A list of texts; a single text is a list of one.
fn texts() -> Value {
    json!({ "type": ["string", "number", "boolean", "array"], "items": text() })
}

fn name() -> Value {
    json!({ "type": ["string", "integer", "boolean"], "pattern": NAME, "minimum": 0 })
}

fn boolean() -> Value {
    json!({ "type": "boolean" })
}

fn number(least: u32) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": u32::MAX })
}

fn quantity() -> Value {
    json!({ "type": ["string", "number"], "exclusiveMinimum": 0, "pattern": "^\\s*[0-9.]+\\s*[A-Za-z]*\\s*$" })
}

fn duration() -> Value {
    json!({ "type": ["string", "number"], "exclusiveMinimum": 0, "pattern": "^\\s*[+]?[0-9.]" })
}

fn words(words: &[&str]) -> Value {
    json!({ "enum": words })
}

fn list(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// Of an object with these fields, each in either of its spellings, and no others. Null is as good as absent but for what
/// is `required`.
fn object(fields: Vec<Field>, required: &[&str]) -> Value {
    let mut properties = Map::new();
    let (mut either, mut needed, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (name, what, schema) in fields {
        let is_required = required.contains(&name);
        let mut schema = match is_required {
            true => schema,
            false => or_null(schema),
        };
        schema["description"] = json!(what);
        let other = camel(name);
        if other != name {
            properties.insert(other.clone(), schema.clone());
            all.push(json!({ "not": { "type": "object", "required": [name, other] } }));
        }
        match (is_required, other == name) {
            (true, true) => needed.push(name),
            (true, false) => either.push(json!({ "anyOf": [{ "required": [name] }, { "required": [other] }] })),
            (false, _) => {}
        }
        properties.insert(name.to_owned(), schema);
    }
    all.append(&mut either);
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !needed.is_empty() {
        schema["required"] = json!(needed);
    }
    if !all.is_empty() {
        schema["allOf"] = json!(all);
    }
    schema
}

fn or_null(mut schema: Value) -> Value {
    if schema == json!({}) {
        return schema;
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.push(Value::Null);
        return schema;
    }
    match schema.get_mut("type") {
        Some(Value::Array(types)) => types.push(json!("null")),
        Some(one) => *one = json!([*one, "null"]),
        None => return json!({ "anyOf": [schema, { "type": "null" }] }),
    }
    schema
}

/// `datum_tries` as `datumTries`.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}
