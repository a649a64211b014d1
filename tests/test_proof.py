"""Nothing is lost at the edge: clients of all kinds through load balancer and Ingress to pods, while everything changes. The short form does each
operation once or twice; DHOW_PROOF=full (./test edge) a hundred."""

import os
import shutil

import pytest
from builds import build
from harness import Cluster, run
from proof import MONOLITH, SHOP, Proof

FULL = os.environ.get("DHOW_PROOF") == "full"
OPERATIONS = 100
# Requests a second, all together. The short form shares two cores with other tests.
RATE = float(os.environ.get("DHOW_PROOF_RATE", 2000 if FULL else 300))
LONGEST = 12 if FULL else 2
CUSTOMERS = {"chats": 40, "calls": 20, "visitors": 4, "shoppers": 60} if FULL else {"chats": 10, "calls": 5, "visitors": 2, "shoppers": 10}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(nodes=3, zones=3)
    made.builds = [build(str(tmp_path_factory.mktemp("builds") / name), another=True) for name in ("one", "two")]
    try:
        # The cluster of a build, so that it can be upgraded to another.
        up = lambda folder: run(made.net.inside([made.builds[0], "up", "--nodes", "3", "--zones", "3", "--name", made.name, "--data", made.data, "--deploy", folder]), timeout=120)
        up(SHOP)
        up(MONOLITH)
        made.kubectl("apply", "-f", f"{MONOLITH}/steps/catalog.yaml", "-f", f"{MONOLITH}/steps/orders.yaml")
        for name in ("catalog", "orders"):
            made.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
        yield made
    finally:
        made.destroy()


def another_haproxy(folder, name):
    """The same program as another file, as a package's new version is."""
    path = f"{folder}/haproxy-{name}"
    shutil.copy("/usr/sbin/haproxy", path)
    return path


def test_nothing_is_lost_while_everything_changes(cluster, tmp_path):
    os.chmod(tmp_path, 0o755)
    proof = Proof(cluster, tmp_path, RATE, LONGEST, **CUSTOMERS)
    parts = ["monolith", "catalog"]

    def one(number):
        kinds = [proof.rollout, proof.drain, proof.certificate, lambda: proof.upgrade_haproxy(another_haproxy(tmp_path, number)), proof.scale_down,
                 proof.canary, lambda: proof.move_route(0, parts[number // 9 % 2 - 1]), proof.agent, lambda: proof.rollout("monolith")]
        kinds[number % len(kinds)]()

    with proof.running():
        for number in range(OPERATIONS if FULL else 9):
            if FULL and number % 20 == 10:
                proof.upgrade(cluster.builds[number // 20 % 2 - 1])
                proof.pool()
            one(number)
        if not FULL:
            proof.pool()
            proof.upgrade(cluster.builds[1])
    print(proof.report())
    assert not proof.failures()
    assert all(told["requests"] > 20 for told in proof.told.values())
    held = [told for told in proof.told.values() if "sessions" in told]
    assert all(told["held"] == told["sessions"] > 5 for told in held)
    assert len(proof.operations) >= (OPERATIONS if FULL else 10)


@pytest.mark.parametrize("what", ["node", "zone"] if FULL else ["node"])
def test_what_dies_costs_only_what_was_on_its_way_there(cluster, tmp_path, what):
    for name in ("shop", "monolith"):
        cluster.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
    proof = Proof(cluster, tmp_path, RATE, LONGEST, **CUSTOMERS)
    with proof.running():
        dead = proof.kill_node() if what == "node" else proof.cut_zone()
    print(proof.report())
    print(f"{len(proof.failures()) - len(proof.failures_since(dead))} were on connections to what died")
    assert not proof.failures_since(dead)
    assert all(told["requests"] > 5 for told in proof.told.values())
