"""Stands between the control plane and the API server, and counts what is asked, by method and kind."""
import collections
import http.client
import http.server
import json
import re
import threading

PASSED = ("Accept", "Content-Type", "User-Agent", "Accept-Encoding")
KIND = re.compile(r"^/(?:api/[^/]+|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/([a-z]+)(?:/([^/?]+))?")


class Proxy:
    """Speaks plain HTTP on loopback, and to the cluster as its kubeconfig says."""

    def __init__(self, cluster):
        self.cluster, self.calls, self.lock = cluster, collections.Counter(), threading.Lock()
        proxy = self

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are two writes: neither waits for the other to be acknowledged.
            disable_nagle_algorithm = True

            def pass_on(self):
                proxy.pass_on(self)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = pass_on

            def log_message(self, *_):
                pass

        self.local = threading.local()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kubeconfig(self, path):
        """Writes one that leads here."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "counted", "cluster": {"server": self.url}}],
            "users": [{"name": "counted", "user": {}}],
            "contexts": [{"name": "counted", "context": {"cluster": "counted", "user": "counted"}}],
            "current-context": "counted",
        }
        with open(path, "w") as file:
            json.dump(document, file)

    def note(self, method, path):
        found = KIND.match(path)
        verb = method
        if method == "GET":
            verb = "WATCH" if "watch=true" in path or "watch=1" in path else "GET" if found and found.group(2) else "LIST"
        with self.lock:
            self.calls[verb, found.group(1) if found else path.split("?")[0]] += 1

    def upstream(self):
        if getattr(self.local, "connection", None) is None:
            at = self.cluster.server
            self.local.connection = http.client.HTTPSConnection(at.hostname, at.port or 443, context=self.cluster.tls, timeout=3600)
        return self.local.connection

    def pass_on(self, request):
        self.note(request.command, request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0)) or None
        headers = {name: request.headers[name] for name in PASSED if request.headers.get(name)}
        if self.cluster.bearer:
            headers["Authorization"] = f"Bearer {self.cluster.bearer}"
        for attempt in (1, 2):
            connection = self.upstream()
            try:
                connection.request(request.command, self.cluster.server.path.rstrip("/") + request.path, body=body, headers=headers)
                answer = connection.getresponse()
                break
            except (http.client.HTTPException, OSError):
                connection.close()
                self.local.connection = None
                if attempt == 2:
                    request.send_error(502)
                    return
        request.send_response(answer.status)
        length = answer.getheader("Content-Length")
        for name, value in answer.getheaders():
            if name.lower() in ("content-type", "content-encoding", "retry-after"):
                request.send_header(name, value)
        request.send_header(*(("Content-Length", length) if length else ("Transfer-Encoding", "chunked")))
        request.end_headers()
        try:
            if length:
                # Piece by piece it would not count as read to its end, and the connection could not be used again.
                request.wfile.write(answer.read())
                return
            while piece := answer.read1(1 << 16):
                request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                request.wfile.flush()
            request.wfile.write(b"0\r\n\r\n")
        except OSError:
            connection.close()
            self.local.connection = None
            request.close_connection = True

    def taken(self):
        """What was counted since the last time."""
        with self.lock:
            calls, self.calls = self.calls, collections.Counter()
        return calls

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
