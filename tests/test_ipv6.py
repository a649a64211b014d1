"""Clusters whose first or only family is IPv6: pods, services, names, the API, load balancers, Ingresses, policies, kubectl's streams."""

import ipaddress
import json
import os
import re
import signal
import subprocess

import pytest
from harness import Cluster, eventually, run
from hosts import Network, join_command
from pods import HELLO, apply, endpoint_addresses, in_pod, in_pod_network, publish_shell, role_process, shell_pod, wait_ready
from test_dual_stack import BOTH, SERVE, answers, curl, from_pod, ips, service, url
from test_join import WEB

PODS, SERVICES, DNS = "fd00:10:244::/56", "fd00:10:96::/108", "fd00:10:96::a"
PROBES = {"readinessProbe": {"httpGet": {"path": "/name", "port": 8080}, "periodSeconds": 1},
          "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}


def inside(address, network):
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def internal_ips(node):
    return [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]


def dig(pod, *question, server=DNS):
    return sorted(in_pod_network(pod, "dig", f"@{server}", "+short", "+tries=1", *question).stdout.split())


class World:
    """Two nodes in two zones; on each a pod that serves and one that asks."""

    def __init__(self, cluster):
        self.cluster = cluster
        publish_shell(cluster)
        self.nodes = [f"{cluster.name}-node-{i}" for i in (1, 2)]
        asks = "env | grep KUBERNETES_; cat /etc/resolv.conf /etc/hosts; exec sleep 100000"
        apply(cluster, service("web"), service("bare", clusterIP="None"), service("door", "PreferDualStack", type="NodePort"),
              service("front", type="LoadBalancer"),
              *[shell_pod(f"web-{i}", SERVE, node=node, labels={"app": "web"}, container=PROBES) for i, node in enumerate(self.nodes)],
              *[shell_pod(f"ask-{i}", asks, node=node) for i, node in enumerate(self.nodes)],
              shell_pod("on-host", "exec sleep 100000", node=self.nodes[0], hostNetwork=True))
        names = ["web-0", "web-1", "ask-0", "ask-1", "on-host"]
        self.pods = dict(zip(names, wait_ready(cluster, *names)))
        eventually(lambda: len(endpoint_addresses(cluster, "web")) == 2)

    def from_machine(self, address, port=80):
        return run(self.cluster.net.inside(curl(address, port)), check=False)


@pytest.fixture(scope="module")
def world():
    cluster = Cluster(nodes=2, zones=2)
    try:
        cluster.up("--ip-families", "IPv6")
        yield World(cluster)
    finally:
        cluster.destroy()


def test_pods_nodes_and_services_have_ipv6_alone(world):
    cluster = world.cluster
    nodes = {node["metadata"]["name"]: node for node in cluster.get("nodes")["items"]}
    for node in nodes.values():
        assert node["spec"]["podCIDRs"] == [node["spec"]["podCIDR"]] and ipaddress.ip_network(node["spec"]["podCIDR"]).prefixlen == 64
        assert len(internal_ips(node)) == 1 and internal_ips(node)[0].startswith("fd00:10:89:")
    for name, pod in world.pods.items():
        node = nodes[pod["spec"]["nodeName"]]
        assert ips(pod) == [pod["status"]["podIP"]] and [h["ip"] for h in pod["status"]["hostIPs"]] == [pod["status"]["hostIP"]] == internal_ips(node)
        assert ips(pod) == internal_ips(node) if name == "on-host" else inside(ips(pod)[0], node["spec"]["podCIDR"])
    api = cluster.get("service", "kubernetes")["spec"]
    assert api["clusterIPs"] == ["fd00:10:96::1"] and api["ipFamilies"] == ["IPv6"]
    door = cluster.get("service", "door")["spec"]
    assert door["ipFamilies"] == ["IPv6"] and inside(door["clusterIP"], SERVICES), "it would rather have two"
    said = cluster.kubectl("logs", "ask-0").stdout
    assert "KUBERNETES_SERVICE_HOST=fd00:10:96::1\n" in said and "KUBERNETES_PORT=tcp://[fd00:10:96::1]:443\n" in said
    assert f"nameserver {DNS}\n" in said and said.count("nameserver") == 1 and f"{ips(world.pods['ask-0'])[0]}\task-0\n" in said
    for broken, text in ((service("x", families=["IPv4"]), "not configured on this cluster"),
                         (service("x", "RequireDualStack"), "this cluster is not configured for dual-stack services")):
        refused = run(cluster.kubectl_command("apply", "-f", "-"), check=False, input=json.dumps(broken))
        assert refused.returncode == 1 and text in refused.stderr, refused.stderr
    other = cluster.dhow("up", "--nodes", "2", "--zones", "2", "--dual-stack", check=False)
    assert other.returncode == 1 and "has addresses of IPv6, and a cluster's families never change" in other.stderr
    wrong = run(cluster.on_machine("up", "--name", "x", "--data", cluster.data, "--ip-families", "IPv6,ipv4"), check=False)
    assert wrong.returncode == 1 and "--ip-families IPv6,ipv4: IPv4, IPv6, IPv4,IPv6 or IPv6,IPv4" in wrong.stderr


def test_services_answer_everywhere(world):
    cluster = world.cluster
    web, door = (cluster.get("service", name)["spec"] for name in ("web", "door"))
    for i in (0, 1):
        ask = world.pods[f"ask-{i}"]
        assert answers(from_pod(ask, web["clusterIP"])) == BOTH
        for target in sorted(BOTH):
            assert answers(from_pod(ask, ips(world.pods[target])[0], 8080), 1) == {target}
    assert answers(from_pod(world.pods["web-0"], web["clusterIP"])) == BOTH, "itself among them"
    port = door["ports"][0]["nodePort"]
    for node in cluster.get("nodes")["items"]:
        assert answers(lambda: world.from_machine(internal_ips(node)[0], port)) == BOTH
    given = eventually(lambda: cluster.get("service", "front")["status"]["loadBalancer"].get("ingress"))
    assert len(given) == 1 and inside(given[0]["ip"], "fd00:10:89::1:0/112")
    eventually(lambda: answers(lambda: world.from_machine(given[0]["ip"])) == BOTH)
    machine = world.cluster.net
    run(machine.inside(["ip", "-6", "address", "add", "2001:db8::1/128", "dev", "lo"]))
    assert in_pod(world.pods["ask-0"], "ping", "-6", "-c", "1", "-W", "3", "2001:db8::1", check=False).returncode == 0, "the way out"


def test_names_have_aaaa_and_ptr_and_lead_to_the_api(world):
    cluster, ask = world.cluster, world.pods["ask-1"]
    address, web = cluster.get("service", "web")["spec"]["clusterIP"], "web.default.svc.cluster.local"
    assert dig(ask, web, "AAAA") == [address] and dig(ask, web, "A") == [] and dig(ask, web, "AAAA", "+tcp") == [address]
    assert dig(ask, "-x", address) == [web + "."]
    assert dig(ask, "bare.default.svc.cluster.local", "AAAA") == sorted(ips(world.pods[name])[0] for name in BOTH)
    assert dig(ask, "kubernetes.default.svc.cluster.local", "AAAA") == ["fd00:10:96::1"]
    assert answers(lambda: in_pod(ask, "wget", "-q", "-O", "-", "http://web/name")) == BOTH, "by the pod's own resolver"
    # As a client in a pod does: its token, the authority that it was given, the API's name and its address.
    account = "/var/run/secrets/kubernetes.io/serviceaccount/"
    token, authority = (cluster.kubectl("exec", "ask-1", "--", "cat", account + name).stdout for name in ("token", "ca.crt"))
    path = cluster.data + "/pod-ca.crt"
    with open(path, "w") as f:
        f.write(authority)
    for host in ("[fd00:10:96::1]", "kubernetes.default.svc"):
        told = in_pod_network(ask, "curl", "-sS", "-m", "5", "--cacert", path, "--resolve", "kubernetes.default.svc:443:[fd00:10:96::1]",
                              "-H", f"Authorization: Bearer {token}", f"https://{host}:443/api/v1/namespaces/default/pods", check=False)
        assert "system:serviceaccount:default:default" in told.stdout, told.stderr + told.stdout


def test_kubectl_reaches_into_pods(world):
    cluster = world.cluster
    assert cluster.kubectl("exec", "web-1", "--", "wget", "-q", "-O", "-", "http://[::1]:8080/name").stdout == "web-1\n"
    assert ips(world.pods["web-0"])[0] in cluster.kubectl("get", "pods", "-o", "wide").stdout
    process = subprocess.Popen(cluster.kubectl_command("port-forward", "pod/web-0", ":8080"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = process.stdout.readline().split("->")[0].split(":")[-1].strip()
        assert world.from_machine("127.0.0.1", port).stdout == "web-0\n"
    finally:
        process.kill()
        process.communicate()
    # A probe that fails is told with the address.
    apply(cluster, shell_pod("sick", SERVE, container={"readinessProbe": {"httpGet": {"path": "/", "port": 8081}, "periodSeconds": 1}}))
    eventually(lambda: re.search(r'Readiness probe failed: Get "http://\[fd00:10:244:[0-9a-f:]+\]:8081/"', cluster.kubectl("describe", "pod", "sick").stdout))
    cluster.kubectl("delete", "pod", "sick", "--wait=false")


def test_ingresses_answer(world):
    cluster = world.cluster
    apply(cluster, {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop", "annotations": {
        "nginx.ingress.kubernetes.io/affinity": "cookie"}},
        "spec": {"rules": [{"host": "shop.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {
            "service": {"name": "web", "port": {"number": 80}}}}]}}]}})
    address = eventually(lambda: cluster.get("ingress", "shop")["status"]["loadBalancer"].get("ingress", [{}])[0].get("ip"))
    assert ":" in address and cluster.get("service", "dhow-ingress", "-n", "kube-system")["spec"]["ipFamilies"] == ["IPv6"]

    def ask(at):
        return run(cluster.net.inside(["curl", "-s", "-m", "3", "-H", "Host: shop.test", url(at)]), check=False).stdout.strip()

    for at in [address, *[internal_ips(node)[0] for node in cluster.get("nodes")["items"]]]:
        eventually(lambda: {ask(at) for _ in range(10)} == BOTH)
    slices = cluster.get("endpointslices", "-n", "kube-system", "-l", "kubernetes.io/service-name=dhow-ingress")["items"]
    assert [(one["addressType"], len(one["endpoints"])) for one in slices] == [("IPv6", 2)]
    # Users are counted at the pods that serve them.
    eventually(lambda: BOTH <= {line.split()[0] for line in cluster.dhow("sessions").stdout.splitlines()[1:]}, every=0.5)
    cluster.kubectl("delete", "ingress", "shop")


def test_policies_hold(world):
    cluster, web = world.cluster, world.pods["web-0"]

    def settled(asker, allowed):
        eventually(lambda: (from_pod(world.pods[asker], ips(web)[0], 8080, "0.5")().returncode == 0) == allowed)

    def policy(**spec):
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "guard"},
                "spec": {"podSelector": {"matchLabels": {"app": "web"}}, **spec}}

    apply(cluster, policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "ask-1"}}}]}]))
    settled("ask-0", False)
    settled("ask-1", True)
    eventually(lambda: cluster.get("pod", "web-0")["status"]["containerStatuses"][0]["ready"])  # its node's probes reach it
    told = cluster.dhow("policy", "explain", "ask-0", "web-0", "--port", "8080", check=False)
    assert told.returncode == 1 and ips(web)[0] in told.stdout, told.stdout
    apply(cluster, policy(ingress=[{"from": [{"ipBlock": {"cidr": PODS, "except": [ips(world.pods["ask-1"])[0] + "/128"]}}]}]))
    settled("ask-0", True)
    settled("ask-1", False)
    cluster.kubectl("delete", "networkpolicy", "guard")
    settled("ask-1", True)


def test_pods_keep_their_addresses_when_the_agent_dies(world):
    cluster = world.cluster
    pid = role_process(cluster, "agent", world.nodes[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: role_process(cluster, "agent", world.nodes[0]) != pid)
    apply(cluster, shell_pod("late", SERVE, node=world.nodes[0], labels={"app": "web"}))
    late = wait_ready(cluster, "late")[0]
    assert ips(late)[0] not in [ips(pod)[0] for pod in world.pods.values()]
    eventually(lambda: answers(from_pod(world.pods["ask-1"], cluster.get("service", "web")["spec"]["clusterIP"]), 30) == BOTH | {"late"})
    status = cluster.get("pod", "web-0")["status"]
    assert [e["ip"] for e in status["podIPs"]] == ips(world.pods["web-0"]) and status["containerStatuses"][0]["restartCount"] == 0
    cluster.kubectl("delete", "pod", "late", "--wait=false")


def test_a_zone_that_was_cut_off_is_reached_again(world):
    cluster = world.cluster
    address = cluster.get("service", "front")["status"]["loadBalancer"]["ingress"][0]["ip"]
    cluster.dhow("zone", "cut", "local-east-2")
    cluster.dhow("zone", "restore", "local-east-2")
    eventually(lambda: answers(lambda: world.from_machine(address)) == BOTH)
    eventually(lambda: answers(from_pod(world.pods["ask-0"], ips(world.pods["web-1"])[0], 8080), 1) == {"web-1"})


def test_machines_that_are_made_later_have_ipv6(world):
    cluster = world.cluster
    cluster.kubectl("scale", "nodepool", "default", "--replicas=3")
    name = eventually(lambda: next((n["metadata"]["name"] for n in cluster.get("nodes")["items"] if n["metadata"]["name"] not in world.nodes), None))
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=20s", "node/" + name)
    apply(cluster, shell_pod("new", SERVE, node=name))
    new = wait_ready(cluster, "new")[0]
    eventually(lambda: answers(from_pod(world.pods["ask-1"], ips(new)[0], 8080), 1) == {"new"})
    cluster.kubectl("delete", "pod", "new")
    cluster.kubectl("scale", "nodepool", "default", "--replicas=2")


def test_ipv6_comes_first_of_two():
    cluster = Cluster(nodes=1, zones=1)
    try:
        shown = cluster.up("--ip-families", "IPv6,IPv4", "--deploy", HELLO).stdout
        application = re.search(r"application +(http://\[\S+\]/)\n", shown)[1]
        assert "hello from pod" in run(cluster.net.inside(["curl", "-sf", "-m", "3", application])).stdout
        publish_shell(cluster)
        apply(cluster, service("web"), service("both", "PreferDualStack"), service("front", "RequireDualStack", type="LoadBalancer"),
              shell_pod("web", SERVE, labels={"app": "web"}), shell_pod("ask", "cat /etc/resolv.conf; exec sleep 100000"))
        web, ask = wait_ready(cluster, "web", "ask")

        def first_is_six(addresses):
            assert [":" in address for address in addresses] == [True, False], addresses
            return addresses

        node = cluster.get("nodes")["items"][0]
        for addresses in (ips(web), [h["ip"] for h in web["status"]["hostIPs"]], internal_ips(node)):
            first_is_six(addresses)
        first_is_six([cidr.split("/")[0] for cidr in node["spec"]["podCIDRs"]])
        assert web["status"]["podIP"] == ips(web)[0] and node["spec"]["podCIDR"] == node["spec"]["podCIDRs"][0]
        assert cluster.get("service", "kubernetes")["spec"]["clusterIP"] == "fd00:10:96::1"
        specs = {name: cluster.get("service", name)["spec"] for name in ("web", "both")}
        assert specs["web"]["ipFamilies"] == ["IPv6"] and specs["both"]["ipFamilies"] == ["IPv6", "IPv4"]
        addresses = first_is_six(specs["both"]["clusterIPs"])
        for address in [*addresses, *specs["web"]["clusterIPs"]]:
            eventually(lambda: answers(from_pod(ask, address), 1) == {"web"})
        assert f"nameserver {DNS}\n" in cluster.kubectl("logs", "ask").stdout
        for server in (DNS, "10.96.0.10"):
            name = "both.default.svc.cluster.local"
            assert dig(ask, name, "AAAA", server=server) == [addresses[0]] and dig(ask, name, "A", server=server) == [addresses[1]]
        for entry in first_is_six([e["ip"] for e in eventually(lambda: cluster.get("service", "front")["status"]["loadBalancer"].get("ingress"))]):
            eventually(lambda: answers(lambda: run(cluster.net.inside(curl(entry)), check=False), 1) == {"web"})
        # An agent that starts anew knows both addresses of a pod by its first one.
        name = node["metadata"]["name"]
        pid = role_process(cluster, "agent", name)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: role_process(cluster, "agent", name) != pid)
        apply(cluster, shell_pod("late", SERVE))
        late = wait_ready(cluster, "late")[0]
        assert not set(first_is_six(ips(late))) & {*ips(web), *ips(ask)}
    finally:
        cluster.destroy()


def test_separate_hosts_may_have_ipv6_alone():
    """Two hosts behind a router of IPv6: what the API, agents, the tunnel and pods do needs no IPv4; it goes as it came."""
    network = Network(ipv6=True)
    try:
        a, b = network.host("host-a", 1), network.host("host-b", 2)
        for host in (a, b):
            host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")
        for args, said in ((["--pod-range", PODS], "give both ranges of the same families, in the same order"),
                           (["--pod-range", "fd00::/64", "--service-range", SERVICES], "give an IPv6 range, from /32 to /60"),
                           (["--pod-range", PODS + ",fd01::/56", "--service-range", SERVICES], "give one range, or one of IPv4 and one of IPv6"),
                           ([], "this machine has no default route that would tell")):
            refused = a.dhow("server", *args, check=False)
            assert refused.returncode == 1 and said in refused.stderr, refused.stderr
        shown = a.start("server", "--zone", "east-1", "--node", "--store", "etcd", "--pod-range", PODS, "--service-range", SERVICES, shows="dhow join")
        server, token, pin = join_command(shown)
        assert server == f"https://[{a.address}]:6443"
        b.start("join", server, "--token", token, "--ca-hash", pin, "--zone", "east-2", shows="is node")
        a.kubectl("apply", "-f", "-", input=json.dumps(WEB))
        a.kubectl("apply", "-f", "-", input=json.dumps(service("web", ports=[{"port": 80, "targetPort": 8080}])))
        a.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
        pods = sorted(a.get("pods")["items"], key=lambda pod: pod["spec"]["nodeName"])
        assert [pod["status"]["hostIP"] for pod in pods] == [a.address, b.address]
        slices = a.get("endpointslices", "-l", "kubernetes.io/service-name=kubernetes")["items"]
        assert [(s["addressType"], s["endpoints"][0]["addresses"]) for s in slices] == [("IPv6", [a.address])]
        web = a.get("service", "web")["spec"]["clusterIP"]
        for pod, other in (pods, reversed(pods)):
            for at, who in ((f"[{ips(other)[0]}]:8080", {other["spec"]["nodeName"]}), (f"[{web}]", {"host-a", "host-b"})):
                def ask():
                    return in_pod_network(pod, "curl", "-s", "-m", "3", f"http://{at}/", check=False)
                eventually(lambda: {re.search(r"on node (\S+)", ask().stdout)[1] for _ in range(12)} == who)
            told = in_pod_network(pod, "curl", "-sk", "-m", "3", "https://[fd00:10:96::1]/version", check=False).stdout
            assert "gitVersion" in told, told
            assert dig(pod, "web.default.svc.cluster.local", "AAAA") == [web]
        assert "on node host-b" in b.run("curl", "-s", "-m", "3", f"http://[{ips(pods[1])[0]}]:8080/").stdout
        for host in (b, a):
            host.dhow("leave", "--force", timeout=120)
            left = host.run("sh", "-c", "ip -6 route; ip -6 address; ip link; cat /proc/sys/net/ipv6/conf/all/forwarding").stdout
            assert "fd00" not in left and "dhow" not in left and left.endswith("0\n"), left
    finally:
        network.destroy()
