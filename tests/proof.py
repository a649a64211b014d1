"""The proof that nothing is lost at the edge: clients that never stop, operations one after the other, and what failed under which.

Loads are bench/http_load.cc (plain requests, kept and fresh connections, GET and POST), the others proof_clients.py. A failure belongs to the
operation that was under way when its request began, or to the last one before."""

import contextlib
import json
import os
import random
import subprocess
import time

from harness import BUILD, PATIENCE, eventually, run
from pods import apply, node_is_ready, role_process

HERE = os.path.dirname(os.path.abspath(__file__))
SHOP = os.path.join(os.path.dirname(HERE), "examples/shop")
MONOLITH = os.path.join(os.path.dirname(HERE), "examples/monolith")


class Clients:
    """What runs from outside; `rate`: of plain requests a second, all together; `longest`: seconds that a session lasts."""

    def __init__(self, cluster, address, rate, longest, **customers):
        loads = {"shop, GET": ("shop.test", "GET", "/healthz", "ok", rate * 0.6), "monolith, GET": ("monolith.test", "GET", "/catalog/1", "catalog from", rate * 0.2),
                 "monolith, POST": ("monolith.test", "POST", "/orders", "orders from", rate * 0.2)}
        self.processes = {}
        for name, (host, method, path, expected, share) in loads.items():
            self.start(cluster, name, [f"{BUILD}/bench/http-load", f"{address}:80", host, method, path, expected, str(share), "40", "10"])
        self.start(cluster, "customers", ["/usr/bin/python3", f"{HERE}/proof_clients.py", address, str(longest), json.dumps(customers)])
        for process in self.processes.values():
            assert process.stdout.readline() == "running\n"

    def start(self, cluster, name, command):
        self.processes[name] = subprocess.Popen(cluster.net.inside(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self):
        """By kind of client: what there was, and failures as (time, milliseconds, when its connection or session began, what)."""
        for process in self.processes.values():
            process.stdin.close()
        told = {}
        for name, process in self.processes.items():
            *lines, last = process.stdout.read().splitlines()
            process.wait(timeout=60 * PATIENCE)
            if name == "customers":
                told.update(json.loads(last))
                continue
            counts = json.loads(last)
            failures = [line.split(" ", 4)[1:] for line in lines]
            told[name] = {**counts, "requests": counts["sent"],
                          "failures": [(float(at), int(took), float(since), f"{name}: {what}") for at, took, since, what in failures]}
        return told

    def kill(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


class Proof:
    def __init__(self, cluster, folder, rate, longest, **customers):
        self.cluster, self.folder, self.rate, self.customers = cluster, str(folder), rate, {"longest": longest, **customers}
        self.operations, self.told, self.runs = [], {}, 0
        self.address = eventually(lambda: next((i["ip"] for i in cluster.get("ingress", "shop")["status"].get("loadBalancer", {}).get("ingress", [])), None))
        # Without a moment of rest, who does not ask for ten seconds has left.
        cluster.kubectl("annotate", "--overwrite", "ingress", "shop", "dhow.io/session-idle=10s")
        self.change_certificate()
        eventually(lambda: all(self.answers(node) for node in self.nodes()))

    def nodes(self):
        return {n["metadata"]["name"]: next(a["address"] for a in n["status"]["addresses"] if a["type"] == "InternalIP") for n in self.cluster.get("nodes")["items"]}

    def answers(self, node):
        ask = lambda url, host: run(self.cluster.net.inside(["curl", "-sk", "-m", "2", "--connect-to", f"::{self.nodes()[node]}:", url]), check=False).stdout
        return (ask("http://shop.test/healthz", "shop.test") == "ok\n" and ask("https://shop.test/healthz", "shop.test") == "ok\n"
                and ask("http://monolith.test/catalog", "monolith.test").startswith("catalog"))

    @contextlib.contextmanager
    def running(self):
        """Clients while the body runs."""
        self.runs, began, clients = self.runs + 1, time.time(), Clients(self.cluster, self.address, self.rate, **self.customers)
        try:
            yield self
            self.told = clients.end()
            self.seconds = time.time() - began
        finally:
            clients.kill()

    @contextlib.contextmanager
    def operation(self, name):
        began = time.time()
        try:
            yield
        finally:
            self.operations.append((name, began, time.time()))

    def under(self, at):
        """The operation in which a moment falls."""
        before = [name for name, began, _ in self.operations if began <= at]
        return before[-1] if before else "none"

    def failures(self):
        return sorted(tuple(failure) for told in self.told.values() for failure in told["failures"])

    def failures_since(self, dead):
        """Those of connections and sessions that did not exist before."""
        return [failure for failure in self.failures() if failure[2] > dead]

    def report(self):
        lines = [f"{len(self.operations)} operations in {self.seconds:.0f} s: " + ", ".join(
            f"{[o[0] for o in self.operations].count(name)} {name}" for name in dict.fromkeys(o[0] for o in self.operations))]
        total = sum(told["requests"] for told in self.told.values())
        lines.append(f"{total} requests, {total / self.seconds:.0f} a second, {len(self.failures())} failures")
        for name, told in self.told.items():
            more = f"{told['held']} of {told['sessions']} sessions held" if "sessions" in told else f"p50 {told['p50']} p99 {told['p99']} longest {told['longest']} ms"
            lines.append(f"  {name:<16}{told['requests']:>9} requests {len(told['failures']):>4} failures  {more}")
        lines += [f"  {time.strftime('%H:%M:%S', time.gmtime(at))} after {took} ms, under {self.under(at)}: {what}" for at, took, _, what in self.failures()[:40]]
        return "\n".join(lines)

    # What is done meanwhile.

    def kubectl(self, *args, **more):
        return self.cluster.kubectl(*args, timeout=120, **more)

    def whole(self, name):
        self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=90s")

    def rollout(self, name="shop"):
        with self.operation("rollout"):
            patch = {"spec": {"template": {"metadata": {"annotations": {"run": str(time.time())}}}}}
            self.kubectl("patch", "deployment", name, "-p", json.dumps(patch))
            self.whole(name)

    def scale_down(self):
        with self.operation("scale-down"):
            for count in ("2", "4"):
                self.kubectl("scale", "deployment/shop", "deployment/monolith", "--replicas", count)
                self.whole("shop")
                self.whole("monolith")

    def drain(self):
        node = random.choice(sorted(self.nodes()))
        with self.operation("node drain"):
            self.kubectl("drain", node, "--ignore-daemonsets", "--pod-selector", "app in (shop,monolith)", "--timeout=90s")
            self.kubectl("uncordon", node)
            self.whole("shop")
            self.whole("monolith")

    def change_certificate(self):
        base = os.path.join(self.folder, "shop")
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=shop.test", "-days", "2",
             "-addext", "subjectAltName=DNS:shop.test", "-keyout", base + ".key", "-out", base + ".crt"])
        secret = json.loads(self.kubectl("create", "secret", "tls", "shop", f"--cert={base}.crt", f"--key={base}.key", "--dry-run=client", "-o", "json").stdout)
        apply(self.cluster, secret)
        with open(base + ".crt") as f:
            wanted = f.read().strip()

        def served(address):
            done = run(self.cluster.net.inside(["openssl", "s_client", "-connect", f"{address}:443", "-servername", "shop.test"]), check=False, input="")
            return wanted in done.stdout
        apply(self.cluster, {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {
            "name": "shop-tls", "annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}}, "spec": {"tls": [{"hosts": ["shop.test"], "secretName": "shop"}], "rules": [{
                "host": "shop.test", "http": {"paths": [{"path": "/healthz", "pathType": "Exact", "backend": {"service": {"name": "shop", "port": {"name": "http"}}}}]}}]}})
        for address in self.nodes().values():
            eventually(lambda address=address: served(address))

    def certificate(self):
        with self.operation("certificate"):
            self.change_certificate()

    def workers(self):
        """The file that each worker of HAProxy in force runs, by node."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as f:
                    line = f.read().split("\0")
                with open(f"/proc/{pid}/stat") as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                file = os.stat(f"/proc/{pid}/exe")
            except OSError:
                continue
            config = next((word for word in line if word.endswith("/haproxy.cfg")), "")
            node = next((one for one in self.cluster_nodes if f"/{one}/" in config), None)
            if node:
                found.setdefault(node, []).append((int(fields[19]), int(pid), (file.st_dev, file.st_ino)))
        return {node: max(all)[2] for node, all in found.items()}

    def upgrade_haproxy(self, program):
        """Another file for /usr/sbin/haproxy on each node, as its package brings one; it is taken with the next reload."""
        self.cluster_nodes = sorted(self.nodes())
        file = os.stat(program)
        with self.operation("HAProxy upgrade"):
            for node in self.cluster_nodes:
                agent = role_process(self.cluster, "agent", node)
                run(["nsenter", f"--mount=/proc/{agent}/ns/mnt", "--", "mount", "--bind", program, "/usr/sbin/haproxy"])
            self.reload()
            eventually(lambda: set(self.workers().values()) == {(file.st_dev, file.st_ino)})

    def reload(self):
        """An Ingress whose section is another each time."""
        self.runs += 1
        apply(self.cluster, {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {
            "name": "passing", "annotations": {"nginx.ingress.kubernetes.io/proxy-read-timeout": str(100 + self.runs)}}, "spec": {"rules": [{
                "host": f"passing{self.runs}.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "monolith", "port": {"name": "http"}}}}]}}]}})
        for address in self.nodes().values():
            eventually(lambda address=address: run(self.cluster.net.inside(["curl", "-s", "-m", "2", "-H", f"Host: passing{self.runs}.test", f"http://{address}/catalog"]),
                                                   check=False).stdout.startswith("catalog"))

    def configuration(self):
        with self.operation("reload"):
            self.reload()

    def upgrade(self, program):
        """Masters and agents."""
        with self.operation("upgrade of Dhow"):
            run(self.cluster.net.inside([program, "upgrade", "--name", self.cluster.name, "--data", self.cluster.data]), timeout=240)

    def agent(self):
        node = random.choice(sorted(self.nodes()))
        with self.operation("agent's restart"):
            before = role_process(self.cluster, "agent", node)
            os.kill(before, 9)
            eventually(lambda: self.is_another_agent(node, before))

    def is_another_agent(self, node, before):
        return role_process(self.cluster, "agent", node) != before

    def kill_node(self):
        """Its power fails, and comes back once the others have noticed. Gives the moment after which nothing new may fail."""
        node = random.choice(sorted(self.nodes())[1:])
        with self.operation("killed node"):
            self.cluster.dhow("machine", "stop", node)
            dead = time.time()
            eventually(lambda: not node_is_ready(self.cluster, node), timeout=60)
            self.cluster.dhow("machine", "start", node)
            eventually(lambda: node_is_ready(self.cluster, node) and self.answers(node), timeout=60)
        return dead

    def cut_zone(self):
        """The same of a zone. Once it is back its stand-ins leave."""
        zone = random.choice(("local-east-2", "local-east-3"))  # the master stands in the first
        before = set(self.nodes())
        with self.operation("zone cut off"):
            self.cluster.dhow("zone", "cut", zone)
            dead = time.time()
            eventually(lambda: "Down" in self.kubectl("get", "zone", zone).stdout, timeout=60)
            self.cluster.dhow("zone", "restore", zone)
            self.kubectl("wait", "--for=condition=Ready", f"zone/{zone}", "--timeout=60s")
            eventually(lambda: set(self.nodes()) == before, timeout=150)
            eventually(lambda: all(self.answers(node) for node in self.nodes()), timeout=60)
        return dead

    def pool(self):
        """A node comes and goes again, with clients that are served by its HAProxy."""
        with self.operation("node pool"):
            before = set(self.nodes())
            self.kubectl("patch", "nodepool", "default", "--type=merge", "-p", '{"spec":{"count":4}}')
            [fresh] = eventually(lambda: set(self.nodes()) - before, timeout=60)
            eventually(lambda: self.answers(fresh), timeout=60)
            time.sleep(1)  # clients come
            self.kubectl("patch", "nodepool", "default", "--type=merge", "-p", '{"spec":{"count":3}}')
            eventually(lambda: set(self.nodes()) == before, timeout=150)

    def canary(self):
        """A tenth of the requests for the catalog go to the service for a while."""
        with self.operation("canary"):
            self.kubectl("apply", "-f", f"{MONOLITH}/steps/catalog-canary.yaml")
            for address in self.nodes().values():
                ask = ["curl", "-s", "-m", "2", "-H", "Host: monolith.test", "-H", "X-Canary: always", f"http://{address}/catalog"]
                eventually(lambda ask=ask: run(self.cluster.net.inside(ask), check=False).stdout.startswith("catalog from catalog"))
            self.kubectl("delete", "ingress", "catalog-canary")

    def move_route(self, index, part):
        """A part of the monolith becomes a service of its own, or goes back; as examples/monolith tells."""
        with self.operation("route"):
            patch = [{"op": "replace", "path": f"/spec/rules/0/http/paths/{index}/backend/service/name", "value": part}]
            self.kubectl("patch", "ingress", "monolith", "--type=json", "-p", json.dumps(patch))
            host = f"{'catalog' if index == 0 else 'orders'} from {part}"
            for address in self.nodes().values():
                eventually(lambda address=address: run(self.cluster.net.inside(["curl", "-s", "-m", "2", "-H", "Host: monolith.test", f"http://{address}/{host.split()[0]}"]),
                                                       check=False).stdout.startswith(host))
