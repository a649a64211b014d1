"""A cluster of two families: IPv6 for pods, services, names, load balancers and policies, beside IPv4."""

import ipaddress
import json
import os
import signal
import subprocess
import sys

import pytest
from harness import Cluster, eventually, run
from hosts import Network, join_command
from pods import apply, endpoint_addresses, in_pod, in_pod_network, main_process, publish_shell, role_process, shell_pod, wait_ready
from test_join import WEB

# What answers is told by the host's name.
SERVE = "mkdir /www && hostname > /www/name && exec httpd -f -p 8080 -h /www"
DNS, DNS6 = "10.96.0.10", "fd00:10:96::a"
POLICIES = {"single": None, "prefer": "PreferDualStack", "require": "RequireDualStack"}


def service(name, policy=None, families=None, **spec):
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}
    if policy:
        spec["ipFamilyPolicy"] = policy
    if families:
        spec["ipFamilies"] = families
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


class World:
    """Two nodes in two zones; on each a pod that serves and one that asks."""

    def __init__(self, cluster):
        self.cluster = cluster
        publish_shell(cluster)
        self.nodes = [f"{cluster.name}-node-{i}" for i in (1, 2)]
        apply(cluster, *[service(name, policy) for name, policy in POLICIES.items()],
              service("six", families=["IPv6"]), service("door", "RequireDualStack", type="NodePort"),
              service("bare", "RequireDualStack", clusterIP="None"),
              *[shell_pod(f"web-{i}", SERVE, node=node, labels={"app": "web"}) for i, node in enumerate(self.nodes)],
              *[shell_pod(f"ask-{i}", "sleep 100000", node=node) for i, node in enumerate(self.nodes)])
        names = ["web-0", "web-1", "ask-0", "ask-1"]
        self.pods = dict(zip(names, wait_ready(cluster, *names)))
        eventually(lambda: len(endpoint_addresses(cluster, "require")) == 4)

    def on_node(self, i, *command):
        return run(["nsenter", f"--net=/run/dhow/{self.cluster.name}/{self.nodes[i]}.netns", "--", *command], check=False)

    def addresses(self, name):
        return self.cluster.get("service", name)["spec"]["clusterIPs"]


def ips(pod):
    return [entry["ip"] for entry in pod["status"]["podIPs"]]


def url(address, port=80):
    return f"http://[{address}]:{port}/name" if ":" in address else f"http://{address}:{port}/name"


def curl(address, port=80, patience="3"):
    return ["curl", "-s", "-m", patience, url(address, port)]


def answers(ask, times=12):
    """Who has answered when asked again and again; "" for nobody."""
    return {ask().stdout.strip() for _ in range(times)}


def from_pod(pod, address, port=80, patience="3"):
    return lambda: in_pod_network(pod, *curl(address, port, patience), check=False)


BOTH = {"web-0", "web-1"}
# Answers every question for an address with the same one.
NAMESERVER = """
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.bind(('172.31.1.1', 53))
while True:
    q, peer = s.recvfrom(512)
    end = q.index(0, 12) + 5
    s.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + q[12:end] + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4\\xcb\\0\\x71\\x09', peer)
"""


@pytest.fixture(scope="module")
def world():
    cluster = Cluster(nodes=2, zones=2)
    try:
        cluster.up("--dual-stack")
        yield World(cluster)
    finally:
        cluster.destroy()


def test_pods_and_nodes_tell_both_addresses(world):
    cluster = world.cluster
    for name, pod in world.pods.items():
        first, second = ips(pod)
        assert first == pod["status"]["podIP"] and ipaddress.ip_address(second) in ipaddress.ip_network("fd00:10:244::/56"), name
        assert [entry["ip"] for entry in pod["status"]["hostIPs"]][1].startswith("fd00:10:89:")
    for node in cluster.get("nodes")["items"]:
        four, six = node["spec"]["podCIDRs"]
        assert four == node["spec"]["podCIDR"] and six.startswith("fd00:10:244:") and six.endswith("/64")
        assert len([a for a in node["status"]["addresses"] if a["type"] == "InternalIP"]) == 2
    apply(cluster, shell_pod("told", "echo $IPS $HOSTS; cat /etc/hosts; sleep 100000", container={"env": [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in (("IPS", "status.podIPs"), ("HOSTS", "status.hostIPs"))]}))
    told = wait_ready(cluster, "told")[0]
    said = cluster.kubectl("logs", "told").stdout
    assert ",".join(ips(told)) in said and all(f"{ip}\ttold" in said for ip in ips(told))
    # Pods of one node, of two nodes in two zones, and the node itself.
    for asker in ("ask-0", "ask-1"):
        for web in ("web-0", "web-1"):
            assert answers(from_pod(world.pods[asker], ips(world.pods[web])[1], 8080), 1) == {web}
    assert world.on_node(0, *curl(ips(world.pods["web-1"])[1], 8080)).stdout.strip() == "web-1"
    cluster.kubectl("delete", "pod", "told", "--wait=false")


def test_services_have_the_families_that_they_ask_for(world):
    cluster = world.cluster
    families = {name: cluster.get("service", name)["spec"]["ipFamilies"] for name in ("kubernetes", "single", "prefer", "require", "six")}
    assert families == {"kubernetes": ["IPv4"], "single": ["IPv4"], "prefer": ["IPv4", "IPv6"], "require": ["IPv4", "IPv6"], "six": ["IPv6"]}
    types = sorted(s["addressType"] for s in cluster.get("endpointslices", "-l", "kubernetes.io/service-name=require")["items"])
    assert types == ["IPv4", "IPv6"]
    assert world.addresses("six")[0] in cluster.kubectl("get", "service", "six").stdout
    described = cluster.kubectl("describe", "service", "require").stdout
    assert "IP Families:" in described and "IPv4,IPv6" in described and ",".join(world.addresses("require")) in described
    for name in ("prefer", "require", "six"):
        for address in world.addresses(name):
            for i in (0, 1):
                assert answers(from_pod(world.pods[f"ask-{i}"], address)) == BOTH
            assert answers(lambda: world.on_node(0, *curl(address))) == BOTH
            assert answers(from_pod(world.pods["web-0"], address)) == BOTH, "itself among them"
    for broken, text in ((service("x", families=["IPv4", "IPv6"]), "must be 'RequireDualStack' or 'PreferDualStack'"),
                         (service("x", clusterIP="fd00:1::1"), "the provided IP is not in the valid range")):
        refused = run(cluster.kubectl_command("apply", "-f", "-"), check=False, input=json.dumps(broken))
        assert refused.returncode == 1 and text in refused.stderr, refused.stderr
    # A second family comes and goes.
    before = world.addresses("single")
    cluster.kubectl("patch", "service", "single", "-p", '{"spec":{"ipFamilyPolicy":"PreferDualStack"}}')
    first, second = world.addresses("single")
    assert [first] == before
    eventually(lambda: answers(from_pod(world.pods["ask-0"], second)) == BOTH)
    refused = run(cluster.kubectl_command("patch", "service", "single", "--type=merge", "-p", json.dumps({"spec": {"clusterIPs": before}})), check=False)
    assert "must be 'SingleStack' to release the secondary cluster IP" in refused.stderr
    cluster.kubectl("patch", "service", "single", "-p", '{"spec":{"ipFamilyPolicy":"SingleStack"}}')
    assert world.addresses("single") == before
    eventually(lambda: from_pod(world.pods["ask-0"], second, patience="1")().returncode == 7)  # refused at once
    assert answers(from_pod(world.pods["ask-0"], first)) == BOTH


def test_node_ports_and_load_balancers_answer_by_ipv6(world):
    cluster = world.cluster
    port = cluster.get("service", "door")["spec"]["ports"][0]["nodePort"]
    for node in cluster.get("nodes")["items"]:
        six = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP" and ":" in a["address"])
        assert answers(lambda: run(cluster.net.inside(curl(six, port)), check=False)) == BOTH, "from the machine"
        assert answers(from_pod(world.pods["ask-0"], six, port)) == BOTH
    apply(cluster, service("front", "PreferDualStack", type="LoadBalancer"))
    given = eventually(lambda: cluster.get("service", "front")["status"]["loadBalancer"].get("ingress"))
    assert [":" in entry["ip"] for entry in given] == [False, True]
    for entry in given:
        eventually(lambda: answers(lambda: run(cluster.net.inside(curl(entry["ip"])), check=False)) == BOTH)
    cluster.kubectl("patch", "service", "front", "-p", '{"spec":{"ipFamilyPolicy":"SingleStack"}}')
    eventually(lambda: len(cluster.get("service", "front")["status"]["loadBalancer"]["ingress"]) == 1)
    cluster.kubectl("delete", "service", "front")


def test_ingresses_and_gateways_answer_by_ipv6(world):
    cluster, nginx = world.cluster, "nginx.ingress.kubernetes.io/"

    def ingress(name, backend, **annotations):
        return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "annotations": {nginx + k.replace("_", "-"): v for k, v in annotations.items()}},
                "spec": {"rules": [{"host": name + ".test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": backend, "port": {"number": 80}}}}]}}]}}

    def ask(address, host, *args):
        return run(cluster.net.inside(["curl", "-s", "-m", "3", "-H", f"Host: {host}.test", "-w", "%{http_code}", *args, url(address)]), check=False).stdout.split()

    def served(addresses, host):
        for address in addresses:
            eventually(lambda: {tuple(ask(address, host)) for _ in range(10)} == {(name, "200") for name in BOTH})

    apply(cluster, ingress("both", "require"), ingress("newer", "six"), ingress("few", "six", limit_rps="1"),
          {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gate"},
           "spec": {"gatewayClassName": "dhow", "listeners": [{"name": "web", "port": 8000, "protocol": "HTTP"}]}},
          {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "gate"},
           "spec": {"parentRefs": [{"name": "gate"}], "rules": [{"backendRefs": [{"name": "six", "port": 80}]}]}})
    addresses = [entry["ip"] for entry in eventually(lambda: (lambda all: len(all) == 2 and all)(cluster.get("ingress", "newer")["status"]["loadBalancer"].get("ingress", [])))]
    assert [":" in address for address in addresses] == [False, True]
    assert ",".join(addresses) in cluster.kubectl("get", "ingress", "newer").stdout
    assert cluster.get("service", "dhow-ingress", "-n", "kube-system")["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    edge_slices = lambda: cluster.get("endpointslices", "-n", "kube-system", "-l", "kubernetes.io/service-name=dhow-ingress")["items"]  # noqa: E731
    eventually(lambda: sorted((one["addressType"], len(one["endpoints"])) for one in edge_slices()) == [("IPv4", 2), ("IPv6", 2)])
    slices = edge_slices()
    nodes = [a["address"] for node in cluster.get("nodes")["items"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    for host in ("both", "newer"):
        served([*addresses, *nodes], host)
    # A gateway's own addresses, as its status tells them.
    gates = eventually(lambda: (lambda all: len(all) == 2 and [one["value"] for one in all])(cluster.get("gateway", "gate").get("status", {}).get("addresses", [])))
    for gate in gates:
        eventually(lambda: {run(cluster.net.inside(curl(gate, 8000)), check=False).stdout.strip() for _ in range(10)} == BOTH)
    # Who asks is known by its address: in the log, by what counts, by what lets in.
    name, six = addresses[1], nodes[1]
    ask(name, "newer", "-A", "newcomer")

    def logged():
        logs = [cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/logs/ingress/access.log?tailLines=200", check=False).stdout for node in world.nodes]
        return next((line for log in logs for line in map(json.loads, log.splitlines()) if line["user_agent"] == "newcomer"), None)

    line = eventually(logged)
    assert ":" in line["client"] and line["service"] == "six" and line["server"] in [f"[{ips(world.pods[web])[1]}]:8080" for web in BOTH], line
    client = eventually(lambda: run(cluster.net.inside(["ip", "-6", "route", "get", six])).stdout.split(" src ")[1].split()[0])
    apply(cluster, ingress("inside", "six", whitelist_source_range=client), ingress("outside", "six", denylist_source_range=client))
    eventually(lambda: ask(six, "inside")[-1:] == ["200"] and ask(six, "outside")[-1:] == ["403"])
    assert ask(nodes[0], "inside")[-1] == "403" and ask(nodes[0], "outside")[-1] == "200"
    assert {ask(six, "few")[-1] for _ in range(40)} == {"200", "503"} and ask(nodes[0], "few")[-1] == "200"
    # Pods come and go without a reload.
    cluster.kubectl("label", "pod", "web-0", "app-")
    for address in addresses:
        eventually(lambda: {tuple(ask(address, "newer")) for _ in range(10)} == {("web-1", "200")})
    cluster.kubectl("label", "pod", "web-0", "app=web")
    served(addresses, "newer")
    assert edge_slices() == slices, "nobody writes what is there already"
    cluster.kubectl("delete", "ingress,gateway,httproute", "--all")
    eventually(lambda: not edge_slices())
    eventually(lambda: not [s for s in cluster.get("services", "-n", "kube-system")["items"] if s["metadata"]["name"].startswith("dhow-gateway-")])


def test_names_have_aaaa_and_ptr(world):
    def dig(*question, server=DNS):
        return sorted(in_pod_network(world.pods["ask-1"], "dig", f"@{server}", "+short", "+tries=1", *question).stdout.split())

    four, six = world.addresses("require")
    name = "require.default.svc.cluster.local"
    assert dig(name, "A") == [four] and dig(name, "AAAA") == [six]
    assert dig("six.default.svc.cluster.local", "A") == [] and dig("six.default.svc.cluster.local", "AAAA") == world.addresses("six")
    assert dig("-x", six) == [name + "."]
    # The same by IPv6, where pods' resolv.conf names IPv4 as kubeadm's does.
    for more in ([], ["+tcp"]):
        assert dig(name, "A", *more, server=DNS6) == [four] and dig(name, "AAAA", *more, server=DNS6) == [six]
    # A pod is known by both its addresses: its search path is resolved for it.
    for server in (DNS, DNS6):
        assert dig("require.default.default.svc.cluster.local", "A", server=server) == sorted([four, name + "."])
    webs = [ips(world.pods[w]) for w in sorted(BOTH)]
    eventually(lambda: dig("bare.default.svc.cluster.local", "AAAA") == sorted(six for _, six in webs))
    assert dig("bare.default.svc.cluster.local", "A") == sorted(four for four, _ in webs)
    assert answers(lambda: in_pod(world.pods["ask-0"], "wget", "-q", "-O", "-", "http://six/name")) == BOTH, "by the pod's own resolver"


def test_ipv6_leaves_the_cluster_by_its_node(world):
    machine = world.cluster.net
    run(machine.inside(["ip", "-6", "address", "add", "2001:db8::1/128", "dev", "lo"]))
    reached = in_pod(world.pods["ask-0"], "ping", "-6", "-c", "1", "-W", "3", "2001:db8::1", check=False)
    assert reached.returncode == 0, reached.stdout


def test_policies_hold_for_ipv6(world):
    cluster = world.cluster
    web = ips(world.pods["web-0"])

    def settled(asker, allowed):
        for address in web:
            eventually(lambda: (from_pod(world.pods[asker], address, 8080, "0.5")().returncode == 0) == allowed)

    def policy(name, **spec):
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
                "spec": {"podSelector": {"matchLabels": {"app": "web"}}, **spec}}

    apply(cluster, policy("guard", policyTypes=["Ingress"]))
    settled("ask-0", False)
    settled("ask-1", False)
    assert world.on_node(0, *curl(web[1], 8080)).returncode == 0, "its node reaches it"
    apply(cluster, policy("guard", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "ask-1"}}}]}]))
    settled("ask-1", True)
    settled("ask-0", False)
    assert "web-0" in answers(from_pod(world.pods["ask-1"], world.addresses("six")[0])), "by the service, too"
    # By address: of IPv6 alone.
    out = ips(world.pods["ask-1"])[1] + "/128"
    apply(cluster, policy("guard", ingress=[{"from": [{"ipBlock": {"cidr": "fd00:10:244::/56", "except": [out]}}]}]))
    six = lambda asker: from_pod(world.pods[asker], web[1], 8080, "0.5")().returncode == 0  # noqa: E731
    eventually(lambda: six("ask-0") and not six("ask-1"))
    assert from_pod(world.pods["ask-0"], web[0], 8080, "0.5")().returncode != 0, "IPv4 is not in it"
    told = cluster.dhow("policy", "explain", "ask-0", "web-0", "--port", "8080", check=False)
    verdicts = [line.split(":")[0] for line in told.stdout.splitlines() if not line.startswith(" ")]
    assert verdicts == ["denied", "allowed"] and all(ip in told.stdout for ip in web) and told.returncode == 1, told.stdout
    cluster.kubectl("delete", "networkpolicy", "guard")
    settled("ask-0", True)
    # Who may send nowhere has a way to be asked.
    apply(cluster, {**policy("silent", policyTypes=["Egress"])})
    eventually(lambda: from_pod(world.pods["web-0"], ips(world.pods["web-1"])[1], 8080, "0.5")().returncode != 0)
    for server in (DNS, DNS6):
        assert in_pod_network(world.pods["web-0"], "dig", f"@{server}", "+short", "+tries=1", "six.default.svc.cluster.local", "AAAA").stdout.split() == world.addresses("six")
    settled("ask-1", True)
    cluster.kubectl("delete", "networkpolicy", "silent")


def test_all_of_it_survives_the_agent(world):
    ports = [{"containerPort": 8080, "hostPort": 8095}]
    apply(world.cluster, shell_pod("door", SERVE, node=world.nodes[0], container={"ports": ports}))
    wait_ready(world.cluster, "door")
    own = [a["address"] for a in world.cluster.get("node", world.nodes[0])["status"]["addresses"] if a["type"] == "InternalIP"]

    def by_host_port():
        return [run(world.cluster.net.inside(curl(ip, 8095)), check=False).stdout.strip() for ip in own] == ["door", "door"]

    assert len(own) == 2
    eventually(by_host_port)
    pid = role_process(world.cluster, "agent", world.nodes[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: role_process(world.cluster, "agent", world.nodes[0]) != pid)
    apply(world.cluster, shell_pod("web-2", SERVE, node=world.nodes[0], labels={"app": "web"}))
    fresh = wait_ready(world.cluster, "web-2")[0]
    assert ips(fresh)[1] not in [ips(p)[1] for p in world.pods.values()]
    for address in world.addresses("require"):
        eventually(lambda: answers(from_pod(world.pods["ask-1"], address), 30) == BOTH | {"web-2"})
    status = world.cluster.get("pod", "web-0")["status"]
    assert [e["ip"] for e in status["podIPs"]] == ips(world.pods["web-0"]) and status["containerStatuses"][0]["restartCount"] == 0
    assert by_host_port(), "published by the agent of before"
    world.cluster.kubectl("delete", "pod", "web-2", "door", "--wait=false")
    eventually(lambda: not by_host_port())


def test_separate_hosts_need_no_ipv6_of_their_own():
    """Two hosts behind a router of IPv4: pods' IPv6 goes by the tunnel; what was changed is given back."""
    network = Network()
    servers = []
    try:
        a, b = network.host("host-a", 1), network.host("host-b", 2)
        for host in (a, b):
            host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding; echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
        refused = a.dhow("server", "--pod-range", "10.244.0.0/16,fd00:10:244::/56", check=False)
        assert refused.returncode == 1 and "give both ranges of the same families" in refused.stderr
        shown = a.start("server", "--zone", "east-1", "--node", "--pod-range", "10.244.0.0/16,fd00:10:244::/56",
                        "--service-range", "10.96.0.0/16,fd00:10:96::/108", shows="dhow join")
        server, token, pin = join_command(shown)
        b.start("join", server, "--token", token, "--ca-hash", pin, "--zone", "east-2", shows="is node")
        a.kubectl("apply", "-f", "-", input=json.dumps(WEB))
        a.kubectl("apply", "-f", "-", input=json.dumps(service("web", "RequireDualStack", ports=[{"port": 80, "targetPort": 8090}])))
        eventually(lambda: a.get("deployment", "web")["status"].get("readyReplicas") == 2, timeout=60)
        pods = sorted(a.get("pods")["items"], key=lambda pod: pod["spec"]["nodeName"])
        assert all(len(ips(pod)) == 2 and len(pod["status"]["hostIPs"]) == 1 for pod in pods)
        # The image's server knows IPv4 alone.
        for pod in pods:
            told = f"{network.dir}/{pod['metadata']['name']}"
            os.makedirs(told)
            with open(told + "/name", "w") as f:
                f.write(pod["spec"]["nodeName"])
            servers.append(subprocess.Popen(["nsenter", f"--net=/proc/{main_process(pod)}/ns/net", "--", sys.executable, "-m", "http.server", "8090",
                                             "--bind", "::", "--directory", told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        address = a.get("service", "web")["spec"]["clusterIPs"][1]
        for pod, other in (pods, reversed(pods)):
            eventually(lambda: from_pod(pod, ips(other)[1], 8090)().stdout == other["spec"]["nodeName"])
            eventually(lambda: answers(from_pod(pod, address)) == {"host-a", "host-b"})
        # The host's nameserver becomes another one, as a DHCP client would write it.
        servers.append(subprocess.Popen(network.router.inside([sys.executable, "-c", NAMESERVER])))
        a.run("sh", "-c", "echo nameserver 172.31.1.1 > /etc/resolv.new && mv /etc/resolv.new /etc/resolv.conf")
        on_a = next(pod for pod in a.get("pods")["items"] if pod["spec"]["nodeName"] == "host-a")
        eventually(lambda: "203.0.113.9" in in_pod_network(on_a, "dig", f"@{DNS}", "+short", "+tries=1", "moved.example", check=False).stdout)
        assert b.run("cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra").stdout == "2\n", "routers' advertisements are heard on"
        for host in (b, a):
            host.dhow("leave", "--force", timeout=120)
            left = host.run("sh", "-c", "ip -6 route; ip -6 address; cat /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/eth0/accept_ra").stdout
            assert "fd00" not in left and left.endswith("0\n1\n"), left
            tables = host.run("nft", "list", "tables", check=False).stdout
            assert "table ip6 dhow" not in tables, tables
    finally:
        for process in servers:
            process.kill()
            process.wait()
        network.destroy()
