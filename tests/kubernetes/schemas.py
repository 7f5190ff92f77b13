"""JSON Schemas of all resources of a cluster, out of its own OpenAPI documents, in a form that kubeconform reads. Fields that a type does not
have are refused."""
import json
import os

import tools

# How kubeconform is told where they are: group (or version, in the group without a name), version, kind.
LOCATION = "{{ .Group }}-{{ .ResourceAPIVersion }}-{{ .ResourceKind }}.json"
DRAFT = "http://json-schema.org/draft-07/schema#"
PREFIX = "#/components/schemas/"
# What says nothing of a document's form.
NOISE = {"description", "default", "example", "externalDocs", "discriminator", "xml", "deprecated"}


def strict(schema):
    """A JSON Schema of draft 7 for one of OpenAPI 3, which refuses what is not named."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": "#/definitions/" + schema["$ref"].removeprefix(PREFIX)}
    # Names of properties are no words of the schema.
    made = {key: {name: strict(value) for name, value in inner.items()} for key, inner in schema.items() if key == "properties"}
    made |= {key: strict(value) for key, value in schema.items() if key not in NOISE and key != "properties" and not key.startswith("x-")}
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if made.get("properties") and not free:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-embedded-resource"):
        made.setdefault("properties", {}).update(apiVersion={"type": "string"}, kind={"type": "string"}, metadata={"type": "object"})
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def referred(schema, definitions, found):
    """Names of all definitions that a schema needs."""
    if isinstance(schema, dict):
        # A property may be called `$ref` too.
        name = schema["$ref"].removeprefix("#/definitions/") if isinstance(schema.get("$ref"), str) else None
        if name and name not in found:
            found.add(name)
            referred(definitions[name], definitions, found)
        for value in schema.values():
            referred(value, definitions, found)
    elif isinstance(schema, list):
        for value in schema:
            referred(value, definitions, found)
    return found


def write(folder, group, version, kind, schema, definitions):
    schema = dict(schema, properties=dict(schema.get("properties", {})))
    schema["properties"]["apiVersion"] = {"const": f"{group}/{version}" if group else version}
    schema["properties"]["kind"] = {"const": kind}
    schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind"})
    needed = referred(schema, definitions, set())
    document = {"$schema": DRAFT, **schema, "definitions": {name: definitions[name] for name in sorted(needed)}}
    path = os.path.join(folder, f"{group or version}-{version}-{kind.lower()}.json")
    with open(path, "w") as file:
        json.dump(document, file)


def of_cluster(cluster, folder):
    """Writes the schema of each kind that the cluster has; how many."""
    count = 0
    for path in cluster.json("GET", "/openapi/v3")["paths"].values():
        document = cluster.json("GET", path["serverRelativeURL"])
        definitions = {name: strict(schema) for name, schema in document.get("components", {}).get("schemas", {}).items()}
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            kinds = schema.get("x-kubernetes-group-version-kind", [])
            # Those that belong to every group (DeleteOptions, WatchEvent) are no resources.
            if len(kinds) == 1 and "kind" in schema.get("properties", {}):
                of = kinds[0]
                write(folder, of["group"], of["version"], of["kind"], definitions[name], definitions)
                count += 1
    return count


def of_karpenter(cluster, folder):
    """Writes those of Karpenter's resources. The cluster reads their definitions, and keeps nothing."""
    count = 0
    for text in tools.karpenter().values():
        answer = cluster.json(
            "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", text.encode(), "application/yaml", dryRun="All"
        )
        for version in answer["spec"]["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            write(folder, answer["spec"]["group"], version["name"], answer["spec"]["names"]["kind"], schema, {})
            count += 1
    return count
