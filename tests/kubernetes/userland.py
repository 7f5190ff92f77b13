"""An image that user code runs in, made of this machine's programs, and a registry that serves it.

The registry speaks what is needed to resolve and pull an image (OCI distribution, read only) by HTTPS, with an authority of its own.
"""
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "images"))
import libraries
import oci

PROGRAMS = ["sh", "cat", "cmp", "basename", "sleep", "ls", "mkdir", "rm", "wc", "env", "sha256sum", "true", "perl", "python3"]
# What interpreters bring that nobody here uses.
UNUSED = {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "__pycache__", "dist-packages", "config-3.11-x86_64-linux-gnu", "pydoc_data"}


def told(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def image(name):
    """A small distribution: a shell, a few programs, Perl and Python."""
    layer = oci.Layer()
    for folder in ("bin", "lib", "lib64", "sbin"):
        layer.directory(f"usr/{folder}")
        layer.link(folder, f"usr/{folder}")
    layer.directory("tmp", 0o1777)
    layer.text("etc/passwd", "root:x:0:0:root:/:/bin/sh\nuser:x:65532:65532:user:/tmp:/bin/sh\n")
    layer.text("etc/group", "root:x:0:\nuser:x:65532:\n")
    layer.text("etc/nsswitch.conf", "hosts: files dns\n")
    needed = set()
    for program in PROGRAMS:
        path = next(p for p in (f"/usr/bin/{program}", f"/bin/{program}") if os.path.exists(p))
        layer.file(os.path.realpath(path), f"usr/bin/{program}", mode=0o755)
        needed.update(libraries.needed(path))
    for path in sorted(needed):
        layer.file(path, libraries.place(path), mode=0o755)
    modules = [told("/usr/bin/python3", "-c", "import os; print(os.path.dirname(os.__file__))").strip()]
    modules += [folder for folder in told("/usr/bin/perl", "-e", 'print join "\\n", @INC').splitlines() if "perl-base" in folder]
    for folder in modules:
        layer.tree(folder, libraries.place(folder), keep=lambda path: not UNUSED & set(path.split("/")) and os.path.exists(path))
    return oci.Image(name, [layer], {"User": "65532", "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/sh"]})


def authority(folder, address):
    """A certificate authority and a certificate of it for an address: paths of the authority, the certificate, its key."""
    folder = pathlib.Path(folder)
    ca, ca_key, cert, key, request, extra = (folder / n for n in ("ca.pem", "ca.key", "cert.pem", "cert.key", "cert.csr", "cert.ext"))
    subject = ["-subj", "/CN=howdah test"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    told("openssl", "req", "-x509", *curve, "-keyout", str(ca_key), "-out", str(ca), "-days", "7", *subject)
    told("openssl", "req", *curve, "-keyout", str(key), "-out", str(request), *subject)
    extra.write_text(f"subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n")
    told("openssl", "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "7", "-extfile", str(extra), "-out", str(cert))
    return ca, cert, key


class Registry:
    """Serves images until it is stopped."""

    def __init__(self, address, certificate, key):
        self.manifests, self.blobs = {}, {}
        registry = self

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                registry.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Answer)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.host = f"{address}:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def keep(self, repository, tag, image):
        """Serves an image under a tag and its digest, which it answers."""
        manifest, _, _, blobs = image.blobs()
        digest = oci.digest(manifest)
        self.manifests[repository, tag] = self.manifests[repository, digest] = manifest
        self.blobs.update(blobs)
        return digest

    def answer(self, request):
        parts = request.path.split("?")[0].strip("/").split("/")
        content, kind = None, "application/octet-stream"
        if parts == ["v2"]:
            content, kind = b"{}", "application/json"
        elif len(parts) > 3 and parts[-2] == "manifests":
            content, kind = self.manifests.get(("/".join(parts[1:-2]), parts[-1])), oci.MANIFEST
        elif len(parts) > 3 and parts[-2] == "blobs":
            content = self.blobs.get(parts[-1])
        status = 404 if content is None else 200
        if content is None:
            content, kind = json.dumps({"errors": [{"code": "NOT_FOUND", "message": "there is no such thing"}]}).encode(), "application/json"
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Docker-Content-Digest", oci.digest(content))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
