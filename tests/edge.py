"""What tests of Ingress and Gateways share: backends that tell what they were asked, and curl from outside."""

import json
import os
import subprocess
import sys

import pytest
from harness import Cluster, eventually, run
from pods import HELLO, apply, main_process, publish_shell, shell_pod, wait_ready

# Answers with its name and what it was asked, as JSON (/asked: what it was asked before); with another status where the path is /status/<it>, or /once/<it>/...
# when it is asked first; after so many seconds where it is /wait/<it>. Speaks WebSocket enough to echo.
ECHO = """
import base64, hashlib, http.server, json, socketserver, sys, time
asked = []
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("latin1")
        kind, _, wanted = self.path[1:].partition("/")
        status = int(wanted[:3]) if kind == "status" or kind == "once" and not any(one[1] == self.path for one in asked) else 200
        if self.path != "/asked":
            asked.append([self.command, self.path, body])
        if kind == "wait":
            time.sleep(float(wanted))
        if self.headers.get("Upgrade") == "websocket":
            accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
            self.close_connection = True
            while data := self.connection.recv(1024):
                self.connection.sendall(data)
            return
        body = json.dumps({"name": sys.argv[1], "path": self.path, **({"asked": asked[-50:]} if self.path == "/asked" else {}), "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_OPTIONS = answer
    def log_message(self, *args): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads, request_queue_size = True, 256
    def handle_error(self, *args): pass
Server(("0.0.0.0", 8080), Handler).serve_forever()
"""


# Speaks TLS at 8443, gRPC's HTTP/2 at 50051, and HTTP behind the PROXY protocol at 8090.
LAYERS = """
defaults
  mode http
  timeout client 60s
  timeout http-keep-alive 60s
frontend tls
  bind :8443 ssl crt {pem} alpn h2,http/1.1 verify optional ca-file {pem} crt-ignore-err all ca-ignore-err all
  http-request return status 200 content-type application/json lf-string '{{"name":"tls","path":"%[path]","sni":"%[ssl_fc_sni]","alpn":"%[ssl_fc_alpn]","shown":"%[ssl_c_used]"}}'
frontend grpc
  bind :50051 proto h2
  http-request return status 200 content-type application/grpc hdr grpc-status 0 lf-string '{{"name":"grpc","path":"%[path]","version":"%HV","x":"%[req.hdr(x-set)]"}}'
frontend proxied
  bind :8090 accept-proxy
  http-request return status 200 content-type application/json lf-string '{{"name":"proxied","client":"%[src]"}}'
"""


class EdgeWorld:
    """A cluster with the services red, blue and green of one pod each, and `nobody` without; `address` is what curl asks."""
    NAMES = ("red", "blue", "green")

    def __init__(self, cluster, folder):
        self.cluster, self.folder, self.backends, self.address = cluster, folder, [], None
        publish_shell(cluster)
        apply(cluster, *[shell_pod(n, "exec sleep 100000") for n in self.NAMES],
              *[{"apiVersion": "v1", "kind": "Service", "metadata": {"name": n},
                 "spec": {"selector": {"app": n}, "ports": [{"port": 80, "targetPort": 8080}]}} for n in (*self.NAMES, "nobody")])
        self.pods = dict(zip(self.NAMES, wait_ready(cluster, *self.NAMES)))
        for name in self.NAMES:  # after all else that may fail
            self.start_in(name, sys.executable, "-c", ECHO, name)

    def start_in(self, name, *command):
        """A program of this machine in the network of a pod."""
        self.backends.append(subprocess.Popen(["nsenter", f"--net=/proc/{main_process(self.pods[name])}/ns/net", "--", *command]))

    def start_layers(self, pod, name):
        """LAYERS in a pod, for <name>.test; gives the path of its certificate without .crt."""
        base = self.certificate(name + ".test", name)
        with open(base + ".pem", "w") as both:
            both.write(run(["cat", base + ".crt", base + ".key"]).stdout)
        with open(base + ".cfg", "w") as config:
            config.write(LAYERS.format(pem=base + ".pem"))
        self.start_in(pod, "/usr/sbin/haproxy", "-db", "-f", base + ".cfg")
        return base

    def end(self):
        for backend in self.backends:
            backend.kill()

    def access_log(self, log="access", **wanted):
        """The lines of all nodes with these values."""
        names = [node["metadata"]["name"] for node in self.cluster.get("nodes")["items"]]
        logs = [self.cluster.kubectl("get", "--raw", f"/api/v1/nodes/{name}/proxy/logs/ingress/{log}.log?tailLines=2000", check=False) for name in names]
        lines = [json.loads(line) for log in logs if log.returncode == 0 for line in log.stdout.split("\n") if line]
        return [line for line in lines if all(line.get(k) == v for k, v in wanted.items())]

    def node_ports(self, address):
        """The ports of nodes behind a load-balanced address, by its own."""
        for service in self.cluster.get("services", "-n", "kube-system")["items"]:
            if address in [one.get("ip") for one in service.get("status", {}).get("loadBalancer", {}).get("ingress", [])]:
                return {port["port"]: port["targetPort"] for port in service["spec"]["ports"]}
        return {}

    def nodes(self):
        """Their addresses."""
        return [next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP") for node in self.cluster.get("nodes")["items"]]

    def curl(self, url, *args, address=None, node=None):
        """`url`: http://host[:port]/path. What the load balancer's address answers, or (address, port) of a node: status, headers, body."""
        scheme, _, name = url.split("/")[:3]
        to = "{}:{}".format(*node) if node else f"{address or self.address}:"
        done = run(self.cluster.net.inside(["curl", "-sk", "-i", "--max-time", "5", "--connect-to", f"::{to}", *args, url]), check=False)
        head, _, body = done.stdout.replace("\r", "").partition("\n\n")
        lines = head.split("\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        return int(lines[0].split()[1]) if done.stdout else 0, headers, body

    def status(self, url, *args, **more):
        return self.curl(url, *args, **more)[0]

    def get(self, host, path="/", *args, scheme="http", **more):
        status, headers, body = self.curl(f"{scheme}://{host}{path}", *args, **more)
        return {"status": status, "answer": headers, **(json.loads(body) if body.startswith("{") else {"name": None, "body": body})}

    def serves(self, host, name, path="/", *args, scheme="http", address=None):
        """Waits until each node does."""
        port = int(host.partition(":")[2] or {"http": 80, "https": 443}[scheme])
        ports = eventually(lambda: self.node_ports(address or self.address))
        for node in self.nodes():
            eventually(lambda node=node: self.get(host, path, *args, scheme=scheme, node=(node, ports[port]))["name"] == name)
        return eventually(lambda: self.get(host, path, *args, scheme=scheme, address=address)["name"] == name)

    def apply(self, *objects):
        apply(self.cluster, *objects)

    def certificate(self, host, name=None):
        base = os.path.join(self.folder, name or host)
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={host}", "-addext",
             f"subjectAltName=DNS:{host}", "-days", "2", "-keyout", base + ".key", "-out", base + ".crt"])
        return base

    def served_certificate(self, host, address=None):
        done = subprocess.run(self.cluster.net.inside(["openssl", "s_client", "-connect", f"{address or self.address}:443", "-servername", host]), input="",
                              capture_output=True, text=True, timeout=10)
        begin = done.stdout.find("-----BEGIN")
        return done.stdout[begin:done.stdout.find("-----END") + 25] if begin >= 0 else ""


def edge_world(kind):
    """The fixture `world` of a file: one of this kind, and its cluster."""
    @pytest.fixture(scope="module")
    def world(tmp_path_factory):
        made = Cluster(nodes=2, zones=2)
        one = None
        try:
            made.up("--deploy", HELLO)
            one = kind(made, str(tmp_path_factory.mktemp("tls")))
            yield one
        finally:
            if one:
                one.end()
            made.destroy()
    return world
