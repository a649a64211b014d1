"""Sessions: users with an affinity cookie, and WebSockets, stay with a pod that leaves until they end or the deadline passes, new users go
elsewhere, and the emptiest pod goes first. Asked with curl, a WebSocket of Python, and kubectl."""

import json
import re
import subprocess
import sys
import time

import pytest
from edge import ECHO
from harness import Cluster, eventually, run
from pods import HELLO, SHELL_IMAGE, apply, main_process, publish_shell, shell_pod, wait_ready

NGINX = "nginx.ingress.kubernetes.io/"
# Answers with the pod's name at /cgi-bin/who; /cgi-bin/bye ends the session.
WEB = r"""
mkdir -p /www/cgi-bin
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"; hostname\n' >/www/cgi-bin/who
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\nDhow-Session: end\\r\\n\\r\\n"; hostname\n' >/www/cgi-bin/bye
chmod +x /www/cgi-bin/*
trap 'exit 0' TERM
httpd -f -p 8080 -h /www & wait
"""
WEBSOCKET = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 5)
s.sendall(("GET /ws HTTP/1.1\\r\\nHost: %s\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n"
           "Sec-WebSocket-Version: 13\\r\\n\\r\\n" % sys.argv[2]).encode())
assert b" 101 " in s.recv(4096)
s.settimeout(None)
print("open", flush=True)
s.recv(1)
print("closed", flush=True)
"""


def ingress(name, host, service, annotations=None):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {
                "service": {"name": service, "port": {"number": 80}}}}]}}]}}


def service(name):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}}


def deployment(name, replicas, version="1"):
    pod = shell_pod(name, WEB)
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}, "annotations": {"version": version}},
                                  "spec": {**pod["spec"], "terminationGracePeriodSeconds": 30, "containers": [
                                      {**pod["spec"]["containers"][0], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}}}}


class User:
    """A browser: it keeps its cookies."""

    def __init__(self, world, host, address=None):
        self.world, self.host, self.address, self.cookies = world, host, address or world.address, None

    def get(self, path="/cgi-bin/who"):
        done = run(self.world.cluster.net.inside(
            ["curl", "-si", "--max-time", "5", "--connect-to", f"::{self.address}:80", *(["-b", self.cookies] if self.cookies else []),
             f"http://{self.host}{path}"]))
        head, _, body = done.stdout.replace("\r", "").partition("\n\n")
        assert " 200 " in head.split("\n")[0], head
        self.head = head
        for cookie in re.findall(r"^set-cookie: ([^;]*)", head, re.I | re.M):
            self.cookies = cookie if not cookie.endswith("=") else None
        return body.strip()


class World:
    def __init__(self, cluster):
        self.cluster, self.processes = cluster, []
        publish_shell(cluster)
        apply(cluster, deployment("web", 3), service("web"),
              ingress("web", "shop.test", "web", {NGINX + "affinity": "cookie", NGINX + "session-cookie-name": "STICK", "dhow.io/session-idle": "6s"}),
              service("talk"), ingress("talk", "talk.test", "talk"))
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
        self.address = eventually(lambda: (cluster.get("ingress", "web")["status"].get("loadBalancer", {}).get("ingress") or [{}])[0].get("ip"))
        eventually(lambda: all(User(self, "shop.test").try_get() for _ in range(8)))  # both nodes

    def end(self):
        for process in self.processes:
            process.kill()

    def pods(self):
        """The column SESSIONS by name."""
        lines = self.cluster.kubectl("get", "pods", "-o", "wide").stdout.rstrip().split("\n")
        at = lines[0].index("SESSIONS")
        return {line.split()[0]: line[at:].strip() for line in lines[1:]}

    def sessions(self):
        """What `dhow sessions` says, by pod."""
        lines = self.cluster.dhow("sessions").stdout.rstrip().split("\n")
        assert lines[0].split() == ["POD", "NODE", "SESSIONS", "CONNECTIONS", "STATE", "UNTIL"]
        return {line.split()[0]: line.split()[1:] for line in lines[1:]}

    def events(self, pod):
        return {e["reason"]: e["message"] for e in self.cluster.get("events", f"--field-selector=involvedObject.name={pod}")["items"]}

    def exists(self, pod):
        return self.cluster.kubectl("get", "pod", pod, check=False).returncode == 0

    def websocket(self, host):
        process = subprocess.Popen(self.cluster.net.inside([sys.executable, "-c", WEBSOCKET, self.address, host]), stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout.readline() == "open\n"
        return process


def try_get(self, path="/cgi-bin/who"):
    try:
        return self.get(path)
    except AssertionError:
        return None


User.try_get = try_get


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = Cluster(nodes=2, zones=2)
    world = None
    try:
        made.up("--deploy", HELLO)
        world = World(made)
        yield world
    finally:
        if world:
            world.end()
        made.destroy()


def users_on_pods(world, wanted):
    """Users until each pod has as many as wanted, in some order; by pod."""
    found = {}
    for _ in range(60):
        user = User(world, "shop.test")
        pod = user.get()
        room = [n for n in wanted if n > len(found.get(pod, []))]
        if not room:
            user.get("/cgi-bin/bye")
            continue
        found.setdefault(pod, []).append(user)
        if sorted(map(len, found.values())) == sorted(wanted):
            return found
    raise AssertionError(found)


def test_scaling_down_takes_the_emptiest_pod_which_keeps_its_users(world):
    cluster = world.cluster
    users = users_on_pods(world, [1, 2, 2])
    assert re.fullmatch(r"STICK=[0-9a-f]+\.[0-9a-f-]{36}", users[next(iter(users))][0].cookies)
    keep = {pod: str(len(some)) for pod, some in users.items()}
    eventually(lambda: [user.get() for some in users.values() for user in some] and {pod: world.pods()[pod] for pod in keep} == keep, every=0.5)
    assert {pod: one[1] for pod, one in world.sessions().items()} == keep
    metrics = cluster.kubectl("get", "--raw", "/metrics").stdout
    assert all(f'dhow_pod_sessions{{namespace="default",pod="{pod}"}} {count}\n' in metrics for pod, count in keep.items()), metrics
    lone = next(pod for pod, count in keep.items() if count == "1")
    cluster.kubectl("scale", "deployment/web", "--replicas=2")
    eventually(lambda: "deletionTimestamp" in cluster.get("pod", lone)["metadata"])
    stays = users[lone][0]
    eventually(lambda: stays.get() == lone and re.fullmatch(r"1( session and \d connections?)? \(draining until \d\d:\d\d:\d\dZ\)", world.pods()[lone]))
    for _ in range(8):
        assert stays.get() == lone and "set-cookie" not in stays.head.lower()
        assert User(world, "shop.test").get() != lone
        time.sleep(0.3)
    assert re.match(r"1 session .*held until \S+Z at most; new users are sent elsewhere", world.events(lone)["DrainingSessions"])
    assert world.sessions()[lone][3] == "Draining"
    assert stays.get("/cgi-bin/bye") == lone and "dhow-session" not in stays.head.lower() and stays.cookies is None
    begun = time.monotonic()
    eventually(lambda: not world.exists(lone))
    assert time.monotonic() - begun < 5
    assert "SessionsEnded" in world.events(lone)
    assert stays.get() != lone


def test_a_rollout_waits_for_users_who_are_there_and_not_for_those_who_left(world):
    cluster = world.cluster
    users = users_on_pods(world, [1, 1])
    old = set(users)
    stays, leaves = (users[pod][0] for pod in sorted(old))
    apply(cluster, deployment("web", 2, "2"))
    eventually(lambda: all("deletionTimestamp" in cluster.get("pod", pod)["metadata"] for pod in old) and stays.get())
    home = sorted(old)[0]
    status = eventually(lambda: (lambda s: s if "Warning" in s.stderr else None)(
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=1s", check=False)))
    assert "old replicas are pending termination" in status.stdout
    assert re.search(r'Warning: deployment "web": pod \S+: \d+ sessions? .*held until \S+Z at most', status.stderr), status.stderr
    # The idle limit is six seconds.
    end = time.monotonic() + 9
    while time.monotonic() < end or world.exists(sorted(old)[1]):
        assert time.monotonic() < end + 20, "who left is waited for"
        assert stays.get() == home
        assert User(world, "shop.test").get() not in old
        time.sleep(0.3)
    assert stays.get() == home
    eventually(lambda: not world.exists(home), timeout=15)
    assert cluster.kubectl("rollout", "status", "deployment/web", "--timeout=10s").stdout.endswith("successfully rolled out\n")
    assert stays.get() not in old
    assert "SessionsEnded" in world.events(home)


def test_users_of_a_gateways_route_stay_with_their_pod_too(world):
    cluster = world.cluster
    api = "gateway.networking.k8s.io/v1"
    apply(cluster, {"apiVersion": api, "kind": "Gateway", "metadata": {"name": "door"}, "spec": {"gatewayClassName": "dhow", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}},
          {"apiVersion": api, "kind": "HTTPRoute", "metadata": {"name": "door", "annotations": {NGINX + "affinity": "cookie", NGINX + "session-cookie-name": "DOOR", "dhow.io/session-idle": "1m"}},
           "spec": {"parentRefs": [{"name": "door"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})
    cluster.kubectl("wait", "--for=condition=Programmed", "gateway/door", "--timeout=30s")
    address = cluster.get("gateway", "door")["status"]["addresses"][0]["value"]
    eventually(lambda: all(User(world, "door.test", address).try_get("/cgi-bin/bye") for _ in range(8)))  # both nodes
    user = User(world, "door.test", address)
    home = user.get()
    assert re.fullmatch(r"DOOR=[0-9a-f]+\.[0-9a-f-]{36}", user.cookies)
    eventually(lambda: user.get() == home and world.sessions().get(home, ["", ""])[1] == "1", every=0.5)
    cluster.kubectl("delete", "pod", home, "--wait=false")
    eventually(lambda: world.sessions()[home][3] == "Draining")
    for _ in range(5):
        assert user.get() == home and User(world, "door.test", address).get("/cgi-bin/bye") != home
    assert user.get("/cgi-bin/bye") == home
    eventually(lambda: not world.exists(home))
    assert user.get() != home


def test_connections_hold_a_pod_until_the_deadline_which_may_outlast_the_grace_period(world):
    cluster = world.cluster

    def talk(name, grace, annotations=None):
        pod = shell_pod(name, "trap 'exit 0' TERM; sleep 100000 & wait", terminationGracePeriodSeconds=grace)
        pod["metadata"]["annotations"] = annotations or {}
        apply(cluster, pod, service(name), ingress(name, f"{name}.test", name))
        ready = wait_ready(cluster, name)[0]
        world.processes.append(subprocess.Popen(["nsenter", f"--net=/proc/{main_process(ready)}/ns/net", "--", sys.executable, "-c", ECHO, name]))
        eventually(lambda: all(User(world, f"{name}.test").try_get() for _ in range(8)))  # both nodes
        return world.websocket(f"{name}.test")

    sockets = {"cut": talk("cut", 6), "long": talk("long", 1, {"dhow.io/session-deadline": "5m"}),
               "forced": talk("forced", 30, {"dhow.io/session-deadline": "5m"})}
    begun = time.monotonic()
    cluster.kubectl("delete", "pod", "cut", "long", "forced", "--wait=false")
    eventually(lambda: all(re.fullmatch(r"1 connection \(draining until .*Z\)", world.pods()[name]) for name in sockets))
    cluster.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    eventually(lambda: "deleted at once" in world.events("forced").get("SessionsCut", ""))
    eventually(lambda: not world.exists("cut"))
    assert 3 < time.monotonic() - begun < 9
    assert "1 connection cut after" in world.events("cut")["SessionsCut"]
    time.sleep(max(0, begun + 7 - time.monotonic()))
    condition = next(c for c in cluster.get("pod", "long")["status"]["conditions"] if c["type"] == "dhow.io/SessionsHeld")
    assert condition["status"] == "True" and sockets["long"].poll() is None
    sockets["long"].kill()
    begun = time.monotonic()
    eventually(lambda: not world.exists("long"))
    assert time.monotonic() - begun < 5 and "SessionsEnded" in world.events("long")
