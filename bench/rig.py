"""A service of its own for a measurement, the processes that it consists of, and a table of ratios.

Every line is a ratio of two things measured in one run: the machine's noise is in both halves.
"""
import argparse
import contextlib
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEAK_MIB = 256
TAR = "application/x-tar"


def arguments(description):
    """Command line options that all measurements share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", default=None, help="where the release binaries are")
    parser.add_argument("--dir", default="/var/tmp/howdah-bench", help="on which disk; it is emptied")
    return parser


def run(*command, **options):
    """The output of a program that must succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.decode()[-2000:]}")
    return done.stdout.decode()


def free_port(address):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def ask(url, token=None, document=None, method=None):
    """JSON of an answer."""
    request = urllib.request.Request(url, method=method, data=None if document is None else json.dumps(document).encode())
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
        return json.loads(text) if text else None


def timed(action):
    """Seconds that an action takes."""
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def noise_file(path, size):
    """A file of random bytes, on the disk."""
    with open("/dev/urandom", "rb") as source, open(path, "wb") as target:
        left = size
        while left:
            left -= target.write(source.read(min(left, 1 << 20)))
        target.flush()
        os.fsync(target.fileno())


def forget(*trees):
    """Drops files from the page cache, so that the next read comes from the disk."""
    run("sync")
    for tree in trees:
        files = [tree] if os.path.isfile(tree) else (os.path.join(d, f) for d, _, fs in os.walk(tree) for f in fs)
        for file in files:
            with contextlib.suppress(OSError):
                opened = os.open(file, os.O_RDONLY)
                os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(opened)


def member(name, content):
    """A file in a tar archive."""
    head = bytearray(512)
    for at, field in ((0, name.encode()), (100, b"0000644"), (124, b"%011o" % len(content)), (136, b"0" * 11)):
        head[at : at + len(field)] = field
    head[156:157] = b"0"
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


def archive(names, content):
    """A tar archive in pieces."""
    pieces = []
    for name in names:
        pieces.append(member(name, content(name)))
        if len(pieces) == 2048:
            yield b"".join(pieces)
            pieces = []
    yield b"".join(pieces) + bytes(1024)


class Table:
    """Lines of a measurement."""

    HEADS = ("what", "ours", "floor", "ratio", "target", "", "note")

    def __init__(self):
        self.rows = []

    def ratio(self, what, ours, floor, floor_name, target=None, note=""):
        ratio = ours / floor
        mark = "" if target is None else ("ok" if ratio <= target else "SHORT")
        limit = "" if target is None else f"<= {target}"
        self.rows.append((what, f"{ours:.3g} s", f"{floor_name} {floor:.3g} s", f"{ratio:.2f}", limit, mark, note))
        print(f"  {what}: {ours:.3g} s / {floor:.3g} s = {ratio:.2f} {mark} {note}", flush=True)

    def value(self, what, value, unit, target=None, note=""):
        mark = "" if target is None else ("ok" if value <= target else "SHORT")
        limit = "" if target is None else f"<= {target} {unit}"
        self.rows.append((what, f"{value:.3g} {unit}", "", "", limit, mark, note))
        print(f"  {what}: {value:.3g} {unit} {mark} {note}", flush=True)

    def show(self):
        widths = [max(len(str(r[i])) for r in self.rows + [self.HEADS]) for i in range(len(self.HEADS))]
        print()
        for row in [self.HEADS] + self.rows:
            print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
        short = [row[0] for row in self.rows if row[5] == "SHORT"]
        if short:
            print(f"\nshort of the target: {', '.join(short)}")


class Service:
    """`howdah up` in a directory of its own, with one account and organization."""

    def __init__(self, options):
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(TOP, "target"))
        self.binaries = options.binaries or os.path.join(target, "release")
        self.howdah = os.path.join(self.binaries, "howdah")
        if not os.path.exists(self.howdah):
            sys.exit(f"{self.howdah} is not there: run `cargo build --release --workspace` first")
        self.dir = options.dir
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        os.chmod(self.dir, 0o755)
        self.port = free_port("127.0.0.1")
        self.env = dict(
            os.environ, HOWDAH_HOME=f"{self.dir}/home", HOWDAH_CONFIG_HOME=f"{self.dir}/config", NO_COLOR="1"
        )
        for name in ("HOWDAH_TOKEN", "HOWDAH_ORG", "DATABASE_URL", "HOWDAH_URL"):
            self.env.pop(name, None)

    def __enter__(self):
        print("starting a service", flush=True)
        try:
            self("up", "--detach", "--listen", f"127.0.0.1:{self.port}")
            signup = ("signup", "--email", "bench@example.test", "--password-stdin", "--org", "bench")
            self(*signup, input=b"correct horse battery\n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run([self.howdah, "down"], env=self.env, stdout=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __call__(self, *command, **options):
        """A command of the product."""
        return run(self.howdah, *command, env=self.env, **options)

    def pids(self, word, verb):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = open(f"/proc/{pid}/cmdline").read().split("\0")
                program = os.path.realpath(f"/proc/{pid}/exe")
            except OSError:
                continue
            if word in line[0] and verb in line and program.startswith(os.path.realpath(self.binaries)):
                found.append(int(pid))
        return found

    def cpu_seconds(self):
        """User and system time so far: of the service's programs and of every command that has ended."""
        total = 0.0
        for pid in self.pids("howdah", "serve") + self.pids("howdah", "worker"):
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return total + children.ru_utime + children.ru_stime

    def forget_peaks(self):
        """Begins to count peaks of memory anew, where that is allowed."""
        for name in ("data-plane", "control-plane"):
            for pid in self.pids(name, "serve"):
                with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "w") as file:
                    file.write("5")

    def peaks(self, table, what, clients=True):
        """A line for each process: the most memory that it used."""
        for name in ("data-plane", "control-plane"):
            for pid in self.pids(name, "serve"):
                status = open(f"/proc/{pid}/status").read()
                peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
                table.value(f"peak memory of {name}, {what}", peak, "MiB", PEAK_MIB)
        if clients:
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            table.value(f"peak memory of any client, {what}", peak, "MiB", PEAK_MIB)

    def stored_bytes(self):
        """Bytes of all packs of the organization."""
        total = 0
        for directory, _, files in os.walk(f"{self.dir}/home"):
            if os.path.basename(directory) == "packs":
                total += sum(os.path.getsize(os.path.join(directory, file)) for file in files)
        return total

    def plane(self):
        """A connection to the data plane itself, without the command line."""
        access = self.access()
        return Plane(access, access["direct_url"])

    def gateway(self):
        """The same through the gateway, which knows where the plane is after it was killed."""
        return Plane(self.access(), f"http://127.0.0.1:{self.port}/o/bench")

    def access(self):
        """An access token."""
        self("repo", "list")
        for directory, _, files in os.walk(f"{self.dir}/config"):
            for file in files:
                with contextlib.suppress(ValueError, KeyError, StopIteration, UnicodeDecodeError):
                    document = json.load(open(os.path.join(directory, file)))
                    logins = document["services"].values()
                    return next(a for login in logins for a in login["access"].values() if a.get("direct_url"))
        raise SystemExit("the command line keeps no access token")


class Plane:
    """HTTP to a data plane over one connection."""

    def __init__(self, access, address):
        self.access, self.address = access, address
        url = urllib.parse.urlsplit(address)
        self.prefix = url.path
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)

    def again(self):
        """One more connection."""
        return Plane(self.access, self.address)

    def __call__(self, method, route, body=None, kind="application/json", **query):
        if isinstance(body, dict):
            body = json.dumps(body)
        headers = {"Authorization": f"Bearer {self.access['access_token']}", "Content-Type": kind}
        at = f"{route}?{urllib.parse.urlencode(query)}" if query else route
        self.connection.request(method, self.prefix + at, body=body, headers=headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {at}: {answer.status}\n{content.decode()[:2000]}")
        return content
