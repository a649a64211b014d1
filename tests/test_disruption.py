"""PodDisruptionBudgets, and kubectl drain under them."""

import json

from harness import eventually

HELLO = "registry.dhow.internal:5000/hello:1"


def test_drain_honours_disruption_budgets(cluster, namespace):
    def kubectl(*args, **options):
        return cluster.kubectl("-n", namespace, *args, **options)

    kubectl("create", "deployment", "web", f"--image={HELLO}", "--replicas=3")
    kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
    kubectl("create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=3")

    def budget():
        return json.loads(kubectl("get", "pdb", "web", "-o", "json").stdout)["status"]

    eventually(lambda: budget().get("currentHealthy") == 3)
    assert (budget()["disruptionsAllowed"], budget()["desiredHealthy"], budget()["expectedPods"]) == (0, 3, 3)
    header, line = kubectl("get", "pdb").stdout.splitlines()
    assert header.split("  ")[0] == "NAME" and "MIN AVAILABLE   MAX UNAVAILABLE   ALLOWED DISRUPTIONS" in header
    assert line.split()[:4] == ["web", "3", "N/A", "0"]
    node = json.loads(kubectl("get", "pods", "-l", "app=web", "-o", "json").stdout)["items"][0]["spec"]["nodeName"]
    before = set(kubectl("get", "pods", "-l", "app=web", "-o", "name").stdout.split())
    try:
        refused = kubectl("drain", node, "--pod-selector=app=web", "--timeout=3s", check=False)
        assert refused.returncode == 1
        assert "Cannot evict pod as it would violate the pod's disruption budget." in refused.stderr
        assert set(kubectl("get", "pods", "-l", "app=web", "-o", "name").stdout.split()) == before
        kubectl("patch", "pdb", "web", "--type=merge", "-p", '{"spec":{"minAvailable":2}}')
        eventually(lambda: budget()["disruptionsAllowed"] == 1)
        kubectl("drain", node, "--pod-selector=app=web", "--timeout=60s", timeout=70)
        kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
        places = kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}").stdout.split()
        assert len(places) == 3 and node not in places
        eventually(lambda: budget()["disruptionsAllowed"] == 1 and "disruptedPods" not in budget())
    finally:
        kubectl("uncordon", node)
