"""Node pools of a running cluster: upgrades that a disruption budget holds up, pools that scale by themselves, and pools that cannot be."""

import pytest
from harness import Cluster, eventually
from pods import apply, publish_shell, shell_pod


@pytest.fixture(scope="module")
def cluster():
    made = Cluster(nodes=2, zones=2)
    try:
        made.up()
        publish_shell(made)
    except BaseException:
        made.destroy()
        raise
    yield made
    made.destroy()


def machines(cluster, pool):
    return {m["metadata"]["name"]: m for m in cluster.get("machines")["items"] if m["spec"]["pool"] == pool}


def condition(thing, kind):
    return next((c for c in thing["status"].get("conditions", []) if c["type"] == kind), {})


def deployment(name, replicas):
    template = shell_pod(name, "sleep 100000")
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": template["metadata"], "spec": template["spec"]}}}


def budget(name, least):
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": name}}}}


def test_upgrade_that_a_budget_holds_up_says_so_and_goes_on_when_it_may(cluster):
    cluster.kubectl("wait", "--for=condition=Ready", "machine", "--all", "--timeout=60s", timeout=70)
    planned = set(machines(cluster, "default"))
    apply(cluster, deployment("web", 2), budget("web", 10))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
    before = {name: m["spec"]["version"] for name, m in machines(cluster, "default").items()}
    cluster.kubectl("patch", "nodepool", "default", "--type=merge", "-p",
                    '{"spec":{"drainDeadlineSeconds":3,"template":{"labels":{"tier":"new"}}}}')
    # The surge machine first, then one machine stands still.
    upgrading = eventually(lambda: condition(cluster.get("nodepool", "default"), "Upgrading").get("reason") == "DrainBlocked"
                           and condition(cluster.get("nodepool", "default"), "Upgrading"), timeout=90)
    assert upgrading["status"] == "False"
    assert "pod default/web-" in upgrading["message"] and "disruption budget default/web" in upgrading["message"]
    assert set(machines(cluster, "default")) - planned, "one more while it lasts"
    stuck = next(m for m in machines(cluster, "default").values() if condition(m, "Drained"))
    eventually(lambda: condition(cluster.get("machine", stuck["metadata"]["name"]), "Drained").get("reason") == "DeadlineExceeded")
    told = cluster.kubectl("describe", "machine", stuck["metadata"]["name"]).stdout
    assert "DeadlineExceeded" in told and "disruption budget default/web" in told and "DrainBlocked" in told
    assert "disruption budget default/web" in eventually(
        lambda: cluster.kubectl("get", "events", "-A", "--field-selector=reason=UpgradeBlocked", "-o", "jsonpath={.items[*].message}").stdout)
    serving = cluster.get("pods", "-l", "app=web")["items"]
    assert sum(condition(p, "Ready").get("status") == "True" for p in serving) >= 2
    apply(cluster, budget("web", 1))
    cluster.kubectl("wait", "--for=condition=Upgrading=False", "nodepool/default", "--timeout=5s", check=False)
    eventually(lambda: set(machines(cluster, "default")) == planned
               and condition(cluster.get("nodepool", "default"), "Upgrading").get("reason") == "Done", timeout=120)
    after = machines(cluster, "default")
    assert all(after[name]["spec"]["version"] != version for name, version in before.items())
    assert {n["metadata"]["name"] for n in cluster.get("nodes", "-l", "tier=new")["items"]} == planned
    cluster.kubectl("wait", "--for=condition=Ready", "machine", "--all", "--timeout=60s", timeout=70)
    cluster.kubectl("delete", "deployment/web", "pdb/web")


def test_pending_pods_bring_a_machine_in_their_zone_and_idle_ones_leave(cluster):
    pool = {"apiVersion": "dhow.io/v1", "kind": "NodePool", "metadata": {"name": "burst"},
            "spec": {"min": 0, "max": 2, "idleSeconds": 10, "zones": ["local-east-1", "local-east-2"],
                     "template": {"size": {"cpu": "1", "memory": "512Mi"}}}}
    apply(cluster, pool)
    pod = shell_pod("here", "sleep 100000", container={"resources": {"requests": {"cpu": "600m"}}},
                    nodeSelector={"topology.kubernetes.io/zone": "local-east-2", "dhow.io/pool": "burst"})
    apply(cluster, pod)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/here", "--timeout=90s", timeout=100)
    made = machines(cluster, "burst")
    assert [m["spec"]["zone"] for m in made.values()] == ["local-east-2"]
    assert cluster.get("nodepool", "burst")["spec"]["count"] == 1
    assert "ScaleUp" in cluster.kubectl("describe", "nodepool", "burst").stdout
    node = cluster.get("pod", "here")["spec"]["nodeName"]
    assert node == f"{cluster.name}-burst-1"
    cluster.kubectl("delete", "pod", "here", "--now")
    cluster.kubectl("wait", "--for=delete", f"node/{node}", "--timeout=90s", timeout=100)
    eventually(lambda: not machines(cluster, "burst"))
    cluster.kubectl("delete", "nodepool", "burst")


@pytest.mark.parametrize("spec, why", [
    ('{"count":1,"zones":["nowhere"]}', "no such zone; there are local-east-1, local-east-2: choose one of them"),
    ('{"count":1,"zones":[]}', "name at least one zone"),
    ('{"count":5000,"zones":["local-east-1"]}', "spec.count"),
    ('{"min":4,"max":2,"zones":["local-east-1"]}', "must not be above max, which is 2"),
    ('{"count":1,"surge":0,"zones":["local-east-1"]}', "must be at least 1"),
    ('{"count":1,"zones":["local-east-1"],"template":{"size":{"memory":"1Mi"}}}', "a machine has at least 128Mi"),
    ('{"count":1,"zones":["local-east-1"],"template":{"size":{"cpu":"much"}}}', "quantities must match the regular expression"),
    ('{"count":1,"zones":["local-east-1"],"template":{"labels":{"kubernetes.io/hostname":"x"}}}', "is set by the platform"),
])
def test_pools_that_cannot_be_are_refused_with_what_is_wrong(cluster, spec, why):
    refused = cluster.kubectl("apply", "-f", "-", check=False,
                              input=f'{{"apiVersion":"dhow.io/v1","kind":"NodePool","metadata":{{"name":"bad"}},"spec":{spec}}}')
    assert refused.returncode != 0 and why in refused.stderr, refused.stderr
    assert cluster.kubectl("get", "nodepool", "bad", check=False).returncode != 0


def test_pool_in_a_zone_that_the_region_does_not_have_says_so_and_can_be_taken_back(cluster):
    apply(cluster, {"apiVersion": "dhow.io/v1", "kind": "Zone", "metadata": {"name": "moon"}, "spec": {"region": "local-east"}},
          {"apiVersion": "dhow.io/v1", "kind": "NodePool", "metadata": {"name": "far"}, "spec": {"count": 1, "zones": ["moon"]}})
    cluster.kubectl("wait", "--for=condition=Ready=False", "zone/moon", "--timeout=30s", timeout=40)
    assert "the region has no zone moon, only local-east-1, local-east-2" in condition(cluster.get("zone", "moon"), "Ready")["message"]
    machine = f"{cluster.name}-far-1"
    eventually(lambda: "no zone moon" in cluster.get("machine", machine).get("status", {}).get("message", ""))
    refused = cluster.kubectl("delete", "zone", "moon", check=False)
    assert refused.returncode != 0 and "nodepools far is still in it" in refused.stderr
    cluster.kubectl("delete", "nodepool", "far")
    eventually(lambda: not machines(cluster, "far"))
    cluster.kubectl("delete", "zone", "moon")
