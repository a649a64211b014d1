"""The cluster's network as pods and the machine use it: pods, services, names, the API from inside, the way out."""

import errno
import json
import os
import subprocess
import sys

import pytest
from harness import eventually, run
from pods import (apply, endpoint_addresses, in_pod, in_pod_network, main_process, publish_shell, shell_pod,
                  wait_ready)

# Answers each connection with the pod's own address.
SERVE = "mkdir -p /tmp/www && hostname -i > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"


@pytest.fixture(scope="module")
def net(cluster):
    """A Kubernetes namespace with one serving pod on each node."""
    publish_shell(cluster)
    cluster.kubectl("create", "namespace", "net")
    nodes = sorted(n["metadata"]["name"] for n in cluster.get("nodes")["items"])
    names = [f"web-{i}" for i in range(len(nodes))]
    apply(cluster, *[shell_pod(name, SERVE, node=node, labels={"app": "web", "pod": name}) for name, node in zip(names, nodes)],
          namespace="net")
    yield wait_ready(cluster, *names, namespace="net")
    cluster.kubectl("delete", "namespace", "net", "--wait=false")


def service(name, selector, ports, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {**({"selector": selector} if selector else {}), "ports": ports, **spec}}


def fetch(pod, address, port=80, path="/"):
    return in_pod_network(pod, "curl", "-sS", "-m", "2", f"http://{address}:{port}{path}", check=False).stdout.strip()


def fetch_from_machine(cluster, url):
    return cluster.curl(url, check=False).stdout.strip()


def looked_up(pod, name):
    """The addresses that the pod's resolver gives for a name."""
    lines = in_pod(pod, "nslookup", name, check=False).stdout.split("Name:", 1)
    return sorted({line.split()[-1] for line in ("Name:" + lines[1]).splitlines() if line.startswith("Address")}) if len(lines) > 1 else []


def ips(pods):
    return sorted(p["status"]["podIP"] for p in pods)


def test_each_pod_reaches_each_other_over_nodes_and_zones(net):
    assert len({p["spec"]["nodeName"] for p in net}) == 3
    for source in net:
        for target in net:
            assert fetch(source, target["status"]["podIP"], 8080) == target["status"]["podIP"]


def test_pods_see_each_others_own_addresses(net):
    """No address translation between pods: the server sees the client's pod address."""
    client, server = net[0], net[1]
    listener = subprocess.Popen(["nsenter", f"--net=/proc/{main_process(server)}/ns/net", "--", sys.executable, "-c",
                                 "import socket\ns = socket.create_server(('', 7000))\nprint('ready', flush=True)\n"
                                 "print(s.accept()[1][0], flush=True)"], stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout.readline() == "ready\n"
        in_pod(client, "nc", "-w", "2", server["status"]["podIP"], "7000", check=False)
        assert listener.stdout.readline().strip() == client["status"]["podIP"]
    finally:
        listener.kill()
        listener.wait()


def test_cluster_ip_picks_among_all_pods_and_has_a_name(cluster, net):
    apply(cluster, service("web", {"app": "web"}, [{"port": 80, "targetPort": 8080}]), namespace="net")
    ip = cluster.get("service", "web", "-n", "net")["spec"]["clusterIP"]
    for pod in net:
        seen = set()

        def all_seen():
            seen.add(fetch(pod, ip))
            return set(ips(net)) <= seen

        eventually(all_seen, every=0)
        # busybox takes names with a dot for whole ones.
        for name in ("web", "web.net.svc.cluster.local"):
            assert looked_up(pod, name) == [ip]
    assert looked_up(net[0], "no-such-service") == []


def test_a_pod_reaches_itself_through_its_service(cluster, net):
    apply(cluster, service("own", {"pod": "web-0"}, [{"port": 80, "targetPort": 8080}]), namespace="net")
    ip = cluster.get("service", "own", "-n", "net")["spec"]["clusterIP"]
    eventually(lambda: fetch(net[0], ip) == net[0]["status"]["podIP"])


def test_node_port_answers_at_each_node(cluster, net):
    apply(cluster, service("ported", {"app": "web"}, [{"port": 80, "targetPort": 8080}], type="NodePort"), namespace="net")
    port = cluster.get("service", "ported", "-n", "net")["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port <= 32767
    for node in cluster.get("nodes")["items"]:
        address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        eventually(lambda: fetch_from_machine(cluster, f"http://{address}:{port}/") in ips(net))
        eventually(lambda: fetch(net[0], address, port) in ips(net))


def test_load_balancer_answers_machine_and_pods(cluster, net):
    apply(cluster, service("balanced", {"app": "web"}, [{"port": 8000, "targetPort": 8080}], type="LoadBalancer"), namespace="net")
    ingress = eventually(lambda: cluster.get("service", "balanced", "-n", "net")["status"].get("loadBalancer", {}).get("ingress"))
    eventually(lambda: fetch_from_machine(cluster, f"http://{ingress[0]['ip']}:8000/") in ips(net))
    for pod in net:
        eventually(lambda: fetch(pod, ingress[0]["ip"], 8000) in ips(net))


def test_headless_service_gives_the_pods_addresses(cluster, net):
    apply(cluster, service("headless", {"app": "web"}, [{"port": 8080, "name": "http"}], clusterIP="None"), namespace="net")
    eventually(lambda: looked_up(net[0], "headless.net.svc.cluster.local") == ips(net))


def test_external_name_is_an_alias(cluster, net):
    apply(cluster, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
                    "spec": {"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}}, namespace="net")
    api = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    eventually(lambda: api in in_pod(net[0], "nslookup", "alias.net.svc.cluster.local", check=False).stdout)


def test_session_affinity_keeps_a_client_at_one_pod(cluster, net):
    apply(cluster, service("sticky", {"app": "web"}, [{"port": 80, "targetPort": 8080}], sessionAffinity="ClientIP"), namespace="net")
    ip = cluster.get("service", "sticky", "-n", "net")["spec"]["clusterIP"]
    eventually(lambda: len(endpoint_addresses(cluster, "sticky", "net")) == 3)
    for pod in net:
        first = eventually(lambda: fetch(pod, ip))
        assert {fetch(pod, ip) for _ in range(12)} == {first}


def test_service_without_endpoints_refuses_at_once(cluster, net):
    apply(cluster, service("empty", {"app": "nobody"}, [{"port": 80, "targetPort": 8080}], type="NodePort"), namespace="net")
    made = cluster.get("service", "empty", "-n", "net")["spec"]

    def connect(address, port):
        return [sys.executable, "-c", f"import socket\ns = socket.socket()\ns.settimeout(2)\nprint(s.connect_ex(('{address}', {port})))"]

    refused = str(errno.ECONNREFUSED)
    eventually(lambda: in_pod_network(net[0], *connect(made["clusterIP"], 80)).stdout.strip() == refused)
    node = next(a["address"] for a in cluster.get("node", net[1]["spec"]["nodeName"])["status"]["addresses"] if a["type"] == "InternalIP")
    port = made["ports"][0]["nodePort"]
    eventually(lambda: in_pod_network(net[0], *connect(node, port)).stdout.strip() == refused)
    eventually(lambda: run(cluster.net.inside(connect(node, port))).stdout.strip() == refused)


def test_local_policy_keeps_to_the_node_and_tells_its_health(cluster, net):
    apply(cluster, service("local", {"pod": "web-0"}, [{"port": 8001, "targetPort": 8080}], type="LoadBalancer",
                           externalTrafficPolicy="Local"), namespace="net")
    made = cluster.get("service", "local", "-n", "net")["spec"]
    node_port, health_port = made["ports"][0]["nodePort"], made["healthCheckNodePort"]

    def address(pod):
        node = cluster.get("node", pod["spec"]["nodeName"])
        return next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")

    def health(pod):
        got = cluster.curl(f"http://{address(pod)}:{health_port}/healthz", "-w", " %{http_code}", check=False).stdout
        body, _, status = got.rpartition(" ")
        return (status, json.loads(body)) if body.strip() else None

    def told(count):
        return {"service": {"namespace": "net", "name": "local"}, "localEndpoints": count, "serviceProxyHealthy": True}

    eventually(lambda: health(net[0]) == ("200", told(1)))
    eventually(lambda: health(net[1]) == ("503", told(0)))
    eventually(lambda: fetch_from_machine(cluster, f"http://{address(net[0])}:{node_port}/") == net[0]["status"]["podIP"])
    assert fetch_from_machine(cluster, f"http://{address(net[1])}:{node_port}/") == ""
    cluster.kubectl("-n", "net", "patch", "service", "local", "-p", json.dumps({"spec": {"type": "ClusterIP"}}))
    eventually(lambda: health(net[0]) is None)
    left = cluster.get("service", "local", "-n", "net")["spec"]
    assert "healthCheckNodePort" not in left and "nodePort" not in left["ports"][0]


def test_endpoints_written_by_hand_serve_a_service_without_selector(cluster, net):
    apply(cluster, service("by-hand", None, [{"port": 80}]),
          {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "by-hand"},
           "subsets": [{"addresses": [{"ip": net[1]["status"]["podIP"]}], "ports": [{"port": 8080}]}]}, namespace="net")
    ip = cluster.get("service", "by-hand", "-n", "net")["spec"]["clusterIP"]
    eventually(lambda: fetch(net[0], ip) == net[1]["status"]["podIP"])
    cluster.kubectl("-n", "net", "delete", "endpoints", "by-hand")
    eventually(lambda: fetch(net[0], ip) == "")


def test_changed_selector_moves_the_service(cluster, net):
    apply(cluster, service("moving", {"pod": "web-0"}, [{"port": 80, "targetPort": 8080}]), namespace="net")
    ip = cluster.get("service", "moving", "-n", "net")["spec"]["clusterIP"]
    eventually(lambda: fetch(net[2], ip) == net[0]["status"]["podIP"])
    cluster.kubectl("-n", "net", "patch", "service", "moving", "-p", json.dumps({"spec": {"selector": {"pod": "web-1"}}}))
    eventually(lambda: fetch(net[2], ip) == net[1]["status"]["podIP"])
    assert {fetch(net[2], ip) for _ in range(5)} == {net[1]["status"]["podIP"]}
    cluster.kubectl("-n", "net", "delete", "service", "moving")
    eventually(lambda: fetch(net[2], ip) == "")
    assert looked_up(net[2], "moving.net.svc.cluster.local") == []


def test_udp_service(cluster, net):
    apply(cluster, service("datagrams", {"pod": "web-1"}, [{"port": 53, "targetPort": 7001, "protocol": "UDP"}]), namespace="net")
    ip = cluster.get("service", "datagrams", "-n", "net")["spec"]["clusterIP"]
    server = subprocess.Popen(["nsenter", f"--net=/proc/{main_process(net[1])}/ns/net", "--", sys.executable, "-c",
                               "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('', 7001))\nprint('ready', flush=True)\n"
                               "while True:\n  data, peer = s.recvfrom(100)\n  s.sendto(b'echo ' + data, peer)"],
                              stdout=subprocess.PIPE, text=True)
    ask = ("import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.settimeout(1)\n"
           f"s.connect(('{ip}', 53))\ns.send(b'hey')\nprint(s.recv(100).decode())")
    try:
        server.stdout.readline()
        eventually(lambda: in_pod_network(net[0], sys.executable, "-c", ask, check=False).stdout == "echo hey\n")
    finally:
        server.kill()
        server.wait()


def test_api_answers_a_pod_with_its_own_token(cluster, net):
    pod = net[0]
    secrets = "/var/run/secrets/kubernetes.io/serviceaccount"
    token = in_pod(pod, "cat", f"{secrets}/token").stdout
    authority = os.path.join(cluster.data, "pod-ca.crt")
    with open(authority, "w") as f:
        f.write(in_pod(pod, "cat", f"{secrets}/ca.crt").stdout)
    assert in_pod(pod, "cat", f"{secrets}/namespace").stdout == "net"
    [ip] = looked_up(pod, "kubernetes.default.svc.cluster.local")
    assert ip == cluster.get("service", "kubernetes")["spec"]["clusterIP"]

    def ask(path, *args):
        names = [f"kubernetes.default:443:{ip}"]
        return in_pod_network(pod, "curl", "-sS", "-m", "3", "--cacert", authority, "--resolve", names[0], *args,
                              f"https://kubernetes.default{path}", check=False)

    version = ask("/version", "-H", f"Authorization: Bearer {token}")
    assert json.loads(version.stdout)["major"] == "1", version.stderr
    forbidden = json.loads(ask("/api/v1/namespaces/net/pods", "-H", f"Authorization: Bearer {token}").stdout)
    assert forbidden["code"] == 403 and "system:serviceaccount:net:default" in forbidden["message"]
    cluster.kubectl("-n", "net", "create", "rolebinding", "may-view", "--clusterrole=view", "--serviceaccount=net:default")
    seen = eventually(lambda: json.loads(ask("/api/v1/namespaces/net/pods", "-H", f"Authorization: Bearer {token}").stdout).get("items"))
    assert {"web-0", "web-1", "web-2"} <= {p["metadata"]["name"] for p in seen}
    assert json.loads(ask("/api/v1/namespaces/net/pods", "-H", "Authorization: Bearer nonsense").stdout)["code"] == 401


def test_pods_reach_the_outside_as_the_machine(cluster, net):
    """A second namespace stands for the outside; it knows no way back to pods, so that only masquerading can work."""
    outside = cluster.net.name + "-out"
    run(["ip", "netns", "add", outside])
    server = None
    try:
        run(["ip", "link", "add", "out0", "netns", cluster.net.name, "type", "veth", "peer", "name", "in0", "netns", outside])
        run(cluster.net.inside(["ip", "address", "add", "198.51.100.1/24", "dev", "out0"]))
        run(cluster.net.inside(["ip", "link", "set", "out0", "up"]))
        run(["ip", "-n", outside, "address", "add", "198.51.100.2/24", "dev", "in0"])
        run(["ip", "-n", outside, "link", "set", "in0", "up"])
        server = subprocess.Popen(["nsenter", f"--net=/run/netns/{outside}", "--", sys.executable, "-c",
                                   "import socket\ns = socket.create_server(('', 8000))\nprint('ready', flush=True)\nwhile True:\n"
                                   "  c, peer = s.accept()\n  c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + peer[0].encode())\n"
                                   "  c.shutdown(1)\n  c.recv(1000)\n  c.close()"], stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"
        for pod in net:
            answer = in_pod_network(pod, "curl", "-sS", "-m", "3", "http://198.51.100.2:8000/", check=False)
            assert answer.stdout == "198.51.100.1", answer.stderr
    finally:
        if server:
            server.kill()
            server.wait()
        run(["ip", "netns", "delete", outside], check=False)


def test_a_pod_that_is_not_ready_gets_no_requests(cluster, net):
    probe = {"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}}
    apply(cluster, shell_pod("slow", SERVE, labels={"app": "slow"}, container=probe),
          service("slow", {"app": "slow"}, [{"port": 80, "targetPort": 8080}]), namespace="net")
    ip = cluster.get("service", "slow", "-n", "net")["spec"]["clusterIP"]
    eventually(lambda: cluster.get("pod", "slow", "-n", "net")["status"]["phase"] == "Running")
    assert in_pod_network(net[0], "curl", "-sS", "-m", "2", f"http://{ip}/", check=False).returncode != 0
    cluster.kubectl("-n", "net", "exec", "slow", "--", "touch", "/tmp/ready")
    pod = wait_ready(cluster, "slow", namespace="net")[0]
    eventually(lambda: fetch(net[0], ip) == pod["status"]["podIP"])
    cluster.kubectl("-n", "net", "exec", "slow", "--", "rm", "/tmp/ready")
    eventually(lambda: fetch(net[0], ip) == "")
