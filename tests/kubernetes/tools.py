"""Programs that the checks need and a machine does not have, for this user alone: Go modules and Python packages. And how checks are told."""
import json
import os
import pathlib
import subprocess
import venv
import zipfile

HELM = ("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.1")
KUBECONFORM = ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0")
# Its module replaces another one, so it is no thing for `go install`.
SEAWEEDFS = ("weed", "github.com/seaweedfs/seaweedfs", "v0.0.0-20261109003541-7506e5f91cd6", "./weed")
KARPENTER = "sigs.k8s.io/karpenter@v1.15.0"
failed = []


def check(what, fine, why=""):
    """One line; what is not fine is remembered in `failed`."""
    print(f"{'ok    ' if fine else 'FAILED'} {what}" + (f": {why}" if why and not fine else ""), flush=True)
    if not fine:
        failed.append(what)


def cache():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "howdah"


def program(name, module, version):
    """Its path; built when it is not there yet."""
    folder = cache() / "go" / f"{name}-{version}"
    path = folder / name
    if not path.exists():
        print(f"building {name} {version} (go install, some minutes the first time)", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        env = dict(os.environ, GOBIN=str(folder), CGO_ENABLED="0")
        subprocess.run(["nice", "-n", "19", "go", "install", f"{module}@{version}"], check=True, env=env)
    return str(path)


def inside(name, module, version, package):
    """The same of a program whose module has to be the main one; built in its place among the modules."""
    path = cache() / "go" / f"{name}-{version}" / name
    if not path.exists():
        print(f"building {name} {version} (go build, ten minutes the first time)", flush=True)
        told = subprocess.run(["go", "mod", "download", "-json", f"{module}@{version}"], check=True, stdout=subprocess.PIPE, text=True, cwd="/")
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(".made")
        command = ["nice", "-n", "19", "go", "build", "-ldflags", "-s -w", "-o", str(made), package]
        subprocess.run(command, check=True, cwd=json.loads(told.stdout)["Dir"], env=dict(os.environ, CGO_ENABLED="0"))
        made.rename(path)
    return str(path)


def packages(name, *wanted):
    """The folder of the programs of Python packages, which have an environment of their own; made when it is not there whole."""
    place = cache() / name
    whole = place / "whole"
    if not whole.exists():
        print(f"installing {' '.join(wanted)} (pip, the first time)", flush=True)
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", *wanted], check=True)
        whole.touch()
    return place / "bin"


def karpenter():
    """The definitions of Karpenter's resources, as YAML. Read out of the module's archive: its code may ask for another Go than there is."""
    told = subprocess.run(["go", "mod", "download", "-json", KARPENTER], stdout=subprocess.PIPE, text=True, cwd="/")
    with zipfile.ZipFile(json.loads(told.stdout)["Zip"]) as archive:
        names = sorted(name for name in archive.namelist() if "/pkg/apis/crds/karpenter.sh_" in name)
        return {name.rsplit("/", 1)[-1]: archive.read(name).decode() for name in names}
