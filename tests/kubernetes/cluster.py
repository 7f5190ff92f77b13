"""A Kubernetes cluster over its API, with nothing but Python: any kubeconfig with a certificate, a token or a plugin that gets one."""
import base64
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, text):
        self.status = status
        try:
            self.reason = json.loads(text).get("message") or text
        except ValueError:
            self.reason = text
        super().__init__(f"{status}: {self.reason[:500]}")


def kubeconfig():
    """The path that KUBECONFIG names, or the usual one."""
    return os.environ.get("KUBECONFIG", "").split(":")[0] or os.path.expanduser("~/.kube/config")


def read(path):
    """A kubeconfig with one context; one in YAML is read by kubectl."""
    if not os.path.exists(path):
        raise SystemExit(f"{path} is not there: set KUBECONFIG to the kubeconfig of a cluster")
    text = open(path).read()
    try:
        return json.loads(text)
    except ValueError:
        pass
    kubectl = shutil.which("kubectl")
    if kubectl:
        told = subprocess.run([kubectl, "--kubeconfig", path, "config", "view", "--raw", "--minify", "-o", "json"], check=True, capture_output=True)
        return json.loads(told.stdout)
    return block_yaml(text)


def block_yaml(text):
    """The little of YAML that kubeconfigs are written in: nested blocks of names, items and words."""
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in lines if line.strip() and line.strip()[0] != "#" and line != "---"]

    def word(text):
        return json.loads(text) if text in ("{}", "[]", "true", "false", "null") or text[:1] == '"' else text.strip("'")

    def block(at):
        """The list or the names that begin on this line, and the line after."""
        indent, items = lines[at][0], lines[at][1].startswith("- ")
        found = [] if items else {}
        while at < len(lines) and lines[at][0] == indent and lines[at][1].startswith("- ") == items:
            line = lines[at][1]
            if items:
                lines[at] = (indent + 2, line[2:].strip())
                value, at = block(at) if re.match(r"[\w.-]+:( |$)", lines[at][1]) else (word(lines[at][1]), at + 1)
                found.append(value)
                continue
            name, _, rest = line.partition(":")
            below = at + 1 < len(lines) and (lines[at + 1][0] > indent or lines[at + 1][0] == indent and lines[at + 1][1].startswith("- "))
            if rest.strip() or not below:
                found[name], at = word(rest.strip()), at + 1
            else:
                found[name], at = block(at + 1)
        return found, at

    return block(0)[0]


class Cluster:
    """Its API as JSON."""

    def __init__(self, path=None):
        self.path = path or kubeconfig()
        config = read(self.path)
        named = {kind: {item["name"]: item[kind[:-1]] for item in config.get(kind) or []} for kind in ("clusters", "users", "contexts")}
        context = named["contexts"][config.get("current-context") or next(iter(named["contexts"]))]
        cluster, self.user = named["clusters"][context["cluster"]], named["users"][context["user"]] or {}
        self.server = urllib.parse.urlsplit(cluster["server"])
        self.folder = tempfile.TemporaryDirectory(prefix="howdah-kube")
        authority = self.material(cluster, "certificate-authority")
        self.tls = ssl.create_default_context(cafile=authority)
        if cluster.get("insecure-skip-tls-verify"):
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        certificate, key = self.material(self.user, "client-certificate"), self.material(self.user, "client-key")
        if certificate:
            self.tls.load_cert_chain(certificate, key)
        self.bearer = self.user.get("token") or self.plugin()
        self.connection = None

    def material(self, of, name):
        """A certificate or key as a file, which is what Python reads."""
        if of.get(f"{name}-data"):
            path = os.path.join(self.folder.name, name)
            with open(path, "wb") as file:
                file.write(base64.b64decode(of[f"{name}-data"]))
            return path
        if of.get(name):
            return os.path.join(os.path.dirname(os.path.abspath(self.path)), of[name])
        return None

    def plugin(self):
        """A token by the program that the kubeconfig names, as clouds do it."""
        if "exec" not in self.user:
            return None
        asked = self.user["exec"]
        env = dict(os.environ, **{item["name"]: item["value"] for item in asked.get("env") or []})
        told = subprocess.run([asked["command"], *(asked.get("args") or [])], check=True, capture_output=True, env=env)
        return json.loads(told.stdout)["status"]["token"]

    def address(self):
        """The server's address and port."""
        port = self.server.port or 443
        return socket.getaddrinfo(self.server.hostname, port, type=socket.SOCK_STREAM)[0][4][0], port

    def route(self):
        """By which address of this machine the cluster is reached."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(self.address())
            return probe.getsockname()[0]

    def call(self, method, path, body=None, kind="application/json", **query):
        """An answer's text. A connection that broke while it was idle is made anew."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        headers = {"Accept": "application/json", "Content-Type": kind}
        if self.bearer:
            headers["Authorization"] = f"Bearer {self.bearer}"
        content = json.dumps(body) if isinstance(body, (dict, list)) else body
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(self.server.hostname, self.server.port or 443, context=self.tls, timeout=60)
            try:
                self.connection.request(method, self.server.path.rstrip("/") + path, body=content, headers=headers)
                answer = self.connection.getresponse()
                text = answer.read().decode()
                break
            except (http.client.HTTPException, OSError):
                self.connection.close()
                self.connection = None
                if attempt == 2:
                    raise
        if answer.status >= 300:
            raise Refused(answer.status, text)
        return text

    def json(self, method, path, body=None, kind="application/json", **query):
        return json.loads(self.call(method, path, body, kind, **query))

    def get(self, path):
        """An object, or nothing."""
        try:
            return self.json("GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def list(self, path, selector=None):
        query = {"labelSelector": selector} if selector else {}
        try:
            return self.json("GET", path, **query)["items"]
        except Refused as refused:
            if refused.status == 404:
                return []
            raise

    def apply(self, path, body):
        return self.json("PATCH", path, body, APPLY, fieldManager="howdah-test", force="true")

    def delete(self, path, **options):
        try:
            return self.call("DELETE", path, options or None)
        except Refused as refused:
            if refused.status != 404:
                raise

    def resources(self):
        """Every kind that can be listed: path of its group and version, plural, kind, whether it stands in a namespace."""
        groups = [("/api/v1", self.json("GET", "/api/v1"))]
        for group in self.json("GET", "/apis")["groups"]:
            path = f"/apis/{group['preferredVersion']['groupVersion']}"
            try:
                groups.append((path, self.json("GET", path)))
            except Refused:
                continue
        for path, found in groups:
            for resource in found["resources"]:
                if "/" not in resource["name"] and "list" in resource["verbs"]:
                    yield path, resource["name"], resource["kind"], resource["namespaced"]


def eventually(what, look, seconds):
    """What `look` answers once that is something; fails with the last thing that it said otherwise."""
    until, said = time.monotonic() + seconds, None
    while True:
        try:
            found = look()
            if found:
                return found
            said = found
        except (Refused, OSError, http.client.HTTPException) as error:
            said = error
        if time.monotonic() > until:
            raise TimeoutError(f"{what} is not so after {seconds} s: {said}")
        time.sleep(0.5)
