"""The cluster's network as pods and the machine use it: pods, services, names, the API from inside, the way out."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from harness import eventually, run
from pods import (apply, endpoint_addresses, in_pod, in_pod_network, main_process, publish_shell, role_process, shell_pod,
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
    ports = {"ports": [{"name": "http", "containerPort": 8080}]}
    apply(cluster, *[shell_pod(name, SERVE, node=node, labels={"app": "web", "pod": name}, container=ports)
                     for name, node in zip(names, nodes)], namespace="net")
    yield wait_ready(cluster, *names, namespace="net")
    cluster.kubectl("delete", "namespace", "net", "--wait=false")


def service(name, selector, ports, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {**({"selector": selector} if selector else {}), "ports": ports, **spec}}


def fetch(pod, address, port=80, path="/"):
    return in_pod_network(pod, "curl", "-sS", "-m", "2", f"http://{address}:{port}{path}", check=False).stdout.strip()


def all_seen(pod, address, times=10):
    """Who answers a number of connections, one after the other."""
    return set(in_pod_network(pod, "curl", "-sS", "-m", "2", *[f"http://{address}/"] * times, check=False).stdout.split())


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

        def whole():
            seen.update(all_seen(pod, ip))
            return set(ips(net)) <= seen

        eventually(whole, every=0)
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


def test_several_named_ports_and_external_addresses(cluster, net):
    ports = [{"name": "first", "port": 80, "targetPort": "http"}, {"name": "second", "port": 81, "targetPort": 8080},
             {"name": "missing", "port": 82, "targetPort": "https"}]
    apply(cluster, service("many", {"pod": "web-0"}, ports, externalIPs=["198.51.100.77"]), namespace="net")
    ip = cluster.get("service", "many", "-n", "net")["spec"]["clusterIP"]
    for address in (ip, "198.51.100.77"):
        for port in (80, 81):
            eventually(lambda: fetch(net[1], address, port) == net[0]["status"]["podIP"])
        assert fetch(net[1], address, 82) == ""


def test_load_balancer_answers_machine_and_pods(cluster, net):
    apply(cluster, service("balanced", {"app": "web"}, [{"port": 8000, "targetPort": 8080}], type="LoadBalancer"), namespace="net")
    ingress = eventually(lambda: cluster.get("service", "balanced", "-n", "net")["status"].get("loadBalancer", {}).get("ingress"))
    eventually(lambda: fetch_from_machine(cluster, f"http://{ingress[0]['ip']}:8000/") in ips(net))
    for pod in net:
        eventually(lambda: fetch(pod, ingress[0]["ip"], 8000) in ips(net))
    for ranges, allowed in ((["203.0.113.0/24"], False), (["203.0.113.0/24", "10.0.0.0/8"], True)):
        cluster.kubectl("-n", "net", "patch", "service", "balanced", "-p", json.dumps({"spec": {"loadBalancerSourceRanges": ranges}}))
        eventually(lambda: (cluster.curl(f"http://{ingress[0]['ip']}:8000/", "-m", "0.5", check=False).returncode == 0) == allowed)


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
        assert all_seen(pod, ip) == {first}
    brief = {"clientIP": {"timeoutSeconds": 1}}
    cluster.kubectl("-n", "net", "patch", "service", "sticky", "-p", json.dumps({"spec": {"sessionAffinityConfig": brief}}))
    assert len(all_seen(net[0], ip)) <= 2, "as it was, then as it is"
    # Each request begins the time anew; after a pause the client may be led elsewhere.
    first = fetch(net[0], ip)
    eventually(lambda: fetch(net[0], ip) != first, every=1.1)


def test_traffic_stays_near_by_the_labels_that_nodes_have(cluster, net):
    """trafficDistribution, and a node's zone that changes while its agent runs."""
    apply(cluster, *[service(name.lower(), {"app": "web"}, [{"port": 80, "targetPort": 8080}], trafficDistribution=name)
                     for name in ("PreferSameNode", "PreferSameZone", "PreferClose")], namespace="net")
    ip = {name: cluster.get("service", name, "-n", "net")["spec"]["clusterIP"] for name in ("prefersamenode", "prefersamezone", "preferclose")}

    for pod in net:
        for address in ip.values():
            eventually(lambda: all_seen(pod, address) == {pod["status"]["podIP"]})
    zone = "topology.kubernetes.io/zone"
    first, second = [cluster.get("node", pod["spec"]["nodeName"])["metadata"] for pod in net[:2]]
    try:
        cluster.kubectl("label", "node", first["name"], f"{zone}={second['labels'][zone]}", "--overwrite")
        both = {pod["status"]["podIP"] for pod in net[:2]}
        for pod in net[:2]:
            eventually(lambda: all_seen(pod, ip["prefersamezone"]) == both)
            assert all_seen(pod, ip["prefersamenode"]) == {pod["status"]["podIP"]}
        assert all_seen(net[2], ip["preferclose"]) == {net[2]["status"]["podIP"]}
    finally:
        cluster.kubectl("label", "node", first["name"], f"{zone}={first['labels'][zone]}", "--overwrite")
    eventually(lambda: all_seen(net[0], ip["preferclose"]) == {net[0]["status"]["podIP"]})


def test_the_last_pod_is_served_until_it_ends(cluster, net):
    """As the first process it hears no SIGTERM, so that it serves until the grace period is over."""
    apply(cluster, shell_pod("last", SERVE, labels={"app": "last"}, terminationGracePeriodSeconds=60),
          service("last", {"app": "last"}, [{"port": 80, "targetPort": 8080}]), namespace="net")
    pod = wait_ready(cluster, "last", namespace="net")[0]
    ip = cluster.get("service", "last", "-n", "net")["spec"]["clusterIP"]
    cluster.kubectl("-n", "net", "delete", "pod", "last", "--wait=false")

    def conditions():
        slices = cluster.get("endpointslices", "-n", "net", "-l", "kubernetes.io/service-name=last")["items"]
        return [e["conditions"] for s in slices for e in s.get("endpoints") or []]

    eventually(lambda: conditions() == [{"ready": False, "serving": True, "terminating": True}])
    assert {fetch(client, ip) for client in net} == {pod["status"]["podIP"]}
    cluster.kubectl("-n", "net", "delete", "pod", "last", "--force", "--grace-period=0")
    eventually(lambda: fetch(net[0], ip) == "")


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
    given = eventually(lambda: cluster.get("service", "local", "-n", "net")["status"]["loadBalancer"].get("ingress"))
    eventually(lambda: fetch_from_machine(cluster, f"http://{given[0]['ip']}:8001/") == net[0]["status"]["podIP"])
    assert cluster.curl(f"http://{address(net[1])}:{node_port}/", "-m", "1", check=False).stdout == ""
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
    assert all_seen(net[2], ip) == {net[1]["status"]["podIP"]}
    cluster.kubectl("-n", "net", "delete", "service", "moving")
    eventually(lambda: fetch(net[2], ip) == "")
    assert looked_up(net[2], "moving.net.svc.cluster.local") == []


def test_udp_service_leads_a_flow_that_lasts_to_who_serves_now(cluster, net):
    """One socket asks all the time; it follows the service from one pod to another."""
    apply(cluster, service("datagrams", {"pod": "web-1"}, [{"port": 53, "targetPort": 7001, "protocol": "UDP"}]), namespace="net")
    ip = cluster.get("service", "datagrams", "-n", "net")["spec"]["clusterIP"]

    def python(pod, *lines):
        return subprocess.Popen(["nsenter", f"--net=/proc/{main_process(pod)}/ns/net", "--", sys.executable, "-uc", "\n".join(lines)],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    serve = ("import socket", "s = socket.socket(type=socket.SOCK_DGRAM)", "s.bind(('', 7001))", "print('ready')",
             "while True:", "  s.sendto(NAME, s.recvfrom(100)[1])")
    servers = [python(pod, f"NAME = b'{pod['metadata']['name']}'", *serve) for pod in net[1:]]
    client = python(net[0], "import socket, sys", "s = socket.socket(type=socket.SOCK_DGRAM)", "s.settimeout(0.3)", f"s.connect(('{ip}', 53))",
                    "for line in sys.stdin:", "  try:", "    s.send(b'hey')", "    print(s.recv(100).decode())",
                    "  except OSError as e:", "    print(e)")

    def ask():
        client.stdin.write("\n")
        client.stdin.flush()
        return client.stdout.readline().strip()

    try:
        assert [s.stdout.readline() for s in servers] == ["ready\n"] * 2
        eventually(lambda: ask() == "web-1")
        cluster.kubectl("-n", "net", "patch", "service", "datagrams", "-p", json.dumps({"spec": {"selector": {"pod": "web-2"}}}))
        eventually(lambda: ask() == "web-2")
        assert {ask() for _ in range(10)} == {"web-2"}
    finally:
        for process in [*servers, client]:
            process.kill()
            process.wait()


# The kernel may have no SCTP of its own, but tracks it: INIT chunks by raw sockets (RFC 9260). A server tells to which port one came, and from whom.
SCTP_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
print("ready", flush=True)
while True:
    packet, peer = s.recvfrom(2048)
    head = (packet[0] & 15) * 4
    print(int.from_bytes(packet[head + 2:head + 4], "big"), peer[0], flush=True)
"""
SCTP_CLIENT = """
import socket, struct, sys
def crc(data):
    sum = 0xffffffff
    for byte in data:
        sum ^= byte
        for _ in range(8): sum = sum >> 1 ^ (0x82f63b78 if sum & 1 else 0)
    return sum ^ 0xffffffff
chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 4711, 65536, 1, 1, 1)
head = struct.pack("!HHI", 1234, int(sys.argv[2]), 0)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
s.sendto(head + struct.pack("<I", crc(head + bytes(4) + chunk)) + chunk, (sys.argv[1], 0))
"""


def test_sctp_service_leads_to_its_pod(cluster, net):
    apply(cluster, service("signals", {"pod": "web-1"}, [{"port": 38412, "targetPort": 7002, "protocol": "SCTP"}]), namespace="net")
    ip = cluster.get("service", "signals", "-n", "net")["spec"]["clusterIP"]
    server = subprocess.Popen(["nsenter", f"--net=/proc/{main_process(net[1])}/ns/net", "--", sys.executable, "-c", SCTP_SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        os.set_blocking(server.stdout.fileno(), False)

        def led():
            in_pod_network(net[0], sys.executable, "-c", SCTP_CLIENT, ip, "38412")
            return server.stdout.readline() == f"7002 {net[0]['status']['podIP']}\n"

        eventually(led)
    finally:
        server.kill()
        server.wait()


def test_internal_traffic_stays_on_its_node_or_is_dropped(cluster, net):
    apply(cluster, service("inside", {"app": "web"}, [{"port": 80, "targetPort": 8080}], internalTrafficPolicy="Local"),
          service("one-inside", {"pod": "web-0"}, [{"port": 80, "targetPort": 8080}], internalTrafficPolicy="Local"), namespace="net")
    both, one = (cluster.get("service", name, "-n", "net")["spec"]["clusterIP"] for name in ("inside", "one-inside"))
    for pod in net:
        eventually(lambda: all_seen(pod, both) == {pod["status"]["podIP"]})
    eventually(lambda: fetch(net[0], one) == net[0]["status"]["podIP"])
    assert in_pod_network(net[1], "curl", "-sS", "-m", "0.5", f"http://{one}/", check=False).returncode == 28, "dropped, as nobody of its node answers"
    cluster.kubectl("-n", "net", "patch", "service", "one-inside", "-p", '{"spec":{"internalTrafficPolicy":"Cluster"}}')
    eventually(lambda: fetch(net[1], one) == net[0]["status"]["podIP"])


def test_tables_of_others_stay_as_they_are(cluster, net):
    node = ["nsenter", f"--net=/run/dhow/{cluster.name}/{net[0]['spec']['nodeName']}.netns", "--", "nft"]
    for family in ("inet", "ip", "ip6"):
        run([*node, f"add table {family} foreign; add chain {family} foreign watch {{ type filter hook forward priority 5; }}; add rule {family} foreign watch tcp dport 9 drop"])
    shown = lambda: [run([*node, "list", "table", family, "foreign"]).stdout for family in ("inet", "ip", "ip6")]
    before = shown()
    try:
        apply(cluster, service("beside", {"pod": "web-0"}, [{"port": 80, "targetPort": 8080}]), namespace="net")
        ip = cluster.get("service", "beside", "-n", "net")["spec"]["clusterIP"]
        eventually(lambda: fetch(net[0], ip) == net[0]["status"]["podIP"])
        agent = role_process(cluster, "agent", f"/{net[0]['spec']['nodeName']}/")
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: role_process(cluster, "agent", f"/{net[0]['spec']['nodeName']}/") != agent)
        cluster.kubectl("-n", "net", "delete", "service", "beside")
        eventually(lambda: fetch(net[0], ip) == "")
        assert "drop" in before[0] and shown() == before
    finally:
        for family in ("inet", "ip", "ip6"):
            run([*node, "delete", "table", family, "foreign"])


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
    cluster.kubectl("-n", "net", "patch", "service", "slow", "-p", json.dumps({"spec": {"publishNotReadyAddresses": True}}))
    eventually(lambda: fetch(net[0], ip) == pod["status"]["podIP"])
