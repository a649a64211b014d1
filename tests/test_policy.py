"""NetworkPolicies: who reaches whom, what `dhow policy explain` says of it, and that it holds while things change and die."""

import json
import os
import signal
import subprocess
import sys

import pytest
from harness import Cluster, eventually, run
from pods import apply, in_pod, in_pod_network, main_process, publish_shell, role_process, shell_pod, wait_ready

SERVE = "httpd -p 8081 -h /bin; exec httpd -f -p 8080 -h /bin"
PORTS = {"ports": [{"name": "http", "containerPort": 8080}, {"name": "side", "containerPort": 8081}]}
# Connects again and again until its input ends; tells how often it came through and how often not.
TRAFFIC = """
import select, socket, sys, threading
address, workers, limit = (sys.argv[1], 8080), int(sys.argv[2]), float(sys.argv[3])
counts, over = [0, 0], threading.Event()
def work():
    while not over.is_set():
        try:
            socket.create_connection(address, limit).close()
            counts[0] += 1
        except OSError:
            counts[1] += 1
threads = [threading.Thread(target=work) for _ in range(workers)]
for t in threads: t.start()
sys.stdin.read()
over.set()
for t in threads: t.join()
print(*counts)
"""


def policy(name, selector=None, **spec):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
            "spec": {"podSelector": {"matchLabels": selector} if selector else {}, **spec}}


def labelled(**labels):
    return {"podSelector": {"matchLabels": labels}}


class World:
    """Pods of two namespaces on two nodes."""

    def __init__(self, cluster):
        self.cluster = cluster
        publish_shell(cluster)
        one, two = (f"{cluster.name}-node-{i}" for i in (1, 2))
        cluster.kubectl("create", "namespace", "far")
        cluster.kubectl("label", "namespace", "far", "team=far")
        apply(cluster, shell_pod("web", SERVE, node=one, container=PORTS),
              shell_pod("near", SERVE, node=one, labels={"app": "client"}), shell_pod("other", SERVE, node=two, labels={"app": "client"}))
        apply(cluster, shell_pod("far", SERVE, node=two, labels={"app": "client"}), namespace="far")
        apply(cluster, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
                        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}})
        self.pods = {p["metadata"]["name"]: p for p in wait_ready(cluster, "web", "near", "other") + wait_ready(cluster, "far", namespace="far")}

    def full(self, name):
        return f"{self.pods[name]['metadata']['namespace']}/{name}"

    def address(self, name):
        return self.pods[name]["status"]["podIP"]

    def open(self, source, address, port=8080, patience="2"):
        return in_pod_network(self.pods[source], "curl", "-s", "-o", "/dev/null", "-m", patience, f"http://{address}:{port}/busybox",
                              check=False).returncode == 0

    def explain(self, source, target, *args):
        done = self.cluster.dhow("policy", "explain", source, target, *args, check=False)
        assert done.returncode in (0, 1) and not done.stderr, done.stderr
        return done.returncode == 0, done.stdout

    def settled(self, source, target, allowed, port=8080):
        """The connection is as wanted, soon, and the command says the same."""
        eventually(lambda: self.open(source, self.address(target), port, "0.5") == allowed)
        assert self.explain(self.full(source), self.full(target), "--port", str(port))[0] == allowed

    def traffic(self, source, target, workers=1, limit=5):
        return subprocess.Popen(["nsenter", f"--net=/proc/{main_process(self.pods[source])}/ns/net", "--", sys.executable, "-c", TRAFFIC,
                                 self.address(target), str(workers), str(limit)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def clear(self):
        for namespace in ("default", "far"):
            self.cluster.kubectl("-n", namespace, "delete", "networkpolicies", "--all")


def ended(traffic):
    through, not_through = traffic.communicate("", timeout=60)[0].split()
    return int(through), int(not_through)


@pytest.fixture(scope="module")
def world():
    cluster = Cluster(nodes=2, zones=2)
    try:
        cluster.up()
        yield World(cluster)
    finally:
        cluster.destroy()


def test_policies_decide_who_reaches_whom(world):
    cluster = world.cluster
    for source in ("near", "other", "far"):
        world.settled(source, "web", True)
    apply(cluster, policy("deny-all", policyTypes=["Ingress"]))
    for source in ("near", "other", "far"):
        world.settled(source, "web", False)
    web = cluster.get("pod", "web")
    assert web["status"]["containerStatuses"][0]["restartCount"] == 0 and world.open("web", world.address("far"))
    # Its own node reaches it, as probes must, and so does it itself.
    node = ["nsenter", f"--net=/run/dhow/{cluster.name}/{cluster.name}-node-1.netns", "--"]
    assert run(node + ["curl", "-s", "-m", "2", "-o", "/dev/null", f"http://{world.address('web')}:8080/busybox"], check=False).returncode == 0
    service = cluster.get("service", "front")["spec"]["clusterIP"]
    assert world.open("web", service, 80)
    told = world.explain("default/near", "default/web")[1]
    assert "denied: no rule allows it" in told and "selected by default/deny-all (0 ingress rules)" in told

    # Additive: by labels, by namespace, by the name of a port; by address.
    apply(cluster, policy("allow-app", {"app": "web"}, ingress=[{"from": [labelled(app="client")], "ports": [{"port": "http"}]}]))
    for source, allowed in (("near", True), ("other", True), ("far", False)):
        world.settled(source, "web", allowed)
        world.settled(source, "web", False, 8081)
    assert world.open("other", service, 80) and not world.open("far", service, 80, "0.5")
    allowed, told = world.explain("default/other", "default/front")
    assert allowed and "port 8080/tcp (service default/front port 80)" in told
    assert not world.explain("far/far", "default/front", "--port", "80")[0]
    allowed, told = world.explain("default/near", "default/web", "--port", "8080")
    assert allowed and "allowed by default/allow-app, rule ingress[0]" in told
    apply(cluster, policy("allow-far", {"app": "web"}, ingress=[
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "far"}}, **labelled(app="client")}], "ports": [{"port": 8081, "endPort": 8090}]}]))
    world.settled("far", "web", True, 8081)
    world.settled("far", "web", False)
    world.settled("other", "web", False, 8081)
    cluster.kubectl("label", "namespace", "far", "team=else", "--overwrite")
    world.settled("far", "web", False, 8081)
    cluster.kubectl("label", "namespace", "far", "team=far", "--overwrite")
    world.settled("far", "web", True, 8081)
    cluster.kubectl("-n", "far", "label", "pod", "far", "app=nobody", "--overwrite")
    world.settled("far", "web", False, 8081)
    cluster.kubectl("-n", "far", "label", "pod", "far", "app=client", "--overwrite")
    apply(cluster, policy("by-address", {"app": "web"}, ingress=[
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [world.address("other") + "/32"]}}], "ports": [{"port": 8081}]}]))
    world.settled("near", "web", True, 8081)
    world.settled("other", "web", False, 8081)

    # Egress, with the cluster's DNS as the one thing that stays.
    apply(cluster, policy("out", {"app": "client"}, policyTypes=["Egress"], egress=[{"to": [labelled(app="web")], "ports": [{"port": "http"}]}]))
    world.settled("near", "web", True)
    world.settled("near", "far", False)
    assert service in in_pod(world.pods["near"], "nslookup", "front.default.svc.cluster.local").stdout
    dns = json.load(open(f"{cluster.data}/clusters/{cluster.name}/nodes/{cluster.name}-node-1/node.json"))["dnsAddress"]
    assert world.explain("default/near", dns, "--port", "53", "--protocol", "udp")[0]
    assert not world.explain("default/near", "external", "--port", "443")[0]
    assert world.explain("far/far", "external", "--port", "443")[0]
    world.clear()
    for source in ("near", "other", "far"):
        world.settled(source, "web", True)


def test_whole_namespaces_protocols_and_addresses(world):
    """A namespace without a selector of pods, UDP beside TCP, and egress to addresses but some."""
    cluster = world.cluster
    serve = "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('', 7001))\nprint('ready', flush=True)\nwhile True: s.sendto(b'x', s.recvfrom(9)[1])"
    ask = "import socket, sys\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.settimeout(0.4)\ns.sendto(b'x', (sys.argv[1], 7001))\nprint(s.recv(9) == b'x')"
    server = subprocess.Popen(["nsenter", f"--net=/proc/{main_process(world.pods['web'])}/ns/net", "--", sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True)
    datagrams = lambda source: in_pod_network(world.pods[source], sys.executable, "-c", ask, world.address("web"), check=False).stdout == "True\n"
    try:
        assert server.stdout.readline() == "ready\n"
        assert datagrams("far") and datagrams("near")
        apply(cluster, policy("udp", {"app": "web"}, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "far"}}}], "ports": [{"port": 7001, "protocol": "UDP"}]}]))
        eventually(lambda: datagrams("far") and not datagrams("near"))
        world.settled("far", "web", False)
        assert world.explain("far/far", "default/web", "--port", "7001", "--protocol", "udp")[0] and not world.explain("far/far", "default/web", "--port", "7001")[0]
    finally:
        server.kill()
        server.wait()
    cluster.kubectl("delete", "networkpolicy", "udp")
    apply(cluster, policy("addresses", {"app": "client"}, policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [world.address("far") + "/32"]}}]}]))
    world.settled("near", "far", False)
    world.settled("near", "web", True)
    world.clear()
    world.settled("near", "far", True)


def test_kubectl_knows_the_kind(world):
    cluster = world.cluster
    made = policy("shown", {"app": "web"}, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, labelled(a="b")],
                                                    "ports": [{"port": 80}, {"port": "http", "protocol": "UDP"}]}])
    apply(cluster, made)
    lines = cluster.kubectl("get", "netpol").stdout.splitlines()
    assert lines[0].split() == ["NAME", "POD-SELECTOR", "AGE"] and lines[1].split()[:2] == ["shown", "app=web"]
    spec = cluster.get("netpol", "shown")["spec"]
    assert spec["policyTypes"] == ["Ingress"] and spec["ingress"][0]["ports"][0]["protocol"] == "TCP"
    told = cluster.kubectl("describe", "networkpolicy", "shown").stdout
    assert "PodSelector:     app=web" in told and "Except: 10.1.0.0/16" in told and "To Port: 80/TCP" in told
    assert "namespaceSelector" in cluster.kubectl("explain", "networkpolicy.spec.ingress.from").stdout
    for broken, text in (
            ({"ingress": [{"from": [{}]}]}, 'spec.ingress[0].from[0]: Required value: must specify a peer'),
            ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}]},
             'spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "11.0.0.0/8": must be a strict subset of `cidr`'),
            ({"egress": [{"ports": [{"port": "http", "endPort": 9}]}]},
             "spec.egress[0].ports[0].endPort: Invalid value: 9: may not be specified when `port` is non-numeric"),
            ({"policyTypes": ["Sideways"]}, 'spec.policyTypes[0]: Unsupported value: "Sideways": supported values: "Egress", "Ingress"')):
        refused = cluster.net.inside(["kubectl", "--kubeconfig", cluster.kubeconfig, "apply", "-f", "-"])
        done = run(refused, check=False, input=json.dumps(policy("broken", **broken)))
        assert done.returncode == 1 and f'The NetworkPolicy "broken" is invalid: {text}' in done.stderr, done.stderr
    world.clear()


def test_a_deny_in_force_holds_while_it_is_edited(world):
    cluster = world.cluster
    allow = [{"from": [labelled(app="client"), {"ipBlock": {"cidr": "10.0.0.0/8", "except": [world.address("far") + "/32"]}}]}]
    apply(cluster, policy("guard", {"app": "web"}, ingress=allow))
    world.settled("far", "web", False)
    world.settled("other", "web", True)
    good, bad = world.traffic("other", "web"), world.traffic("far", "web", workers=40, limit=0.1)
    try:
        for i in range(12):
            rule = dict(allow[0], ports=[{"port": 8000, "endPort": 8080 + i}, {"port": 9000 + i}])
            peers = [*allow[0]["from"], labelled(x=str(i)), {"ipBlock": {"cidr": f"172.{16 + i}.0.0/16"}}]
            apply(cluster, policy("guard", {"app": "web"}, ingress=[dict(rule, **{"from": peers})]), policy(f"more-{i % 3}"))
            cluster.kubectl("label", "pod", "near", f"x={i}", "--overwrite")
            cluster.kubectl("-n", "far", "label", "pod", "far", f"y={i}", "--overwrite")
            cluster.kubectl("delete", "networkpolicy", f"more-{i % 3}")
        agent = role_process(cluster, "agent", f"/{cluster.name}-node-1/")
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: role_process(cluster, "agent", f"/{cluster.name}-node-1/") != agent)
        apply(cluster, shell_pod("late", SERVE, node=f"{cluster.name}-node-1", labels={"app": "web"}))
        world.pods["late"] = wait_ready(cluster, "late")[0]
    finally:
        through, lost = ended(good)
        leaked, kept = ended(bad)
    assert through > 50 and lost == 0
    assert kept > 500 and leaked == 0
    # A pod that starts under a policy is never open.
    assert not world.open("far", world.address("late"), patience="0.5") and world.open("other", world.address("late"))
    world.clear()


def test_policies_outlive_masters_and_agents(world):
    cluster, node = world.cluster, f"{world.cluster.name}-node-1"
    apply(cluster, policy("guard", {"app": "web"}, ingress=[{"from": [labelled(app="client")]}]))
    world.settled("far", "web", False)
    file = f"{cluster.data}/clusters/{cluster.name}/nodes/{node}/var/policies.jsonl"
    eventually(lambda: world.address("other") in open(file).read())
    cluster.dhow("machine", "stop", f"{cluster.name}-master-1")
    try:
        assert not world.open("far", world.address("web"), patience="0.3")
        agent = role_process(cluster, "agent", f"/{node}/")
        # As if the machine had been switched off: nothing is left but the disk.
        run(["nsenter", f"--net=/run/dhow/{cluster.name}/{node}.netns", "--", "nft", "delete", "table", "ip", "dhow_policies"])
        assert world.open("far", world.address("web"))
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: role_process(cluster, "agent", f"/{node}/") != agent)
        eventually(lambda: not world.open("far", world.address("web"), patience="0.3"))
        assert world.open("other", world.address("web")) and world.open("near", world.address("web"))
    finally:
        cluster.dhow("machine", "start", f"{cluster.name}-master-1")
    eventually(lambda: cluster.kubectl("get", "--raw", "/readyz", check=False).stdout.strip() == "ok")
    cluster.kubectl("delete", "networkpolicy", "guard")
    world.settled("far", "web", True)
