"""What a check on a cluster needs beside it, on this machine: PostgreSQL, an S3 server, a registry, the control plane, people.

All of it listens on an address that pods reach, lives in one temporary directory, and is gone at the end, as are the namespaces and whatever
else was made on the cluster.
"""
import http.client
import json
import os
import pathlib
import pwd
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path[:0] = [str(HERE), str(TOP / "bench")]
import tools
import userland
from cluster import MERGE, Cluster, Refused, eventually
from rig import ask, free_port

PASSWORD = "correct horse battery"
MANAGED = "app.kubernetes.io/managed-by=howdah"
S3 = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address=sys.argv[1], port=int(sys.argv[2]), verbose=False)
server.start()
print("ready", flush=True)
sys.stdin.read()
"""


def run(*command, **options):
    """The output of a program that must succeed."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.decode()[-1500:]}")
    return done.stdout.decode()


class Postgres:
    """A PostgreSQL of its own, which asks for passwords."""

    def __init__(self, folder, address):
        self.folder, self.address, self.port = folder / "postgres", address, free_port(address)
        where = os.environ.get("PG_BIN_DIR") or run(TOP / "demo" / "setup", "where").strip()
        places = [where] if where else sorted(map(str, pathlib.Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
        if not places:
            raise SystemExit("PostgreSQL is not installed: run `make setup`")
        self.bin, self.password = pathlib.Path(places[0]), secrets.token_hex(12)
        # It does not run as root.
        self.user = {} if os.getuid() else next({"user": u, "group": g, "extra_groups": []} for _, _, u, g, *_ in map(self.entry, ("postgres", "nobody")) if u)
        self.folder.mkdir(mode=0o700)
        if self.user:
            os.chown(self.folder, self.user["user"], self.user["group"])
            folder.chmod(0o755)
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        data = self.folder / "data"
        words = ["-U", "howdah", "-A", "scram-sha-256", "--pwfile", secret, "--no-locale", "-E", "UTF8", "--no-sync", "-D", data]
        run(self.bin / "initdb", *words, cwd="/", **self.user)
        with open(data / "pg_hba.conf", "a") as file:
            file.write("host all all all scram-sha-256\n")
        settings = f"-c listen_addresses={address} -p {self.port} -k {self.folder} -c fsync=off -c max_connections=400"
        run(self.bin / "pg_ctl", "-D", data, "-w", "-l", self.folder / "log", "-o", settings, "start", cwd="/", stdin=subprocess.DEVNULL, **self.user)

    @staticmethod
    def entry(name):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            return (name, None, None, None)

    def url(self, database="postgres"):
        return f"postgresql://howdah:{self.password}@{self.address}:{self.port}/{database}"

    def ask(self, sql, database="postgres"):
        """Rows of one statement, as words."""
        command = [self.bin / "psql", "-X", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", sql, self.url(database)]
        return [line.split("\t") for line in run(*command).splitlines()]

    def stop(self):
        subprocess.run([self.bin / "pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop"], cwd="/", stdout=subprocess.DEVNULL, **self.user)


class ObjectStore:
    """An S3 server in memory."""

    def __init__(self, address):
        self.port = free_port(address)
        packages = run(TOP / "demo" / "setup", "s3").strip()
        env = dict(os.environ, PYTHONPATH=packages, no_proxy="*")
        command = [sys.executable, "-c", S3, address, str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        if self.process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the S3 server did not start")
        self.url = f"http://{address}:{self.port}"

    def buckets(self):
        """Names of all buckets."""
        text = urllib.request.urlopen(self.url, timeout=30).read().decode()
        return [part.split("</Name>")[0] for part in text.split("<Name>")[1:]]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Person:
    """Somebody with the command line, and logins of their own."""

    def __init__(self, stage, name):
        self.stage, self.name, self.email = stage, name, f"{name}@example.test"
        self.env = dict(os.environ, HOWDAH_URL=stage.url, HOWDAH_CONFIG_HOME=str(stage.folder / "people" / name), NO_COLOR="1")
        for variable in ("HOWDAH_TOKEN", "HOWDAH_ORG", "HOWDAH_PROJECT", "HOWDAH_HOME"):
            self.env.pop(variable, None)

    def __call__(self, *command, input=None, timeout=900):
        return run(self.stage.binaries / "howdah", *command, env=self.env, input=input, timeout=timeout)

    def json(self, *command, **options):
        text = self(*command, "--json", **options).strip()
        try:
            return json.loads(text)
        except ValueError:
            return [json.loads(line) for line in text.splitlines()]

    def refused(self, *command):
        """What is said when a command is refused; fails when it is not."""
        done = subprocess.run([str(self.stage.binaries / "howdah"), *command], env=self.env, capture_output=True, text=True, timeout=120)
        if done.returncode not in (3, 4):
            raise AssertionError(f"`howdah {' '.join(command)}` by {self.name} ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
        return done.stderr

    def sign_up(self, organization=None):
        self("signup", "--email", self.email, "--password-stdin", *(["--org", organization] if organization else []), input=f"{PASSWORD}\n".encode())
        return self


class Stage:
    """All of it, for one check."""

    def __init__(self, options):
        self.options, self.cluster = options, Cluster()
        self.address = options.host_address or self.cluster.route()
        self.binaries = pathlib.Path(options.binaries)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="howdah-kubernetes", dir="/var/tmp"))
        (self.folder / "people").mkdir()
        self.run_id = secrets.token_hex(3)
        self.organizations, self.undo, self.installed = {}, [], False
        self.master_key = secrets.token_hex(32)
        self.control, self.idle_seconds, self.gpu_classes = None, 3600, [{"name": "fake", "gpus_max": 8}]
        self.before = self.shared()
        self.port = free_port(self.address)
        self.url = f"http://{self.address}:{self.port}"
        # Where services are reached.
        self.services = (self.address, free_port(self.address))

    def __enter__(self):
        try:
            self.postgres = Postgres(self.folder, self.address)
            self.undo.append(self.postgres.stop)
            self.store = ObjectStore(self.address)
            self.undo.append(self.store.stop)
            authority, certificate, key = userland.authority(self.folder, self.address)
            self.registry = userland.Registry(self.address, certificate, key)
            self.undo.append(self.registry.stop)
            self.make_images(authority)
            if self.options.gpu == "karpenter":
                self.define_karpenter()
            self.postgres.ask("create database howdah")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        undo = [self.stop, *([self.uninstall] if self.installed else []), self.sweep, *reversed(self.undo)]
        for action in undo:
            try:
                action()
            except Exception as error:
                print(f"not undone: {error}", file=sys.stderr)
        if self.options.keep:
            print(f"kept: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def make_images(self, authority):
        """Ours, which trust the registry of this check, and the one that user code runs in."""
        version = f"check-{self.run_id}"
        out = self.folder / "images"
        # Only what runs there is made and loaded.
        names = ["data-plane", *(["control-plane"] if self.options.in_cluster else [])]
        only = [word for name in names for word in ("--only", name)]
        run(TOP / "images" / "build", "--binaries", self.binaries, "--out", out, "--version", version, "--authority", authority, "--without-bill", *only)
        self.plane_image, self.control_image = f"howdah/data-plane:{version}", f"howdah/control-plane:{version}"
        code = userland.image(f"{self.registry.host}/challenge:1")
        self.image = code.name
        self.registry.keep("challenge", "1", code)
        code.oci_archive(out / "challenge.oci.tar", names=[f"{self.registry.host}/challenge@DIGEST"])
        self.load(*(out / f"{name}.docker.tar" for name in names), out / "challenge.oci.tar")

    def load(self, *archives):
        """Images into the cluster, by the command that was named."""
        for archive in archives:
            run(*shlex.split(self.options.load), archive)

    def define_karpenter(self):
        """Karpenter's resources, where the cluster has them not. Nobody acts on them: the check plays the nodes that a pool describes."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for file, text in tools.karpenter().items():
            group, plural = file.removesuffix(".yaml").split("_")
            name = f"{plural}.{group}"
            try:
                self.cluster.json("POST", path, text.encode(), "application/yaml")
            except Refused as refused:
                if refused.status != 409:
                    raise
                continue
            self.undo.append(lambda name=name: self.cluster.delete(f"{path}/{name}"))
            told = lambda: (self.cluster.get(f"{path}/{name}") or {}).get("status", {}).get("conditions") or []
            eventually(f"the definition of {name}", lambda: any(c["type"] == "Established" and c["status"] == "True" for c in told()), 30)

    def fake_node(self, name, size, labels=None, taints=()):
        """A node that kwok plays, until the check ends."""
        path = f"/api/v1/nodes/{name}"
        labels = {"type": "kwok", "howdah.dev/check": self.run_id, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"} | (labels or {})
        metadata = {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
        self.cluster.json("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": list(taints)}})
        status = lambda: self.cluster.json("PATCH", f"{path}/status", {"status": {"capacity": size, "allocatable": size}}, MERGE)
        status()
        ready = lambda: any(c["type"] == "Ready" and c["status"] == "True" for c in self.cluster.get(path)["status"].get("conditions", []))
        eventually("the fake node (kwok must run in the cluster)", ready, 60)
        # kwok says again what a node has.
        status()

    def config(self):
        """What the control plane is told."""
        own = f"{self.address}/32"
        return {
            "database_url": self.postgres.url("howdah"),
            "listen": f"{self.address}:{self.port}",
            "public_url": self.url,
            "services": {"listen": "{}:{}".format(*self.services), "url": "http://*.{}:{}".format(*self.services)},
            "home": str(self.folder / "home"),
            "master_key": self.master_key,
            "idle_seconds": self.idle_seconds,
            "imports": {"allow": [self.address]},
            "cloud": {
                "kind": "kubernetes",
                "kubeconfig": os.path.abspath(self.cluster.path),
                "system_namespace": self.system_namespace,
                "plane_image": self.plane_image,
                "control_url": self.url,
                "control_targets": [{"cidr": own, "ports": [self.port]}],
                "gateway_cidrs": [own],
                # The registry too: planes, and not their workers, ask it what the tag of an image stands for.
                "databases": {
                    "host": self.address,
                    "port": self.postgres.port,
                    "ssl_mode": "disable",
                    "targets": [{"cidr": own, "ports": [self.postgres.port, self.registry.port]}],
                },
                "buckets": {
                    "endpoint": self.store.url,
                    "region": "us-east-1",
                    "prefix": f"howdah-{self.run_id}",
                    "credentials": {"kind": "static", "access_key_id": "check", "secret_access_key": "check-secret"},
                },
                "gpu": {"backend": self.options.gpu, "classes": self.gpu_classes},
            },
        }

    @property
    def system_namespace(self):
        return f"howdah-check-{self.run_id}"

    def start(self):
        """The control plane: as a process of this machine, or by its chart."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.system_namespace, "labels": labels}}
        self.cluster.apply(f"/api/v1/namespaces/{self.system_namespace}", namespace)
        if self.options.in_cluster:
            self.install()
        else:
            self.serve()

    def install(self):
        """Two replicas in the cluster, which have no rights but those of the chart."""
        config, space = self.config(), self.system_namespace
        cloud, (api, port) = config["cloud"], self.cluster.address()
        repository, version = self.control_image.rsplit(":", 1)
        buckets = cloud["buckets"]
        overrides = {"gateway_cidrs": [], "buckets": {"prefix": buckets["prefix"]}, "databases": {"targets": cloud["databases"]["targets"]}}
        ports = [self.postgres.port, self.store.port]
        values = {
            "publicUrl": f"http://howdah.{space}.svc:7433",
            "services": {"url": "http://*.services.example.test"},
            "image": {"repository": repository, "tag": version},
            "dataPlaneImage": {"repository": self.plane_image.rsplit(":", 1)[0], "tag": version},
            "database": {"url": config["database_url"], "sslMode": "disable"},
            "masterKey": {"value": self.master_key},
            "buckets": {"endpoint": self.store.url, "region": buckets["region"], "accessKeyId": "check", "secretAccessKey": "check-secret"},
            "gpu": cloud["gpu"],
            "config": {"idle_seconds": self.idle_seconds, "imports": config["imports"], "cloud": overrides},
            "autoscaling": {"enabled": False},
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
            "networkPolicy": {"egress": [{"cidrs": [f"{self.address}/32"], "ports": ports}, {"cidrs": ["0.0.0.0/0"], "ports": [443, port]}]},
        }
        path = self.folder / "values.json"
        path.write_text(json.dumps(values))
        words = ["upgrade", "--install", "howdah", TOP / "deploy" / "chart" / "howdah", "--namespace", space, "-f", path, "--wait", "--timeout", "5m"]
        self.installed = True
        self.helm(*words)
        address = self.cluster.get(f"/api/v1/namespaces/{space}/services/howdah")["spec"]["clusterIP"]
        self.url, self.services = f"http://{address}:7433", (address, 7434)

    def uninstall(self):
        self.helm("uninstall", "howdah", "--namespace", self.system_namespace, "--wait")

    def helm(self, *words):
        return run(tools.program(*tools.HELM), "--kubeconfig", self.cluster.path, *words, timeout=600)

    def serve(self):
        """A process of this machine."""
        log = open(self.folder / "control-plane.log", "ab")
        command = [str(self.binaries / "howdah-control-plane"), "serve"]
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "HOWDAH_LOG", "RUST_BACKTRACE")}
        self.control = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True)
        self.control.stdin.write(json.dumps(self.config()).encode() + b"\n")
        self.control.stdin.flush()
        if not self.control.stdout.readline():
            raise RuntimeError(f"the control plane did not start:\n{self.log()}")

    def stop(self):
        """Ends the process. What the chart made is changed by the next `start`, and ends with the check."""
        if self.control and self.control.poll() is None:
            self.control.stdin.close()
            try:
                self.control.wait(30)
            except subprocess.TimeoutExpired:
                self.control.send_signal(signal.SIGKILL)
                self.control.wait()
        self.control = None

    def log(self, lines=25):
        """The end of what the control plane said."""
        if self.options.in_cluster:
            base = f"/api/v1/namespaces/{self.system_namespace}/pods"
            pods = [pod["metadata"]["name"] for pod in self.cluster.list(base, "app.kubernetes.io/component=control-plane")]
            return "\n".join(self.cluster.call("GET", f"{base}/{name}/log", tailLines=lines) for name in pods)
        path = self.folder / "control-plane.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def memory(self):
        """MiB that the control plane took at most."""
        status = open(f"/proc/{self.control.pid}/status").read()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def session(self, person):
        return ask(f"{self.url}/v1/sessions", document={"email": person.email, "password": PASSWORD})["session_token"]

    def plane(self, person, organization):
        """How the plane of an organization is, as a member is told."""
        if not hasattr(person, "token"):
            person.token = self.session(person)
        return ask(f"{self.url}/v1/organizations/{organization}/plane", person.token)

    def ask_service(self, path, token):
        """What is answered at the address of services: status and text."""
        connection = http.client.HTTPConnection(*self.services, timeout=60)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def namespace(self, organization):
        """The namespace of an organization, by its name; nothing while there is none."""
        (row,) = self.postgres.ask(f"select id from organizations where name = '{organization}'", "howdah") or [None]
        if not row:
            return None
        self.organizations[organization] = row[0]
        name = f"howdah-{row[0].split('_')[-1]}"
        return name if self.cluster.get(f"/api/v1/namespaces/{name}") else None

    def ours(self):
        """Everything on the cluster that stands in no namespace and is of an organization of this check: paths."""
        found, known = [], {id for (id,) in self.postgres.ask("select organization_id from planes", "howdah")}
        for path, plural, _, inside in self.cluster.resources():
            if inside or plural in ("componentstatuses",):
                continue
            try:
                items = self.cluster.list(f"{path}/{plural}", MANAGED)
            except Refused:
                continue
            for item in items:
                if item["metadata"]["labels"].get("howdah.dev/organization") in known:
                    found.append(f"{path}/{plural}/{item['metadata']['name']}")
        return found

    def shared(self):
        """What an installation has once on the cluster: paths."""
        kinds = [f"/apis/admissionregistration.k8s.io/v1/validatingadmission{kind}" for kind in ("policybindings", "policies")]
        kinds.append("/apis/scheduling.k8s.io/v1/priorityclasses")
        return [f"{kind}/{item['metadata']['name']}" for kind in kinds for item in self.cluster.list(kind, MANAGED)]

    def sweep(self):
        """Removes what is left on the cluster."""
        for path in [*self.ours(), *(path for path in self.shared() if path not in self.before)]:
            self.cluster.delete(path)
        for node in self.cluster.list("/api/v1/nodes", f"howdah.dev/check={self.run_id}"):
            self.cluster.delete(f"/api/v1/nodes/{node['metadata']['name']}")
        self.cluster.delete(f"/api/v1/namespaces/{self.system_namespace}")


class Steps:
    """Steps of a story: each one is told with its time, and one that fails holds up no other."""

    def __init__(self, stage, only=None):
        self.stage, self.only, self.failed, self.told = stage, only, [], 0

    def __call__(self, name, action):
        if self.only and not any(part in name for part in self.only):
            return
        began = time.monotonic()
        try:
            said = action()
            print(f"ok      {time.monotonic() - began:6.1f} s  {name}" + (f": {said}" if isinstance(said, str) else ""), flush=True)
            self.told += 1
        except Exception as error:
            print(f"FAILED  {time.monotonic() - began:6.1f} s  {name}: {type(error).__name__}: {error}", flush=True)
            self.failed.append(name)
            if not isinstance(error, (AssertionError, TimeoutError)):
                tail = self.stage.log(6)
                print("        " + tail.replace("\n", "\n        "), flush=True)

    def end(self):
        print(f"{self.told} steps ok, {len(self.failed)} failed")
        if self.failed:
            sys.exit("failed: " + "; ".join(self.failed))
