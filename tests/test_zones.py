"""Regions, zones, node pools and machines of a running cluster: what a lost zone and a dead machine come to."""

import os
import signal
import subprocess
import time

import pytest
from harness import Cluster, eventually
from pods import HELLO, node_is_ready


@pytest.fixture(scope="module")
def region():
    cluster = Cluster(nodes=3, zones=3)
    try:
        cluster.up("--deploy", HELLO)
    except BaseException:
        cluster.destroy()
        raise
    yield cluster
    cluster.destroy()


def names(cluster, kind):
    return {item["metadata"]["name"] for item in cluster.get(kind)["items"]}


def phase(cluster, kind, name):
    return cluster.get(kind, name).get("status", {}).get("phase")


def running(cluster):
    return {m["metadata"]["name"] for m in cluster.get("machines")["items"]
            if m.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in m["metadata"]}


def zone_call(cluster, zone, verb):
    subprocess.run(["curl", "-sS", "--fail-with-body", "-X", "POST", "--unix-socket", f"/run/dhow/{cluster.name}/region.sock",
                    f"http://region/v1/zones/{zone}/{verb}"], check=True, timeout=60)


def all_served(cluster):
    pods = cluster.get("pods", "-l", "app=hello")["items"]
    ready = [p for p in pods if "deletionTimestamp" not in p["metadata"] and any(
        c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
    return len(ready) == 6


def planned(cluster):
    return {f"{cluster.name}-node-{i}" for i in (1, 2, 3)}


def test_new_cluster_has_its_region_zones_pool_and_machines(region):
    eventually(lambda: running(region) == planned(region), timeout=60)
    assert names(region, "regions") == {"local-east"}
    assert names(region, "zones") == {"local-east-1", "local-east-2", "local-east-3"}
    pool = region.get("nodepool", "default")
    assert pool["spec"]["count"] == 3
    eventually(lambda: region.get("nodepool", "default")["status"].get("ready") == 3)
    assert "the zone" not in region.kubectl("get", "nodepools").stdout
    assert "maxMachines" in region.kubectl("explain", "zone.spec").stdout
    refused = region.kubectl("patch", "nodepool", "default", "--type=merge", "-p", '{"spec":{"zones":["nowhere"]}}', check=False)
    assert refused.returncode != 0 and "no such zone; there are local-east-1" in refused.stderr


def test_dead_machine_is_repaired_under_its_name(region):
    eventually(lambda: all_served(region), timeout=60)
    node = f"{region.name}-node-2"
    pid = next(line.split()[2] for line in region.dhow("status").stdout.splitlines() if line.startswith(node + " "))
    os.kill(int(pid), signal.SIGKILL)
    eventually(lambda: region.get("machine", node)["status"].get("repairs", 0) > 0)
    eventually(lambda: running(region) == planned(region) and node_is_ready(region, node), timeout=120)
    eventually(lambda: all_served(region), timeout=60)
    assert phase(region, "zone", "local-east-2") == "Up"


def test_machine_that_dies_again_within_the_minute_is_repaired_at_once(region):
    eventually(lambda: running(region) == planned(region), timeout=60)
    node = f"{region.name}-node-1"
    for _ in range(2):
        eventually(lambda: "repairStep" not in region.get("machine", node)["status"] and phase(region, "machine", node) == "Running", timeout=60)
        before = region.get("machine", node)["status"].get("repairs", 0)
        pid = next(line.split()[2] for line in region.dhow("status").stdout.splitlines() if line.startswith(node + " "))
        os.kill(int(pid), signal.SIGKILL)
        eventually(lambda: region.get("machine", node)["status"].get("repairs", 0) == before + 1, timeout=15)
    eventually(lambda: running(region) == planned(region) and node_is_ready(region, node), timeout=60)


def test_lost_zone_is_stood_in_for_and_comes_back(region):
    eventually(lambda: all_served(region) and running(region) == planned(region), timeout=60)
    began = time.monotonic()
    zone_call(region, "local-east-3", "cut")
    try:
        region.kubectl("wait", "--for=condition=Ready=False", "zone/local-east-3", "--timeout=30s", timeout=40)
        assert phase(region, "zone", "local-east-3") == "Down"
        down = time.monotonic() - began
        stand_in = f"{region.name}-node-3-standin"
        eventually(lambda: all_served(region), timeout=60)
        healed = time.monotonic() - began
        eventually(lambda: stand_in in running(region), timeout=90)
        print(f"zone down after {down:.1f} s, all pods again after {healed:.1f} s, stand-in after {time.monotonic() - began:.1f} s")
        assert phase(region, "machine", f"{region.name}-node-3") == "Lost"
        region.kubectl("wait", "--for=condition=StandInsReady", "zone/local-east-3", "--timeout=10s", timeout=20)
        assert "1 of 1 machines are stood in for" in region.kubectl("describe", "zone", "local-east-3").stdout
    finally:
        zone_call(region, "local-east-3", "restore")
    eventually(lambda: phase(region, "zone", "local-east-3") == "Up" and names(region, "machines") == planned(region), timeout=180)
    eventually(lambda: all_served(region), timeout=60)
    on = {}
    for pod in region.get("pods", "-l", "app=hello")["items"]:
        if "deletionTimestamp" not in pod["metadata"]:
            on[pod["spec"]["nodeName"]] = on.get(pod["spec"]["nodeName"], 0) + 1
    assert on == {name: 2 for name in planned(region)}
    assert names(region, "nodes") == planned(region)
