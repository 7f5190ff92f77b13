"""What an image is made of, as a software bill of materials: CycloneDX 1.6 in JSON.

Crates are those that are linked into the programs (not what only builds or tests them), with the digests of Cargo.lock; packages of
the system are those that the shared libraries and certificates are of.
"""
import collections
import functools
import json
import os
import subprocess
import tomllib
import uuid

import libraries

# A name of its own, so that the same image has the same serial number.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/howdah")


@functools.cache
def resolved(top):
    """What cargo says of the workspace, for this machine."""
    cargo = os.environ.get("CARGO", "cargo")
    host = next(
        line.split(": ")[1]
        for line in subprocess.run([cargo, "-vV"], check=True, capture_output=True, text=True, cwd=top).stdout.splitlines()
        if line.startswith("host")
    )
    told = subprocess.run(
        [cargo, "metadata", "--format-version", "1", "--locked", "--filter-platform", host],
        check=True, stdout=subprocess.PIPE, text=True, cwd=top,
    )
    return json.loads(told.stdout)


def crates(top, roots):
    """Packages that are linked into programs of those crates, by id, and what each one uses."""
    metadata = resolved(top)
    packages = {package["id"]: package for package in metadata["packages"]}
    uses = {
        node["id"]: sorted({d["pkg"] for d in node["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])})
        for node in metadata["resolve"]["nodes"]
    }
    # What a macro uses while it compiles is in no program.
    macros = {key for key, p in packages.items() if any("proc-macro" in target["kind"] for target in p["targets"])}
    reached, queue = {}, collections.deque(key for key, p in packages.items() if p["name"] in roots and p["source"] is None)
    while queue:
        key = queue.popleft()
        if key not in reached:
            reached[key] = [other for other in uses[key] if other not in macros]
            queue.extend(reached[key])
    return packages, reached


def crate(package, sums):
    reference = f"pkg:cargo/{package['name']}@{package['version']}"
    component = {
        "type": "library",
        "bom-ref": reference,
        "name": package["name"],
        "version": package["version"],
        "purl": reference,
    }
    if package["license"]:
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    digest = sums.get((package["name"], package["version"]))
    if digest:
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    if package["repository"]:
        component["externalReferences"] = [{"type": "vcs", "url": package["repository"].strip()}]
    return component


def debian(package):
    vendor, distribution = libraries.distribution()
    reference = f"pkg:deb/{vendor}/{package['name']}@{package['version']}?arch={package['architecture']}&distro={distribution}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": package["name"],
        "version": package["version"],
        "purl": reference,
        "properties": [{"name": "howdah:source-package", "value": f"{package['source']} {package['source_version']}"}],
    }


def bill(top, name, version, manifest, created, roots, packages):
    """The document. `manifest` is the digest of the image's manifest; `packages` are those of the system."""
    with open(os.path.join(top, "Cargo.lock"), "rb") as file:
        locked = tomllib.load(file)["package"]
    sums = {(p["name"], p["version"]): p["checksum"] for p in locked if "checksum" in p}
    known, reached = crates(top, roots)
    reference = f"pkg:oci/{name.rsplit('/', 1)[-1]}@{manifest.replace(':', '%3A')}"
    components = [crate(known[key], sums) for key in reached] + [debian(package) for package in packages]
    components = list({component["bom-ref"]: component for component in components}.values())
    refer = {key: f"pkg:cargo/{known[key]['name']}@{known[key]['version']}" for key in reached}
    graph = {refer[key]: sorted({refer[other] for other in uses}) for key, uses in reached.items()}
    tops = sorted(refer[key] for key in reached if known[key]["name"] in roots)
    graph[reference] = tops + sorted(debian(package)["bom-ref"] for package in packages)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, manifest)}",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "component": {
                "type": "container",
                "bom-ref": reference,
                "name": name,
                "version": version,
                "purl": reference,
                "hashes": [{"alg": "SHA-256", "content": manifest.removeprefix("sha256:")}],
            },
        },
        "components": sorted(components, key=lambda component: component["bom-ref"]),
        "dependencies": [{"ref": key, "dependsOn": uses} for key, uses in sorted(graph.items())],
    }
