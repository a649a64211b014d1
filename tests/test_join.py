"""A cluster of separate hosts, made by `dhow server` and `dhow join`: hosts that share nothing but a network of two segments."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from harness import DHOW, PATIENCE, eventually
from hosts import IMAGE, Network, join_command

WEB = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
       "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                             "spec": {"terminationGracePeriodSeconds": 0,
                                      "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                                                                     "whenUnsatisfiable": "DoNotSchedule",
                                                                     "labelSelector": {"matchLabels": {"app": "web"}}}],
                                      "containers": [{"name": "hello", "image": IMAGE, "ports": [{"containerPort": 8080}],
                                                      "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                                                      "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}}]}}}}


class Hosts:
    """A master and two nodes, one of them behind the router."""

    def __init__(self):
        self.network = Network()
        self.a = self.network.host("host-a", 1)
        self.b = self.network.host("host-b", 1)
        self.c = self.network.host("host-c", 2)
        shown = self.a.start("server", "--name", "hosts", "--region", "east", "--zone", "east-1", shows="dhow join")
        self.server, self.token, self.hash = join_command(shown)

    def join(self, host, zone, **options):
        args = {"token": self.token, "ca-hash": self.hash, "zone": zone, **options}
        return host.start("join", self.server, *[word for name, value in args.items() for word in ("--" + name, value)], shows="is node")

    def refused(self, host, **options):
        """What a join says that must fail; the host must be as it was."""
        args = {"token": self.token, "ca-hash": self.hash, "zone": "east-9", **options}
        server = args.pop("server", self.server)
        done = host.dhow("join", server, *[word for name, value in args.items() for word in ("--" + name, value)], check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert traces(host) == []
        return done.stderr


def traces(host):
    """What of Dhow there is on a host."""
    found = host.run("sh", "-c", "ls -d /var/lib/dhow/host /run/dhow/host /run/dhow-edge /etc/dhow/kubeconfig 2>/dev/null", check=False).stdout.split()
    found += re.findall(r"^\d+: (dhow\S+|veth\S+)[@:]", host.run("ip", "link").stdout, re.M)
    found += re.findall(r"^.*(?:10\.244\.|10\.96\.).*$", host.run("sh", "-c", "ip route; ip address").stdout, re.M)
    processes = "for p in /proc/[0-9]*; do [ $(readlink $p/ns/net) = $(readlink /proc/self/ns/net) ] && cat $p/cmdline; done"
    found += re.findall(r"(edge-filter|haproxy\.cfg)\0", host.run("sh", "-c", processes, check=False).stdout)
    # Debian's nft fails on a proxy's table.
    tables = host.run("nft", "list", "tables", check=False)
    found += re.findall(r"table \S+ (dhow\S+)", tables.stdout) if tables.returncode == 0 else ["tables"]
    return found + ([] if host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n" else ["ip_forward"])


@pytest.fixture(scope="module")
def hosts():
    made = Hosts()
    try:
        yield made
    finally:
        made.network.destroy()


def test_what_does_not_fit_is_refused_and_changes_nothing(hosts):
    stranger = "sha256:" + "0" * 64
    said = hosts.refused(hosts.b, **{"ca-hash": stranger})
    assert hosts.hash in said and "not what --ca-hash says" in said
    said = hosts.refused(hosts.b, token=hosts.token[:-1] + ("a" if hosts.token[-1] != "a" else "b"))
    assert "it is wrong, has expired or was deleted" in said and "dhow token create" in said
    assert "does not answer" in hosts.refused(hosts.b, server="https://172.31.1.1:6443")
    assert "is no address of this machine" in hosts.refused(hosts.b, address="172.31.1.222")
    # A range of the cluster leads elsewhere from here.
    hosts.b.run("ip", "route", "add", "10.96.7.0/24", "via", "172.31.1.1")
    done = hosts.b.dhow("join", hosts.server, "--token", hosts.token, "--ca-hash", hosts.hash, check=False)
    assert done.returncode == 1 and "10.96.0.0/16 overlaps 10.96.7.0/24" in done.stderr
    hosts.b.run("ip", "route", "del", "10.96.7.0/24")
    assert traces(hosts.b) == []


def test_an_expired_token_is_refused_and_cleaned_away(hosts):
    brief = hosts.a.dhow("token", "create", "--ttl", "1s", "--description", "brief").stdout.strip()
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", brief)
    eventually(lambda: brief not in hosts.a.dhow("token", "list").stdout)
    assert "has expired" in hosts.refused(hosts.b, token=brief)
    spare = hosts.a.dhow("token", "create").stdout.strip()
    secret = hosts.a.get("secret", "-n", "kube-system", "bootstrap-token-" + spare[:6])
    assert secret["type"] == "bootstrap.kubernetes.io/token" and "expiration" in secret["data"]
    assert spare in hosts.a.dhow("token", "list").stdout
    hosts.a.dhow("token", "delete", spare[:6])
    assert "was deleted" in hosts.refused(hosts.b, token=spare)


def test_hosts_join_and_their_pods_reach_each_other(hosts):
    hosts.join(hosts.b, "east-2")
    hosts.join(hosts.c, "east-3")
    nodes = {n["metadata"]["name"]: n for n in hosts.a.get("nodes")["items"]}
    assert sorted(nodes) == ["host-b", "host-c"]
    assert nodes["host-c"]["metadata"]["labels"]["topology.kubernetes.io/zone"] == "east-3"
    assert [a["address"] for a in nodes["host-c"]["status"]["addresses"] if a["type"] == "InternalIP"] == [hosts.c.address]
    eventually(lambda: {z["metadata"]["name"] for z in hosts.a.get("zones")["items"]} >= {"east-2", "east-3"})
    # A living node's name is not given twice.
    taken = hosts.network.host("host-d", 1)
    assert 'has a node "host-b" that is Ready' in hosts.refused(taken, **{"node-name": "host-b"})

    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}, "type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}]}}
    hosts.a.kubectl("apply", "-f", "-", input=json.dumps(WEB) + json.dumps(service))
    hosts.a.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
    pods = {p["spec"]["nodeName"]: p for p in hosts.a.get("pods", "-l", "app=web")["items"]}
    assert sorted(pods) == ["host-b", "host-c"]
    # Between segments pods go by VXLAN.
    assert "dhow0-vx" in hosts.b.run("ip", "route").stdout
    one, other = pods["host-b"], pods["host-c"]

    def inside(pod, script):
        return hosts.a.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", script).stdout

    def fetch(pod, address, port, path="/"):  # Debian's static busybox crashes in its own wget
        return inside(pod, f"printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port}")

    for here, there in ((one, other), (other, one)):
        assert there["metadata"]["name"] in fetch(here, there["status"]["podIP"], 8080)
    address = hosts.a.get("service", "web")["spec"]["clusterIP"]
    assert address in inside(one, "nslookup web.default.svc.cluster.local")
    answered = set()

    def both():
        answered.add(re.search(r"on node (\S+)", fetch(one, address, 80)).group(1))
        return answered == {"host-b", "host-c"}

    eventually(both)
    # The master by its service, from a pod behind the router.
    assert inside(other, "nc -w 3 10.96.0.1 443 </dev/null >/dev/null && echo open") == "open\n"
    inside(other, "echo to the log > /proc/1/fd/1")
    eventually(lambda: "to the log" in hosts.a.kubectl("logs", other["metadata"]["name"]).stdout)
    # Traffic that leaves takes the node's address: the registry's host does not know the pods' range.
    assert fetch(one, "172.31.1.1", 5000, "/v2/").endswith("{}")
    # No pool: the service waits, and says so.
    assert "EXTERNAL-IP" in hosts.a.kubectl("get", "service", "web").stdout and "<pending>" in hosts.a.kubectl("get", "service", "web").stdout
    eventually(lambda: "no pool of load balancer addresses" in hosts.a.kubectl("get", "events", "--field-selector=reason=LoadBalancerPending").stdout)


def test_an_agent_that_is_killed_finds_its_containers_again(hosts):
    pod = next(p for p in hosts.a.get("pods", "-l", "app=web")["items"] if p["spec"]["nodeName"] == "host-c")
    name = pod["metadata"]["name"]
    first = hosts.c.role("agent")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: hosts.c.role("agent") not in (None, first))
    # The tunnel of the new one.
    eventually(lambda: hosts.a.kubectl("exec", name, "--", "true", check=False).returncode == 0)
    now = hosts.a.get("pod", name)["status"]
    assert now["containerStatuses"][0]["restartCount"] == 0
    assert now["containerStatuses"][0]["containerID"] == pod["status"]["containerStatuses"][0]["containerID"]


def test_a_master_that_is_killed_comes_back_with_all(hosts):
    first = hosts.a.role("server")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: hosts.a.role("server") not in (None, first))
    eventually(lambda: hosts.a.kubectl("get", "nodes", check=False).stdout.count(" Ready") == 2)
    hosts.a.kubectl("scale", "deployment/web", "--replicas=1")
    hosts.a.kubectl("scale", "deployment/web", "--replicas=2")
    hosts.a.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)


def test_snapshots_and_status_work_on_the_master(hosts):
    assert "saved /var/lib/dhow/host/snapshots/" in hosts.a.dhow("snapshot", "save").stdout
    assert len(hosts.a.dhow("snapshot", "list").stdout.splitlines()) >= 2
    shown = hosts.a.dhow("status").stdout
    assert re.search(r"^API +https://172\.31\.1\.10:6443 +answers$", shown, re.M), shown
    assert re.search(r"^host-b +Ready +east-2 +172\.31\.1\.11$", shown, re.M), shown
    assert re.search(r"^ROLES +node$", hosts.b.dhow("status", check=False).stdout, re.M)


def test_a_master_is_restored_while_it_does_not_run(hosts):
    def running():
        pods = hosts.a.get("pods", "-l", "app=web")["items"]
        return sorted((p["metadata"]["name"], s["containerID"], s["restartCount"]) for p in pods for s in p["status"]["containerStatuses"])

    before = running()
    file = hosts.a.dhow("snapshot", "save").stdout.split()[1].rstrip(":")
    hosts.a.kubectl("create", "configmap", "later")
    said = hosts.a.dhow("snapshot", "restore", file, check=False)
    assert said.returncode == 1 and "the master runs: `systemctl stop dhow-server`" in said.stderr
    assert hosts.a.kubectl("get", "configmap", "later").returncode == 0
    hosts.a.dhow("service", "stop")
    assert hosts.a.services.wait(timeout=20 * PATIENCE) == 0
    # By the name that `list` shows.
    restored = hosts.a.dhow("snapshot", "restore", os.path.basename(file)).stdout
    assert re.search(r"^restored the state of .*: \d+ objects$", restored, re.M), restored
    hosts.a.start("service", "run", shows="")
    eventually(lambda: hosts.a.kubectl("get", "nodes", check=False).stdout.count(" Ready") == 2)
    assert "NotFound" in hosts.a.kubectl("get", "configmap", "later", check=False).stderr
    assert running() == before
    # Nodes follow the restored state, and what is new reaches them.
    hosts.a.kubectl("rollout", "restart", "deployment/web")
    hosts.a.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)


# A client that keeps its connection, and asks again when it is told to.
KEPT = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=10)
while connection:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    print(answer.status, answer.will_close, flush=True)
    if answer.will_close: break
    sys.stdin.readline()
"""


def test_a_host_that_leaves_is_as_it_was(hosts):
    """Its HAProxy and the filter beside it, which outlive the agent, go, too, when their clients have what they asked for."""
    shop = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop", "annotations": {"dhow.io/waf": "prevent"}},
            "spec": {"rules": [{"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}
    hosts.a.kubectl("apply", "-f", "-", input=json.dumps(shop))
    eventually(lambda: {"edge-filter", "haproxy.cfg"} <= set(traces(hosts.c)))
    eventually(lambda: hosts.a.run("curl", "-sf", f"http://{hosts.c.address}/", check=False).returncode == 0)
    assert "--timeout soon: give a time" in hosts.c.dhow("leave", "--timeout", "soon", check=False).stderr
    kept = subprocess.Popen(hosts.a.inside([sys.executable, "-c", KEPT, hosts.c.address]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    leaves = None
    try:
        assert kept.stdout.readline() == "200 False\n"
        leaves = subprocess.Popen(hosts.c.inside([DHOW, "leave", "--timeout", "2m"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        serves = lambda: [(one["status"], one["reason"]) for one in hosts.a.get("node", "host-c")["status"]["conditions"] if one["type"] == "dhow.io/ServesIngress"]
        eventually(lambda: serves() == [("True", "Leaving")])
        # It waits for the one that is there, whose next answer is the last.
        told = "200 False\n"
        while told == "200 False\n":
            assert leaves.poll() is None
            kept.stdin.write("\n")
            kept.stdin.flush()
            told = kept.stdout.readline()
        assert told == "200 True\n"
        said, complained = leaves.communicate(timeout=60 * PATIENCE)
        assert "clients of Ingresses have 2m" in said and 'this machine has left cluster "hosts"' in said and "warning" not in complained
    finally:
        for process in filter(None, (kept, leaves)):
            process.kill()
            process.wait()
    assert hosts.c.services.wait(timeout=10 * PATIENCE) == 0
    assert traces(hosts.c) == []
    assert hosts.c.run("sh", "-c", "grep -c /var/lib/dhow /proc/self/mounts", check=False).stdout == "0\n"
    hosts.a.kubectl("delete", "node", "host-c")
    # And it may come again, under its name.
    hosts.join(hosts.c, "east-3")
    eventually(lambda: hosts.a.kubectl("get", "node", "host-c").stdout.count(" Ready") == 1)


def identities(*hosts):
    """Who hosts are just now: digests of their identities' files."""
    files = "ls /var/lib/dhow/host/*/*.pem /etc/dhow/kubeconfig 2>/dev/null | xargs sha256sum"
    return {(host.name, line.split()[1]): line.split()[0] for host in hosts for line in host.run("sh", "-c", files).stdout.splitlines()}


def test_three_masters_share_an_etcd_and_one_may_die():
    """Their certificates hold for less than a minute."""
    network = Network()
    try:
        masters = [network.host(f"master-{n}", segment) for n, segment in ((1, 1), (2, 1), (3, 2))]
        first = masters[0]
        shown = first.start("server", "--name", "three", "--store", "etcd", "--node", "--certificate-seconds", "45", shows="dhow join")
        server, token, pin = join_command(shown)
        # A node's token opens no master's keys.
        said = masters[1].dhow("join", server, "--token", token, "--ca-hash", pin, "--master", "--certificate-key", "0" * 64, check=False)
        assert said.returncode == 1 and "the token is not one for masters" in said.stderr
        for master in masters[1:]:
            command = first.dhow("token", "create", "--master").stdout.split()
            assert command[:2] == ["dhow", "join"]
            master.start(*command[1:], shows="dhow join", timeout=90)
        def addresses():
            slices = first.get("endpointslices", "-l", "kubernetes.io/service-name=kubernetes")["items"]
            return sorted(a for s in slices for e in s["endpoints"] for a in e["addresses"])

        everyone = sorted(m.address for m in masters)
        eventually(lambda: addresses() == everyone)
        node = network.host("node", 2)
        server, token, pin = join_command(masters[1].dhow("token", "create", "--print-join-command").stdout)
        node.start("join", server, "--token", token, "--ca-hash", pin, "--zone", "local-2", shows="is node")
        # All three vote, so that one may go; the node knows all.
        eventually(lambda: json.loads(etcdctl(first, "member", "list", "-w", "json"))["members"].__len__() == 3
                   and not any(m.get("isLearner") for m in json.loads(etcdctl(first, "member", "list", "-w", "json"))["members"]))
        eventually(lambda: len(node.run("cat", "/var/lib/dhow/host/node/var/masters").stdout.split()) == 3)
        masters[1].kill_all()
        second = masters[2]
        before = identities(first, second, node)
        assert {path.rsplit("/", 1)[1] for _, path in before} == {"server.pem", "etcd.pem", "admin.pem", "kubeconfig", "node.pem"}
        assert len(before) == 5 + 4 + 1
        eventually(lambda: second.kubectl("create", "configmap", "after", "--from-literal=a=b", "--dry-run=server", check=False).returncode == 0)
        second.kubectl("create", "configmap", "after", "--from-literal=a=b")
        assert first.get("configmap", "after")["data"] == {"a": "b"}
        eventually(lambda: addresses() == sorted(m.address for m in (first, second)))
        # Everybody has another certificate by now, and nothing has noticed.
        eventually(lambda: not before.items() & identities(first, second, node).items(), timeout=60)
        # The node that joined by the dead one is there, and runs what it is given.
        eventually(lambda: first.kubectl("get", "node", "node").stdout.count(" Ready") == 1)
        first.kubectl("run", "one", f"--image={IMAGE}", "--overrides", json.dumps({"spec": {"nodeName": "node"}}))
        first.kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=60s", timeout=70)
        assert "hello from" in second.kubectl("exec", "one", "--", "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 8080").stdout
    finally:
        network.destroy()


def etcdctl(host, *args):
    folder = "/var/lib/dhow/host"
    return host.run("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints=https://{host.address}:2379", f"--cacert={folder}/pki/etcd-ca.crt",
                    f"--cert={folder}/master/etcd.pem", f"--key={folder}/master/etcd.pem", *args).stdout
