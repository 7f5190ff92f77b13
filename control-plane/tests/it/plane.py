#!/usr/bin/env python3
"""A data plane that knows nothing: it takes its configuration, serves it back, and stops when its parent is gone."""
import http.server
import json
import os
import pathlib
import sys
import threading

config = json.loads(sys.stdin.readline())
if sys.argv[1] == "migrate":
    with open(pathlib.Path(config["home"]) / "migrations", "a") as file:
        file.write("once\n")
    sys.exit(0)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "path": self.path, "config": config}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"url": "http://127.0.0.1:%d" % server.server_address[1]}), flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
