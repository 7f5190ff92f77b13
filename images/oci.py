"""Container images out of files: no daemon, no root, no network, nothing but Python. The same files give the same bytes.

A layer is a set of paths. What is written is sorted, has one time and no names of users; directories on the way to a path are
made. An image is written as an OCI archive (`podman`, `skopeo`, `buildah`, `ctr`), as a docker archive (`docker load`), or as the
blobs that a registry serves.
"""
import datetime
import gzip
import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from dataclasses import dataclass, field

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture():
    """The machine's, as images call it."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def canonical(document):
    """JSON with one spelling."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


class Layer:
    """Paths, and what is there."""

    def __init__(self):
        self.entries = {}

    def _put(self, path, kind, content, mode, owner):
        path = path.strip("/")
        if not path or ".." in path.split("/"):
            raise ValueError(f"{path!r} is no path of an image")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.directory(parent)
        if parent and self.entries[parent][0] == "link":
            raise ValueError(f"{path}: {parent} is a link")
        self.entries[path] = (kind, content, mode, owner)

    def directory(self, path, mode=0o755, owner=0):
        self._put(path, "directory", b"", mode, owner)

    def text(self, path, text, mode=0o644):
        self._put(path, "file", text.encode(), mode, 0)

    def file(self, source, path=None, mode=None):
        """A copy of a file. Neither its owner nor set-user-id bits are taken over."""
        if mode is None:
            mode = 0o755 if os.stat(source).st_mode & stat.S_IXUSR else 0o644
        with open(source, "rb") as opened:
            self._put(path or source, "file", opened.read(), mode, 0)

    def link(self, path, target):
        self._put(path, "link", target, 0o777, 0)

    def tree(self, source, path=None, keep=lambda path: True):
        """A folder with all in it that `keep` takes."""
        for folder, folders, files in os.walk(source):
            folders.sort()
            for name in sorted(files) + [f for f in folders if os.path.islink(os.path.join(folder, f))]:
                at = os.path.join(folder, name)
                to = os.path.join(path or source, os.path.relpath(at, source))
                if not keep(at):
                    continue
                if os.path.islink(at):
                    self.link(to, os.readlink(at))
                elif os.path.isfile(at):
                    self.file(at, to)

    def tar(self, created):
        """The layer, with one time on all of it."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, (kind, content, mode, owner) in sorted(self.entries.items()):
                member = tarfile.TarInfo(path)
                member.mode, member.mtime = mode, created
                member.uid = member.gid = owner
                if kind == "directory":
                    member.type = tarfile.DIRTYPE
                    tar.addfile(member)
                elif kind == "link":
                    member.type, member.linkname = tarfile.SYMTYPE, content
                    tar.addfile(member)
                else:
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return out.getvalue()


@dataclass
class Image:
    """What runs, out of which layers."""

    name: str  # With its tag: `howdah/control-plane:1.2.3`.
    layers: list
    config: dict = field(default_factory=dict)  # As in the OCI image specification: User, Entrypoint, Env, Labels, …
    created: int = 0  # Seconds since 1970, on everything.
    _written: tuple = None

    def blobs(self):
        """Manifest, configuration, the layers without compression, and every blob by its digest."""
        if self._written is None:
            self._written = self._write()
        return self._written

    def _write(self):
        when = timestamp(self.created)
        tars = [layer.tar(self.created) for layer in self.layers]
        packed = [gzip.compress(tar, 6, mtime=0) for tar in tars]
        config = canonical({
            "architecture": architecture(),
            "os": "linux",
            "created": when,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
            "history": [{"created": when, "created_by": "images/oci.py"} for _ in tars],
        })
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(LAYER, blob) for blob in packed],
        }
        labels = self.config.get("Labels")
        if labels:
            manifest["annotations"] = labels
        manifest = canonical(manifest)
        blobs = {digest(blob): blob for blob in [manifest, config, *packed]}
        return manifest, config, tars, blobs

    def oci_archive(self, path, names=()):
        """Writes an OCI archive that is known by its name, and by others if there are; the digest of its manifest."""
        manifest, _, _, blobs = self.blobs()
        described = descriptor(MANIFEST, manifest) | {"platform": {"architecture": architecture(), "os": "linux"}}
        known = [
            described | {"annotations": {"io.containerd.image.name": full_name(name), "org.opencontainers.image.ref.name": tag(name)}}
            for name in [self.name, *(name.replace("@DIGEST", "@" + digest(manifest)) for name in names)]
        ]
        index = canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": known})
        files = {"oci-layout": canonical({"imageLayoutVersion": "1.0.0"}), "index.json": index}
        files |= {f"blobs/sha256/{key.removeprefix('sha256:')}": blob for key, blob in blobs.items()}
        write_tar(path, files, self.created)
        return digest(manifest)

    def docker_archive(self, path):
        """Writes what `docker load` takes; the image's id."""
        _, config, tars, _ = self.blobs()
        layers = {f"{hashlib.sha256(tar).hexdigest()}.tar": tar for tar in tars}
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = canonical([{"Config": name, "RepoTags": [self.name], "Layers": list(layers)}])
        write_tar(path, {"manifest.json": manifest, name: config} | layers, self.created)
        return digest(config)


def descriptor(media_type, content):
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def timestamp(seconds):
    """RFC 3339."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def full_name(name):
    """As container engines know an image: with its registry."""
    first = name.split("/")[0]
    if "/" in name and ("." in first or ":" in first or first == "localhost"):
        return name
    return "docker.io/" + (name if "/" in name else f"library/{name}")


def tag(name):
    """What stands behind the colon or the at."""
    return name.rsplit("/", 1)[-1].partition("@" if "@" in name else ":")[2] or "latest"


def write_tar(path, files, created):
    """Files in their order, at once there or not at all."""
    with open(f"{path}.tmp", "wb") as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made = set()
        for name, content in files.items():
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in made:
                    made.add(folder)
                    member = tarfile.TarInfo(folder)
                    member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, created
                    tar.addfile(member)
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o644, created
            tar.addfile(member, io.BytesIO(content))
    os.replace(f"{path}.tmp", path)
