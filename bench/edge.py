#!/usr/bin/env python3
"""Measures what stands between a client and a pod: services, Ingresses, and the time until a change of endpoints is everywhere.

Two ways are always compared within one run, turn by turn, as ratios: the machine's mood is the same for both. The cluster lives in a
network namespace and a data folder of its own and is removed at the end. Needs root, wrk, haproxy and nft. See README.md beside this."""

import argparse
import ctypes
import fcntl
import glob
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(ROOT, "bench")]
from cluster import CLONE_NEWNET, Api, percentile  # noqa: E402
from harness import Cluster, eventually, processes_naming, run  # noqa: E402
from pods import apply, in_pod_network, main_process, publish_shell, shell_pod, wait_ready  # noqa: E402

SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
SERVER = """
global
  nbthread 1
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
frontend web
  bind :8080
  http-request return status 200 content-type text/plain string "it works"
"""
# What somebody would write by hand for the one site that the Ingress has.
ALONE = """
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
frontend web
  bind {address}:8081
  acl ours hdr(host) -i web.example
  use_backend pods if ours
backend pods
  server pod {pod}:8080
"""
# The same with what an Ingress does for each request by default: headers of who asks, an id, the log, another try where a pod closes.
DUTIES = """
defaults
  mode http
  option idle-close-on-response
  option redispatch 1
  retries 4
  retry-on conn-failure empty-response
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
frontend web
  bind {address}:8082
  log stdout len 32768 format raw local0
  option httplog
  capture request header Host len 256
  capture request header User-Agent len 512
  capture request header Referer len 512
  unique-id-format %[uuid]
  http-request set-header X-Request-ID %[unique-id] unless {{ req.hdr(X-Request-ID) -m found }}
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Scheme http
  http-request del-header ssl-client-verify
  http-request del-header X-Forwarded-Prefix
  acl ours hdr(host) -i web.example
  use_backend pods if ours
backend pods
  server pod {pod}:8080
"""




def cpu_seconds(pids):
    """That the processes have used."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def enter(netns):
    """This thread, and those that it starts, are in that network from now on."""
    with open(netns) as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"enter {netns}")


class Monitor:
    """Moments at which a node's tables got an element that names an address of 203.0.113.0/24, as the kernel tells them."""
    NETLINK_NETFILTER, SOL_NETLINK, ADD_MEMBERSHIP, TABLES = 12, 270, 1, 7  # linux/netlink.h, linux/netfilter/nfnetlink.h

    def __init__(self, netns):
        self.seen, self.changed, self.listening = {}, threading.Condition(), threading.Event()
        threading.Thread(target=self.read, args=(netns,), daemon=True).start()
        self.listening.wait(10)

    def read(self, netns):
        enter(netns)
        told = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self.NETLINK_NETFILTER)
        told.bind((0, 0))
        told.setsockopt(self.SOL_NETLINK, self.ADD_MEMBERSHIP, self.TABLES)
        self.listening.set()
        while True:
            message = told.recv(1 << 16)
            at = time.monotonic()
            for last in re.findall(rb"\xcb\x00\x71(.)", message, re.DOTALL):
                with self.changed:
                    self.seen.setdefault(last[0], at)
                    self.changed.notify_all()

    def when(self, last, timeout=10):
        with self.changed:
            if not self.changed.wait_for(lambda: last in self.seen, timeout):
                raise RuntimeError(f"203.0.113.{last} did not come within {timeout} s")
            return self.seen[last]


class Bench:
    def __init__(self, options):
        self.options, self.rows, self.started = options, [], []
        self.cluster = Cluster(nodes=3, zones=3)
        self.folder = tempfile.mkdtemp(prefix="dhow-edge-")

    def run(self):
        try:
            self.cluster.up()
            self.set_up()
            for name in self.options.only.split(","):
                {"service": self.service, "ingress": self.ingress, "change": self.change}[name]()
        finally:
            for process in self.started:
                process.kill()
                process.wait()
            self.cluster.destroy()
            shutil.rmtree(self.folder)

    def set_up(self):
        cluster = self.cluster
        publish_shell(cluster)
        self.nodes = [f"{cluster.name}-node-{i}" for i in (1, 2, 3)]
        path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}
        apply(cluster, *[shell_pod(name, "exec sleep 100000", node=node) for name, node in (("web", self.nodes[1]), ("ask", self.nodes[0]), ("other", self.nodes[0]))],
              {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}},
              {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"},
               "spec": {"rules": [{"host": "web.example", "http": {"paths": [path]}}]}})
        self.web, self.ask, self.other = wait_ready(cluster, "web", "ask", "other")
        self.start_haproxy(f"/proc/{main_process(self.web)}/ns/net", "web", SERVER)
        self.address = cluster.get("service", "web")["spec"]["clusterIP"]
        eventually(lambda: in_pod_network(self.ask, "curl", "-sf", f"http://{self.address}/", check=False).stdout == "it works")

    def start_haproxy(self, netns, name, text):
        path = f"{self.folder}/{name}.cfg"
        with open(path, "w") as f:
            f.write(text)
        self.started.append(subprocess.Popen(["nsenter", f"--net={netns}", "--", "haproxy", "-db", "-f", path], stdout=self.log()))

    def log(self):
        """Where HAProxy writes its log, as an agent has it: a pipe that somebody empties now and then."""
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(writer, False)

        def empty():
            while os.read(reader, 1 << 18):
                time.sleep(0.05)
        threading.Thread(target=empty, daemon=True).start()
        return writer

    @staticmethod
    def join_cgroups(pid, other):
        """The same share of the machine's time."""
        with open(f"/proc/{other}/cgroup") as f:
            for line in f:
                _, controllers, path = line.strip().split(":", 2)
                for folder in (f"/sys/fs/cgroup/{controllers.removeprefix('name=')}", "/sys/fs/cgroup" if not controllers else ""):
                    procs = f"{folder}{path}/cgroup.procs"
                    if folder and os.path.exists(procs):
                        with open(procs, "w") as into:
                            into.write(str(pid))

    def netns(self, node):
        return f"/run/dhow/{self.cluster.name}/{node}.netns"

    def load(self, inside, url, pids, *args):
        """Requests per second by 32 connections, and the seconds of CPU time of each that the processes took."""
        before = cpu_seconds(pids)
        shown = run([*inside, "wrk", "-t1", "-c32", f"-d{self.options.seconds}", *args, url]).stdout
        if "Non-2xx" in shown:
            raise RuntimeError(shown)
        done = int(re.search(r"(\d+) requests in", shown)[1])
        return float(re.search(r"Requests/sec:\s+([\d.]+)", shown)[1]), (cpu_seconds(pids) - before) / max(done, 1)

    def compare(self, what, goal, inside, measured, plain, *args, pids=None):
        """The share of `plain`'s requests per second that `measured` reaches; neighbouring turns are compared. `inside`: for both, or for each. With
        the processes that serve each: also the share for the same CPU time, which other work on the machine changes less."""
        inside = inside if isinstance(inside, dict) else {measured: inside, plain: inside}
        shares, rates, costs = [], [], {measured: [], plain: []}
        for turn in range(self.options.turns):
            pair = {}
            for url in (measured, plain) if turn % 2 else (plain, measured):
                pair[url], cost = self.load(inside[url], url, (pids or {}).get(url, []), *args)
                costs[url].append(cost)
            shares.append(pair[measured] / pair[plain])
            rates.append(pair[plain])
        middle = statistics.median(shares)
        self.add(what, f"{middle:.3f}", f"at least {goal}", middle >= goal,
                 f"of {statistics.median(rates):.0f} requests a second; turns {min(shares):.2f} to {max(shares):.2f}")
        if pids:
            ours, theirs = (statistics.median(costs[url]) for url in (measured, plain))
            self.add(f"{what}, for the same CPU time", f"{theirs / ours:.3f}", f"at least {goal}", theirs / ours >= goal,
                     f"{ours * 1e6:.0f} us of a request against {theirs * 1e6:.0f}")

    def add(self, what, figure, goal, reached, about):
        self.rows.append((what, figure, goal, reached))
        print(f"  {what}: {figure}, {about}", file=sys.stderr, flush=True)

    def service(self):
        pod, service = f"http://{self.web['status']['podIP']}:8080/", f"http://{self.address}/"
        # A client for each: what one has sent by one way must not have the ports of what it sends by the other.
        inside = {url: ["nsenter", f"--net=/proc/{main_process(client)}/ns/net", "--"] for url, client in ((service, self.ask), (pod, self.other))}
        self.compare("a service's address against its pod's, connections kept", 0.95, inside, service, pod)
        self.compare("a service's address against its pod's, a connection for each request", 0.95, inside, service, pod, "-H", "Connection: close")

    def ingress(self):
        """The HAProxy of a node, and one with a configuration by hand beside it, to the same pod."""
        node = self.nodes[2]
        [configuration] = glob.glob(f"{self.cluster.data}/clusters/{self.cluster.name}/nodes/{node}/**/haproxy.cfg", recursive=True)
        with open(configuration) as f:
            binds = re.findall(r"^  bind ((?!127)[\d.]+):(\d+) id \d+$", f.read(), re.MULTILINE)
        address, port = binds[0]
        serving = [pid for pid, line in processes_naming(os.path.basename(os.path.dirname(configuration)) + "/haproxy.cfg")
                   if line.split()[0].endswith("haproxy") and os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(self.netns(node)).st_ino]
        inside, host, ours = self.cluster.net.inside([]), ("-H", "Host: web.example"), f"http://{address}:{port}/"
        ways = [("that only forwards", "alone", ALONE, 8081, 0.9), ("that does the same", "duties", DUTIES, 8082, 0.9)]
        for what, name, text, at, goal in ways:
            self.start_haproxy(self.netns(node), name, text.format(address=address, pod=self.web["status"]["podIP"]))
            pid, other = self.started[-1].pid, f"http://{address}:{at}/"
            self.join_cgroups(pid, serving[0])
            for url in (ours, other):
                eventually(lambda: run([*inside, "curl", "-sf", *host, url], check=False).stdout == "it works")
            for how, more in (("connections kept", ()), ("a connection for each request", ("-H", "Connection: close"))):
                self.compare(f"an Ingress against HAProxy by hand {what}, {how}", goal, inside, ours, other, *host, *more, pids={ours: serving, other: [pid]})

    def change(self):
        """From the answer of the API until the element is in the table of the last node."""
        apply(self.cluster, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "moving"}, "spec": {"ports": [{"port": 80}]}})
        enter(f"/run/netns/{self.cluster.net.name}")
        api = Api(self.cluster.kubeconfig)
        monitors = [Monitor(self.netns(node)) for node in self.nodes]
        slice_ = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
                  "metadata": {"name": "moving-1", "labels": {"kubernetes.io/service-name": "moving"}}, "endpoints": []}
        api.request("POST", SLICES, slice_)
        taken = []
        for i in range(1, self.options.changes + 2):
            change = {"endpoints": [{"addresses": [f"203.0.113.{i}"]}]}
            api.request("PATCH", f"{SLICES}/moving-1", change, "application/merge-patch+json")
            accepted = time.monotonic()
            taken.append(max(0, max(monitor.when(i) for monitor in monitors) - accepted) * 1e3)
        taken = taken[1:]  # the first one finds caches cold
        middle, high = statistics.median(taken), percentile(taken, 0.99)
        self.add("a change of endpoints until it is in force on three nodes", f"{middle:.1f} ms, p99 {high:.1f} ms", "20 ms, p99 50 ms",
                 middle < 20 and high < 50, f"{len(taken)} changes")

    def print(self):
        print("| what | figure | goal | reached |\n| --- | ---: | --- | --- |")
        for what, figure, goal, reached in self.rows:
            print(f"| {what} | {figure} | {goal} | {'yes' if reached else 'NO'} |")
        return all(row[3] for row in self.rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="service,ingress,change", help="service, ingress, change")
    parser.add_argument("--turns", type=int, default=11, help="of each comparison")
    parser.add_argument("--seconds", type=int, default=1, help="of each half of a turn")
    parser.add_argument("--changes", type=int, default=200, help="of endpoints; at most 250")
    bench = Bench(parser.parse_args())
    print(f"load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
    bench.run()
    sys.exit(0 if bench.print() else 1)


if __name__ == "__main__":
    main()
