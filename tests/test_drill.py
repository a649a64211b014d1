"""Drills: a machine and a zone are broken under load, and the report tells what came of it."""

import json

import pytest
from harness import Cluster


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(nodes=3, zones=3)
    try:
        cluster.up()
    except BaseException:
        cluster.destroy()
        raise
    yield cluster
    cluster.destroy()


def drilled(cluster, *args):
    done = cluster.dhow("drill", *args, "-o", "json", timeout=480, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    print(json.dumps({**report, "requests": {**report["requests"], "lost": len(report["requests"]["lost"])}}))
    assert done.returncode == 0, report["failures"]
    assert report["passed"] and not report["failures"]
    assert report["writes"]["acknowledged"] > 0 and report["writes"]["missing"] == []
    assert report["identities"]["count"] > 0 and report["identities"]["processes"] >= report["identities"]["count"]
    assert report["identities"]["doubled"] == []
    assert report["requests"]["sent"] > len(report["requests"]["lost"])
    assert {"healed", "returned"} <= set(report["marks"])
    assert "dhow-drill" not in cluster.kubectl("get", "namespaces", "-o", "name").stdout
    return report


def test_node_that_loses_its_power_is_repaired(cluster):
    report = drilled(cluster, "node", f"{cluster.name}-node-2", "--for", "5s")
    assert report["target"] == f"{cluster.name}-node-2"


def test_zone_that_is_cut_off_comes_back_and_nothing_is_lost_or_doubled(cluster):
    report = drilled(cluster, "zone", "--for", "20s")
    assert "restored" in report["marks"]
    # The one master stands in the first.
    assert report["target"] in ("local-east-2", "local-east-3")


@pytest.fixture(scope="module")
def region():
    cluster = Cluster(nodes=3, zones=3)
    try:
        cluster.up("--masters", "3")
    except BaseException:
        cluster.destroy()
        raise
    yield cluster
    cluster.destroy()


@pytest.mark.parametrize("what", ["master", "store", "link"])
def test_masters_members_and_links_are_missed_by_nobody_for_long(region, what):
    report = drilled(region, what, "--for", "10s")
    if what != "link":
        # Workloads do not notice.
        assert report["requests"]["lost"] == []


def test_what_cannot_be_broken_is_refused(cluster):
    for args, why in [(["zone", "nowhere"], "there are local-east-1, local-east-2, local-east-3"),
                      (["node", "nobody"], f"{cluster.name}-node-1"),
                      (["zone", "local-east-1"], "all masters"),
                      (["node", "--for", "0s"], "--for")]:
        refused = cluster.dhow("drill", *args, check=False)
        assert refused.returncode == 1 and why in refused.stderr, refused.stderr
    assert "there are local-east-1" in cluster.dhow("zone", "cut", "nowhere", check=False).stderr
    cluster.dhow("zone", "cut", "local-east-3")
    try:
        assert "Cut" in cluster.dhow("zone", "list").stdout
        refused = cluster.dhow("drill", "node", check=False)
        assert refused.returncode == 1 and "dhow zone restore local-east-3" in refused.stderr
    finally:
        cluster.dhow("zone", "restore", "local-east-3")
