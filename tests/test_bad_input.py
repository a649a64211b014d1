"""What is wrong is said clearly, in the client's own format, and changes nothing."""

import json

import pytest


@pytest.mark.parametrize("manifest, expected", [
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a}]}", "spec.containers[0].image: Required value"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: X_}\nspec: {containers: [{name: a, image: b}]}", "metadata.name: Invalid value"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, colour: red}]}", 'unknown field "spec.containers[0].colour"'),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: 99999}]}]}", "must be between 1 and 65535"),
    ("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}",
     "`selector` does not match template `labels`"),
    ("kind: Nothing\napiVersion: v1\nmetadata: {name: x}", 'no matches for kind "Nothing" in version "v1"'),
])
def test_malformed_manifests_are_refused_with_the_field(cluster, namespace, manifest, expected):
    done = cluster.kubectl("-n", namespace, "create", "-f", "-", input=manifest, check=False)
    assert done.returncode == 1
    assert expected in done.stderr
    assert cluster.get("pods", "-n", namespace)["items"] == []


def test_wrong_token_is_unauthorized(cluster):
    done = cluster.curl("https://127.0.0.1:{}/api/v1/pods".format(json.load(open(f"{cluster.data}/clusters/{cluster.name}/cluster.json"))["apiPort"]),
                        "-k", "-H", "Authorization: Bearer not.a.token")
    status = json.loads(done.stdout)
    assert status["kind"] == "Status" and status["code"] == 401 and status["reason"] == "Unauthorized"


def test_unreachable_registry_shows_in_the_pod(cluster, namespace):
    from harness import eventually

    cluster.kubectl("-n", namespace, "run", "lost", "--image=127.0.0.1:1/nothing:here")

    def waiting():
        statuses = cluster.get("pod", "lost", "-n", namespace)["status"].get("containerStatuses", [])
        return statuses and statuses[0]["state"].get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff")

    eventually(waiting)
