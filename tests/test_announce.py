"""Load-balanced addresses on separate hosts: answered by one node of the segment, and by another when that one is gone."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from harness import PATIENCE, eventually
from hosts import Network, join_command
from test_join import WEB

RANGES = ("--pod-range", "10.244.0.0/16,fd00:10:244::/56", "--service-range", "10.96.0.0/16,fd00:10:96::/108")
SIX = "fd00:31::200"
POOL6 = {"apiVersion": "dhow.io/v1", "kind": "AddressPool", "metadata": {"name": "street6"}, "spec": {"addresses": [SIX + "/128"], "autoAssign": False}}
POOL = {"apiVersion": "dhow.io/v1", "kind": "AddressPool", "metadata": {"name": "street"}, "spec": {"addresses": ["172.31.1.200-172.31.1.203"]}}

# Asks again and again, each time over a new connection, and tells when an answer came after none: the longest gap is how long it was away.
CLIENT = """
import socket, sys, time
address, span = sys.argv[1], float(sys.argv[2])
last = begin = time.monotonic(); worst = 0
print("ready", flush=True)
while time.monotonic() - begin < span:
    try:
        with socket.create_connection((address, 80), timeout=0.2) as s:
            s.settimeout(1); s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if s.recv(100): worst, last = max(worst, time.monotonic() - last), time.monotonic()
    except OSError:
        pass
    time.sleep(0.01)
print(max(worst, time.monotonic() - last))
"""


class Street:
    """A master and three nodes on one segment, whose router is the client."""

    def __init__(self):
        self.network = Network(segments=1)
        self.master = self.network.host("host-m", 1)
        server, token, pin = join_command(self.master.start("server", "--name", "street", "--zone", "east-0", *RANGES, shows="dhow join"))
        self.client("ip", "-6", "address", "add", "fd00:31::1/64", "dev", "seg1", "nodad", check=True)
        self.nodes = {}
        for i in (1, 2, 3):
            host = self.nodes[f"host-{i}"] = self.network.host(f"host-{i}", 1)
            host.run("ip", "-6", "address", "add", f"fd00:31::1{i}/64", "dev", "eth0", "nodad")
            host.start("join", server, "--token", token, "--ca-hash", pin, "--zone", f"east-{i}", shows="is node")
        self.macs = {re.search(r"link/ether (\S+)", host.run("ip", "link", "show", "eth0").stdout).group(1): name
                     for name, host in self.nodes.items()}

    def client(self, *args, check=False):
        return subprocess.run(self.network.router.inside(list(args)), capture_output=True, text=True, check=check, timeout=30 * PATIENCE)

    def holders(self, address):
        """Who answers who-has, or a neighbour's solicitation: each node that does, once."""
        if ":" in address:
            said = self.client("ndisc6", "-m", "-n", "-r", "2", "-w", "500", address, "seg1").stdout.lower()
            return sorted({self.macs[mac] for mac in re.findall(r"link-layer address: ([0-9a-f:]+)", said)})
        said = self.client("arping", "-c", "2", "-w", "2", "-I", "seg1", address).stdout.lower()
        return sorted({self.macs[mac] for mac in re.findall(r"reply from \S+ \[([0-9a-f:]+)\]", said)})

    def serves(self, address):
        return "hello from" in self.client("curl", "-s", "-m", "1", f"http://{address}/").stdout

    def asking(self, address, seconds):
        client = subprocess.Popen(self.network.router.inside([sys.executable, "-u", "-c", CLIENT, address, str(seconds)]), stdout=subprocess.PIPE, text=True)
        assert client.stdout.readline() == "ready\n"
        return client


@pytest.fixture(scope="module")
def street():
    made = Street()
    try:
        yield made
    finally:
        made.network.destroy()


def service(name, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": "web"}, "type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}], **spec}}


def test_each_address_is_answered_by_one_node(street):
    web = {**WEB, "spec": {**WEB["spec"], "replicas": 3}}
    objects = [web, POOL, POOL6, service("six", ipFamilies=["IPv6"], loadBalancerIP=SIX), *[service(f"web-{i}") for i in range(3)], service("asked", loadBalancerIP="172.31.1.203"), service("late")]
    for o in objects:
        street.master.kubectl("apply", "-f", "-", input=json.dumps(o))
    street.master.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
    eventually(lambda: len(street.master.get("service", "asked")["status"]["loadBalancer"].get("ingress", [])) == 1)
    holders = []
    for n in range(200, 204):
        address = f"172.31.1.{n}"
        eventually(lambda: street.serves(address))
        holders += street.holders(address)
    assert len(holders) == 4 and len(set(holders)) > 1, "one each, and not all the same"
    eventually(lambda: street.master.get("service", "six")["status"]["loadBalancer"]["ingress"] == [{"ip": SIX, "ipMode": "VIP"}])
    assert eventually(lambda: len(street.holders(SIX)) == 1)
    # As people see the pool; the service that found none left says so.
    shown = street.master.kubectl("get", "addresspools").stdout.split()
    assert shown[:7] == ["NAME", "ADDRESSES", "AUTO-ASSIGN", "USED", "FREE", "READY", "AGE"]
    eventually(lambda: street.master.kubectl("get", "addresspool", "street").stdout.split()[7:13] == ["street", "172.31.1.200-172.31.1.203", "true", "4", "0", "True"])
    eventually(lambda: "no IPv4 address is left in the address pool street" in street.master.kubectl("get", "events").stdout)
    refused = street.master.kubectl("apply", "-f", "-", input=json.dumps({**POOL, "spec": {"addresses": ["172.31.1.9-172.31.1.1"]}}), check=False)
    assert "must be a CIDR value or a first and a last address" in refused.stderr


def test_it_moves_within_two_seconds_when_its_node_dies_and_stays_when_the_master_does(street):
    address = "172.31.1.203"
    first = street.holders(address)
    assert len(first) == 1
    # Every master's process is gone: nothing moves, and all is served.
    os.kill(street.master.role("server"), signal.SIGSTOP)
    client = street.asking(address, 4)
    away = float(client.communicate()[0])
    assert away < 1 * PATIENCE
    assert street.holders(address) == first
    # A power cut of the node, still without a master. Its pods are gone, too, so that every third connection is tried again by the client.
    dead = street.nodes.pop(first[0])
    client = street.asking(address, 6)
    time.sleep(1)
    subprocess.run(street.network.router.inside(["ip", "link", "set", dead.link, "down"]), check=True)
    away = float(client.communicate()[0])
    print(f"{address} was away for {away * 1000:.0f} ms")
    assert away < 2 * PATIENCE
    second = street.holders(address)
    assert len(second) == 1 and second != first
    os.kill(street.master.role("server"), signal.SIGCONT)
    # It comes back, and takes nothing away.
    subprocess.run(street.network.router.inside(["ip", "link", "set", dead.link, "up"]), check=True)
    street.nodes[first[0]] = dead
    eventually(lambda: street.master.kubectl("get", "nodes", check=False).stdout.count(" Ready") == 3)
    eventually(lambda: len(street.holders(address)) == 1)


def test_an_agent_that_starts_anew_and_a_local_service(street):
    address = "172.31.1.203"
    holder = street.nodes[street.holders(address)[0]]
    client = street.asking(address, 5)
    os.kill(holder.role("agent"), signal.SIGKILL)
    assert float(client.communicate()[0]) < 2 * PATIENCE
    eventually(lambda: len(street.holders(address)) == 1)
    # Of a service that keeps traffic on its node, a node with a pod of it answers.
    street.master.kubectl("scale", "deployment/web", "--replicas=1")
    street.master.kubectl("patch", "service", "asked", "-p", '{"spec":{"externalTrafficPolicy":"Local"}}')

    def where():
        pods = [p for p in street.master.get("pods", "-l", "app=web")["items"] if "deletionTimestamp" not in p["metadata"]]
        return [p["spec"]["nodeName"] for p in pods]

    eventually(lambda: len(where()) == 1 and street.holders(address) == where())
    eventually(lambda: street.serves(address))
