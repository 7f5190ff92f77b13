"""Which files of this machine a program needs to run elsewhere, and which package each one is of."""
import os
import re
import subprocess


def needed(program):
    """The shared libraries that a program loads, by the paths that it looks for them at; none when it is linked statically."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"})
    text = told.stdout + told.stderr
    if "not a dynamic executable" in text or "statically linked" in text:
        return []
    missing = re.findall(r"(\S+) => not found", text)
    if told.returncode != 0 or missing:
        raise SystemExit(f"{program}: its libraries cannot be told: {', '.join(missing) or text.strip()}")
    return sorted(re.findall(r"(?:=> )?(/\S+) \(0x", text))


def place(path):
    """Where a library lies in an image: below /usr, as in every distribution of today (/lib and /lib64 are links)."""
    return path if path.startswith("/usr/") else "/usr" + path


def package(path):
    """What dpkg knows of the package that a file is of; nothing elsewhere than on Debian and its kin."""
    for spelling in dict.fromkeys([path, os.path.realpath(path), path.removeprefix("/usr"), "/usr" + path]):
        try:
            found = subprocess.run(["dpkg", "-S", spelling], capture_output=True, text=True)
        except OSError:
            return None
        if found.returncode == 0:
            owner = found.stdout.split(": ")[0].split(",")[0]
            return described(owner)
    return None


def described(name):
    """Name, version, architecture and source of an installed package."""
    fields = ["Package", "Version", "Architecture", "source:Package", "source:Version"]
    form = "\\t".join(f"${{{name}}}" for name in fields)
    told = subprocess.run(["dpkg-query", "-W", "-f", form, name], capture_output=True, text=True)
    if told.returncode != 0:
        return None
    return dict(zip(["name", "version", "architecture", "source", "source_version"], told.stdout.split("\t")))


def distribution():
    """`debian-12`, and the vendor in purls."""
    try:
        lines = dict(line.rstrip("\n").split("=", 1) for line in open("/etc/os-release") if "=" in line)
    except OSError:
        return "linux", "linux"
    vendor, version = lines.get("ID", "linux").strip('"'), lines.get("VERSION_ID", "").strip('"')
    return vendor, f"{vendor}-{version}" if version else vendor


def certificates():
    """The certificate authorities of Mozilla, as the package brings them: not what somebody added to this machine."""
    folder = "/usr/share/ca-certificates/mozilla"
    if os.path.isdir(folder):
        names = sorted(name for name in os.listdir(folder) if name.endswith(".crt"))
        return "".join(open(os.path.join(folder, name)).read().rstrip("\n") + "\n" for name in names), os.path.join(folder, names[0])
    for bundle in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"):
        if os.path.exists(bundle):
            return open(bundle).read(), bundle
    raise SystemExit("there are no CA certificates on this machine: install the package ca-certificates")
