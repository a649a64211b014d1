#!/usr/bin/env python3
"""Measures a cluster against its goals: its start, its idle cost, and the time its pods, deployments and rollouts take.

The cluster lives in a network namespace and a data folder of its own and is removed at the end. Needs root. See README.md beside this."""

import argparse
import base64
import contextlib
import ctypes
import http.client
import json
import os
import queue
import signal
import ssl
import statistics
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGE = "registry.dhow.internal:5000/hello:1"
CLONE_NEWNET = 0x40000000
REST = 6  # seconds between runs that make many files: for five, ext4 searches past the inodes of what was deleted
PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Table:
    """The rows measured so far; each has one goal."""

    def __init__(self):
        self.rows = []

    def add(self, what, goal, unit, values, p95_goal=None):
        middle, high = statistics.median(values), percentile(values, 0.95)
        reached = (goal is None or middle < goal) and (p95_goal is None or high < p95_goal)
        self.rows.append({"what": what, "goal": goal, "p95Goal": p95_goal, "unit": unit, "median": middle, "p95": high,
                          "runs": len(values), "reached": reached})
        print(f"  {what}: median {middle:.1f} {unit}, p95 {high:.1f} {unit}, {len(values)} runs", file=sys.stderr, flush=True)

    def print(self):
        def goal(row):
            if row["goal"] is None:
                return ""
            text = f"< {row['goal']:g} {row['unit']}"
            return text + (f", p95 < {row['p95Goal']:g}" if row["p95Goal"] else "")

        print("| what | goal | median | p95 | runs | reached |")
        print("| --- | --- | ---: | ---: | ---: | --- |")
        for row in self.rows:
            print(f"| {row['what']} | {goal(row)} | {row['median']:.1f} {row['unit']} | {row['p95']:.1f} {row['unit']} | {row['runs']} "
                  f"| {'' if row['goal'] is None else 'yes' if row['reached'] else 'NO'} |")


class Api:
    """The Kubernetes API with the kubeconfig's client certificate, over connections that stay open."""

    def __init__(self, kubeconfig):
        found = {}
        with open(kubeconfig) as f:
            for line in f:
                name, _, value = line.strip().lstrip("- ").partition(":")
                found.setdefault(name, value.strip())
        self.host, _, port = found["server"].removeprefix("https://").rpartition(":")
        self.port = int(port)
        self.tls = ssl.create_default_context(cadata=base64.b64decode(found["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as both:
            both.write(base64.b64decode(found["client-certificate-data"]) + base64.b64decode(found["client-key-data"]))
            both.flush()
            self.tls.load_cert_chain(both.name)
        self.own = threading.local()

    def connect(self, timeout):
        return http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=timeout)

    def request(self, method, path, body=None, content="application/json"):
        if not hasattr(self.own, "connection"):
            self.own.connection = self.connect(30)
        data = None if body is None else json.dumps(body)
        self.own.connection.request(method, path, data, {"Content-Type": content, "Accept": "application/json"})
        answer = self.own.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text)


class Watch:
    """Events of one collection from now on, each with the moment of its arrival; read by a thread of its own."""

    def __init__(self, api, path):
        self.events = queue.SimpleQueue()
        version = api.request("GET", path)["metadata"]["resourceVersion"]
        self.connection = api.connect(None)
        self.connection.request("GET", f"{path}?watch=1&resourceVersion={version}", headers={"Accept": "application/json"})
        self.stream = self.connection.getresponse()
        if self.stream.status != 200:
            raise RuntimeError(f"watch {path}: {self.stream.status} {self.stream.read()}")
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            while line := self.stream.readline():
                self.events.put((time.monotonic(), line))

    def until(self, holds, timeout=60):
        """Feeds events to holds(type, object) until it gives true; the moment the deciding one came."""
        end = time.monotonic() + timeout
        while True:
            try:
                at, line = self.events.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                raise RuntimeError(f"what is awaited did not come within {timeout} s") from None
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise RuntimeError(f"the watch ended: {event['object']}")
            if holds(event["type"], event["object"]):
                return at


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def pod_spec(probe=False, host_users=True, **env):
    container = {"name": "hello", "image": IMAGE, "ports": [{"containerPort": 8080}],
                 "env": [{"name": k, "value": v} for k, v in env.items()]}
    if probe:
        container["readinessProbe"] = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}
    return {"containers": [container], **({} if host_users else {"hostUsers": False})}


def deployment(name, replicas, spec):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}}


class Count:
    """How many pods of a set are there, and how many of them Ready."""

    def __init__(self):
        self.ready = {}

    def feed(self, kind, pod):
        name = pod["metadata"]["name"]
        if kind == "DELETED":
            self.ready.pop(name, None)
        else:
            self.ready[name] = is_ready(pod) and "deletionTimestamp" not in pod["metadata"]

    def are(self, total, ready):
        return len(self.ready) == total and sum(self.ready.values()) == ready


def measure_pods(api, table, runs, probe, host_users=True):
    taken, with_request = [], []
    watch = Watch(api, PODS)
    for i in range(runs):
        name = f"one-{'probed' if probe else 'plain'}-{'' if host_users else 'users-'}{i}"
        start = time.monotonic()
        api.request("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(probe, host_users)})
        accepted = time.monotonic()
        ready = watch.until(lambda kind, pod: pod["metadata"]["name"] == name and is_ready(pod))
        taken.append((ready - accepted) * 1e3)
        with_request.append((ready - start) * 1e3)
        api.request("DELETE", f"{PODS}/{name}")
        watch.until(lambda kind, pod: pod["metadata"]["name"] == name and kind == "DELETED")
    label = "one pod with an HTTP readiness probe" if probe else "one pod" if host_users else "one pod with a user namespace"
    table.add(f"{label}: create accepted to Ready seen", 60, "ms", taken, 120)
    table.add(f"{label}: with the create request", None, "ms", with_request)


def measure_scale(api, table, runs, replicas):
    up, down = [], []
    for i in range(runs):
        if i > 0:
            time.sleep(REST)
        name, count = f"many-{i}", Count()
        watch = Watch(api, PODS)

        def seen(total, ready):
            def holds(kind, pod):
                count.feed(kind, pod)
                return count.are(total, ready)
            return holds

        start = time.monotonic()
        api.request("POST", DEPLOYMENTS, deployment(name, replicas, pod_spec()))
        up.append(watch.until(seen(replicas, replicas)) - start)
        start = time.monotonic()
        api.request("PATCH", f"{DEPLOYMENTS}/{name}/scale", {"spec": {"replicas": 0}}, "application/merge-patch+json")
        down.append(watch.until(seen(0, 0)) - start)
        api.request("DELETE", f"{DEPLOYMENTS}/{name}", {"propagationPolicy": "Background"})
    table.add(f"{replicas} replicas Ready", 3000, "ms", [t * 1e3 for t in up])
    table.add(f"{replicas} replicas scaled to zero", 1000, "ms", [t * 1e3 for t in down])


def measure_drain(api, table, runs):
    """From the deletion of a pod behind a load-balanced service to its stop signal: hello then closes what is open and asks nothing."""
    services = PODS.replace("/pods", "/services")
    api.request("POST", services, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "drained"},
                                   "spec": {"type": "LoadBalancer", "selector": {"app": "drained"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    watch, slices, taken = Watch(api, PODS), Watch(api, SLICES), []
    while not (found := api.request("GET", f"{services}/drained")["status"].get("loadBalancer", {}).get("ingress")):
        time.sleep(0.05)
    for i in range(runs):
        name = f"drained-{i}"
        api.request("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "drained"}}, "spec": pod_spec()})
        slices.until(lambda _, s: any(e["targetRef"]["name"] == name and e["conditions"]["ready"] for e in s.get("endpoints") or []))
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                kept = http.client.HTTPConnection(found[0]["ip"], timeout=5)
                kept.request("GET", "/")
                if name.encode() in kept.getresponse().read():
                    break
            time.sleep(0.02)
        api.request("DELETE", f"{PODS}/{name}")
        accepted = time.monotonic()
        assert kept.sock.recv(1) == b""
        taken.append((time.monotonic() - accepted) * 1e3)
        watch.until(lambda kind, pod: pod["metadata"]["name"] == name and kind == "DELETED")
    api.request("DELETE", f"{services}/drained")
    table.add("one pod of a service: delete accepted to stop signal", 50, "ms", taken, 100)


def rolled_out(generation, replicas):
    """What `kubectl rollout status` waits for."""
    def holds(_, found):
        status = found.get("status", {})
        return (status.get("observedGeneration", 0) >= generation
                and all(status.get(k, 0) == replicas for k in ("replicas", "updatedReplicas", "availableReplicas")))
    return holds


def measure_rollout(api, table, runs, replicas):
    name, taken = "rolling", []
    watch = Watch(api, DEPLOYMENTS)
    made = api.request("POST", DEPLOYMENTS, deployment(name, replicas, pod_spec()))
    watch.until(rolled_out(made["metadata"]["generation"], replicas))
    for i in range(runs):
        start = time.monotonic()
        changed = api.request("PATCH", f"{DEPLOYMENTS}/{name}", {"spec": {"template": {"spec": pod_spec(RUN=str(i))}}},
                              "application/strategic-merge-patch+json")
        taken.append(watch.until(rolled_out(changed["metadata"]["generation"], replicas)) - start)
    pods = Count()
    for pod in api.request("GET", PODS + f"?labelSelector=app={name}")["items"]:
        pods.feed("ADDED", pod)
    gone = Watch(api, PODS)
    api.request("DELETE", f"{DEPLOYMENTS}/{name}", {"propagationPolicy": "Background"})

    def empty(kind, pod):
        pods.feed(kind, pod)
        return pods.are(0, 0)

    if not pods.are(0, 0):
        gone.until(empty)
    table.add(f"rolling update of {replicas}", 1500, "ms", [t * 1e3 for t in taken])


def processes_of(*texts):
    """The cluster's processes: those whose command line names it, and all below them; not this program."""
    lines, parents = {}, {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                lines[pid] = f.read().decode(errors="replace")
            with open(f"/proc/{pid}/stat") as f:
                parents[pid] = f.read().rpartition(")")[2].split()[1]
    found = {p for p, line in lines.items() if any(t in line for t in texts)} - {str(os.getpid())}
    grown = True
    while grown:
        more = {p for p, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found, key=int)


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))


def role_of(pid):
    """"dhow server", "dhow agent", "dhow-shim", ..."""
    with open(f"/proc/{pid}/cmdline") as f:
        words = f.read().split("\0")
    program = os.path.basename(words[0])
    return program if program == "dhow-shim" else " ".join([program, *words[1:2]])


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure_idle(cluster, table, seconds, when):
    pids = processes_of(cluster.name, cluster.data)
    start = cpu_seconds(pids)
    time.sleep(seconds)
    table.add(f"idle CPU over {seconds} s, {when}", 1, "%", [100 * (cpu_seconds(pids) - start) / seconds])
    sizes = []
    for pid in pids:
        with contextlib.suppress(OSError):
            sizes.append((role_of(pid), pss_kib(pid)))
    for role in sorted({role for role, _ in sizes}):
        of_role = [kib for other, kib in sizes if other == role]
        print(f"    {role}: {len(of_role)} with {sum(of_role) / 1024:.1f} MiB", file=sys.stderr)
    table.add(f"idle PSS of {len(sizes)} processes, {when}", 100, "MiB", [sum(kib for _, kib in sizes) / 1024])


LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/dhow-master"


def leader_of(api):
    """The master that has the duties; empty while it cannot be told."""
    try:
        return api.request("GET", LEASE)["spec"].get("holderIdentity", "")
    except (OSError, http.client.HTTPException, RuntimeError):
        api.own = threading.local()
        return ""


def measure_masters(make, table, ups, runs):
    """Three masters and six nodes: their start, and how soon another leads when the leader's machine loses its power."""
    cluster, taken, took_over = make(nodes=6, zones=3), [], []
    try:
        for i in range(ups):
            if i > 0:
                cluster.dhow("down")
            start = time.monotonic()
            cluster.up("--masters", "3")
            taken.append((time.monotonic() - start) * 1e3)
        table.add("dhow up, 3 masters and 6 nodes Ready", 10000, "ms", taken)
        enter(cluster.net.name)
        api = Api(cluster.kubeconfig)
        for _ in range(runs):
            while not (old := leader_of(api)):
                time.sleep(0.05)
            row = next(line.split() for line in cluster.dhow("status").stdout.splitlines() if line.startswith(old + " "))
            start = time.monotonic()
            os.kill(int(row[2]), signal.SIGKILL)
            while leader_of(api) in ("", old):
                time.sleep(0.01)
            took_over.append((time.monotonic() - start) * 1e3)
            cluster.dhow("machine", "start", old)
            while f"{old} " not in "".join(line for line in cluster.dhow("status").stdout.splitlines() if " Running " in line):
                time.sleep(0.1)
        table.add("another master leads after the leader's machine was killed", 3000, "ms", took_over)
    finally:
        cluster.destroy()


def enter(namespace):
    """Takes this thread, and those it starts, into the network namespace."""
    with open(f"/run/netns/{namespace}") as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dhow", default=os.path.join(ROOT, "build/dhow"), help="the program; examples/hello is taken from its folder")
    options.add_argument("--only", default="up,idle,pod,users,probe,drain,scale,roll,masters", help="which measurements, separated by commas")
    options.add_argument("--ups", type=int, default=5, help="how often the cluster is started")
    options.add_argument("--pods", type=int, default=50, help="how many single pods")
    options.add_argument("--runs", type=int, default=5, help="how often deployments are scaled and rolled")
    options.add_argument("--idle", type=int, default=20, help="seconds of idleness")
    options.add_argument("--json", help="a file for the table as JSON")
    options.add_argument("--pause", action="store_true", help="wait for a line on stdin before the measurements, to attach a profiler")
    given = options.parse_args()
    build = os.path.dirname(os.path.abspath(given.dhow))
    os.environ["DHOW_BUILD"] = build
    sys.path.insert(0, os.path.join(ROOT, "tests"))
    from harness import Cluster

    wanted, table, cluster = given.only.split(","), Table(), Cluster()
    print(f"load average at the start: {' '.join(f'{x:.1f}' for x in os.getloadavg())}, {os.cpu_count()} cores", file=sys.stderr)
    try:
        taken = []
        for i in range(given.ups if "up" in wanted else 1):
            if i > 0:
                cluster.dhow("down")
            start = time.monotonic()
            cluster.up()
            taken.append((time.monotonic() - start) * 1e3)
        if "up" in wanted:
            table.add("dhow up, 3 nodes Ready", 3000, "ms", taken)
        if "idle" in wanted:
            measure_idle(cluster, table, given.idle, "without pods")
        cluster.dhow("image", "--tag", IMAGE, "--add", f"{build}/examples/hello/hello:/hello", "--entrypoint", "/hello", "--user", "65532:65532")
        enter(cluster.net.name)
        api = Api(cluster.kubeconfig)
        # The image comes to every node before anything is measured.
        measure_scale(api, Table(), 1, 9)
        if given.pause:
            print(f"{cluster.name} {cluster.data} {' '.join(processes_of(cluster.name, cluster.data))}\nEnter to go on", file=sys.stderr)
            sys.stdin.readline()
        if "pod" in wanted:
            measure_pods(api, table, given.pods, False)
        if "users" in wanted:
            measure_pods(api, table, given.pods, False, host_users=False)
        if "probe" in wanted:
            measure_pods(api, table, given.pods, True)
        if "drain" in wanted:
            measure_drain(api, table, given.pods)
        if "scale" in wanted:
            time.sleep(REST)
            measure_scale(api, table, given.runs, 50)
        if "roll" in wanted:
            time.sleep(REST)
            measure_rollout(api, table, given.runs, 10)
        if "idle" in wanted:
            measure_idle(cluster, table, given.idle, "after the work")
    finally:
        cluster.destroy()
    try:
        if "masters" in wanted:
            measure_masters(Cluster, table, given.ups, given.runs)
    finally:
        print(f"load average at the end: {' '.join(f'{x:.1f}' for x in os.getloadavg())}", file=sys.stderr)
    table.print()
    if given.json:
        with open(given.json, "w") as f:
            json.dump(table.rows, f, indent=1)
    return 0 if all(row["reached"] for row in table.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
