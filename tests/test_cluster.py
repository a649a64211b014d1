"""The cluster as a new user meets it, through the real kubectl."""

import collections
import json
import os
import signal
import subprocess

import pytest
from harness import eventually, run

IMAGE = "registry.dhow.internal:5000/hello:1"


def ready_pods(cluster, namespace, selector):
    pods = cluster.get("pods", "-n", namespace, "-l", selector)["items"]
    return [
        p for p in pods
        if "deletionTimestamp" not in p["metadata"]
        and any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))
    ]


def zones_by_node(cluster):
    return {n["metadata"]["name"]: n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in cluster.get("nodes")["items"]}


@pytest.fixture
def web(cluster, namespace):
    cluster.kubectl("-n", namespace, "create", "deployment", "web", f"--image={IMAGE}", "--replicas=6")
    cluster.kubectl("-n", namespace, "rollout", "status", "deployment/web", "--timeout=30s")
    return namespace


def test_nodes_are_ready_in_three_zones(cluster):
    out = cluster.kubectl("get", "nodes", "-L", "topology.kubernetes.io/zone").stdout
    lines = out.strip().splitlines()
    assert len(lines) == 4
    assert {line.split()[-1] for line in lines[1:]} == {"local-east-1", "local-east-2", "local-east-3"}
    assert all(line.split()[1] == "Ready" for line in lines[1:])


def test_hello_answers_through_the_load_balancer_from_every_zone(cluster):
    service = cluster.get("service", "hello")
    address = service["status"]["loadBalancer"]["ingress"][0]["ip"]
    seen = set()

    def all_zones():
        seen.update(z for z in ("local-east-1", "local-east-2", "local-east-3") if z in cluster.curl(f"http://{address}/").stdout)
        return len(seen) == 3

    eventually(all_zones, every=0)


def test_deployment_spreads_evenly_over_the_zones(cluster, web):
    zone_of = zones_by_node(cluster)
    pods = ready_pods(cluster, web, "app=web")
    assert collections.Counter(zone_of[p["spec"]["nodeName"]] for p in pods) == {
        "local-east-1": 2, "local-east-2": 2, "local-east-3": 2}


def test_scale_up_and_down(cluster, web):
    cluster.kubectl("-n", web, "scale", "deployment/web", "--replicas=9")
    eventually(lambda: len(ready_pods(cluster, web, "app=web")) == 9)
    cluster.kubectl("-n", web, "scale", "deployment/web", "--replicas=1")
    eventually(lambda: len(cluster.get("pods", "-n", web)["items"]) == 1)


def test_set_image_rolls_out_and_undo_rolls_back(cluster, web):
    cluster.kubectl("-n", web, "set", "env", "deployment/web", "COLOUR=green")
    cluster.kubectl("-n", web, "rollout", "status", "deployment/web", "--timeout=30s")
    # An image that does not exist: the old pods stay until the undo.
    cluster.kubectl("-n", web, "set", "image", "deployment/web", "hello=registry.dhow.internal:5000/hello:missing")
    stuck = cluster.kubectl("-n", web, "rollout", "status", "deployment/web", "--timeout=2s", check=False)
    assert stuck.returncode != 0
    assert len(ready_pods(cluster, web, "app=web")) >= 5
    cluster.kubectl("-n", web, "rollout", "undo", "deployment/web")
    cluster.kubectl("-n", web, "rollout", "status", "deployment/web", "--timeout=30s")
    containers = cluster.get("deployment", "web", "-n", web)["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == IMAGE
    assert {"name": "COLOUR", "value": "green"} in containers[0]["env"]
    history = cluster.kubectl("-n", web, "rollout", "history", "deployment/web").stdout
    assert "REVISION" in history


def test_deleted_pod_is_replaced(cluster, web):
    victim = ready_pods(cluster, web, "app=web")[0]["metadata"]["name"]
    cluster.kubectl("-n", web, "delete", "pod", victim)
    eventually(lambda: len(ready_pods(cluster, web, "app=web")) == 6)
    assert victim not in [p["metadata"]["name"] for p in ready_pods(cluster, web, "app=web")]


def test_killed_container_restarts_in_its_pod(cluster, namespace):
    cluster.kubectl("-n", namespace, "run", "once", f"--image={IMAGE}")
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/once", "--timeout=30s")
    pid = container_pid(cluster, namespace, "once")
    os.kill(pid, signal.SIGKILL)

    def restarted():
        status = cluster.get("pod", "once", "-n", namespace)["status"]["containerStatuses"][0]
        return status["restartCount"] == 1 and status["ready"]

    eventually(restarted)


def container_pid(cluster, namespace, pod):
    """The host's process id of a pod's container, found by the pod's unique id in its cgroup."""
    uid = cluster.get("pod", pod, "-n", namespace)["metadata"]["uid"]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup") as f:
                if uid in f.read() and b"hello" in open(f"/proc/{pid}/cmdline", "rb").read():
                    return int(pid)
        except OSError:
            continue
    raise AssertionError("no process of the pod")


def test_expose_and_dns_from_inside_a_pod(cluster, web, busybox):
    cluster.kubectl("-n", web, "expose", "deployment/web", "--port=80", "--target-port=8080")
    cluster.kubectl("-n", web, "run", "client", f"--image={busybox}", "--command", "--", "sleep", "3600")
    cluster.kubectl("-n", web, "wait", "--for=condition=Ready", "pod/client", "--timeout=30s")
    inside = lambda *command: cluster.kubectl("-n", web, "exec", "client", "--", *command).stdout
    ip = cluster.get("service", "web", "-n", web)["spec"]["clusterIP"]
    assert ip in inside("nslookup", f"web.{web}.svc.cluster.local")
    # Debian's static busybox crashes in its own wget.
    answer = inside("sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {ip} 80")
    assert "hello from pod" in answer


def test_applying_twice_changes_nothing(cluster, namespace, tmp_path):
    manifest = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "twice"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "twice"}},
                 "template": {"metadata": {"labels": {"app": "twice"}},
                              "spec": {"containers": [{"name": "hello", "image": IMAGE, "ports": [{"containerPort": 8080}]}]}}}}
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(manifest))
    assert "created" in cluster.kubectl("-n", namespace, "apply", "-f", str(path)).stdout
    cluster.kubectl("-n", namespace, "rollout", "status", "deployment/twice", "--timeout=30s")
    before = cluster.get("deployment", "twice", "-n", namespace)["metadata"]
    assert "unchanged" in cluster.kubectl("-n", namespace, "apply", "-f", str(path)).stdout
    after = cluster.get("deployment", "twice", "-n", namespace)["metadata"]
    assert before["generation"] == after["generation"] and before["resourceVersion"] == after["resourceVersion"]
    for _ in range(2):
        cluster.kubectl("-n", namespace, "apply", "--server-side", "--force-conflicts", "-f", str(path))
    server_side = cluster.get("deployment", "twice", "-n", namespace)["metadata"]
    cluster.kubectl("-n", namespace, "apply", "--server-side", "-f", str(path))
    assert cluster.get("deployment", "twice", "-n", namespace)["metadata"]["resourceVersion"] == server_side["resourceVersion"]


def test_logs_follow_shows_new_lines(cluster, namespace, busybox):
    cluster.kubectl("-n", namespace, "run", "talker", f"--image={busybox}", "--restart=Never", "--command", "--", "sh", "-c",
                    "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); sleep 0.2; done")
    eventually(lambda: cluster.get("pod", "talker", "-n", namespace)["status"]["phase"] in ("Running", "Succeeded"))
    out = cluster.kubectl("-n", namespace, "logs", "-f", "talker").stdout
    assert out.splitlines() == [f"line {i}" for i in range(5)]
    assert cluster.kubectl("-n", namespace, "logs", "--tail=1", "talker").stdout == "line 4\n"


def test_exec_passes_input_output_and_exit_code(cluster, namespace, busybox):
    cluster.kubectl("-n", namespace, "run", "shell", f"--image={busybox}", "--command", "--", "sleep", "3600")
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/shell", "--timeout=30s")
    piped = cluster.kubectl("-n", namespace, "exec", "-i", "shell", "--", "cat", input="over and back\n")
    assert piped.stdout == "over and back\n"
    failed = cluster.kubectl("-n", namespace, "exec", "shell", "--", "sh", "-c", "echo bad >&2; exit 7", check=False)
    assert failed.returncode == 7 and "bad" in failed.stderr
    terminal = run(["script", "-qec", " ".join(cluster.kubectl_command("-n", namespace, "exec", "-it", "shell", "--", "tty")),
                    "/dev/null"])
    assert "/dev/pts/" in terminal.stdout or "/dev/console" in terminal.stdout


def test_describe_explain_label_watch_and_delete(cluster, namespace):
    cluster.kubectl("-n", namespace, "run", "seen", f"--image={IMAGE}")
    watch = subprocess.Popen(cluster.kubectl_command("-n", namespace, "get", "pod", "seen", "-w"), stdout=subprocess.PIPE, text=True)
    try:
        cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/seen", "--timeout=30s")
        described = cluster.kubectl("-n", namespace, "describe", "pod", "seen").stdout
        assert "Started" in described and "Scheduled" in described and IMAGE in described
        explained = cluster.kubectl("explain", "pod.spec").stdout
        assert "containers" in explained and "FIELDS" in explained
        assert "labeled" in cluster.kubectl("-n", namespace, "label", "pod", "seen", "tier=front").stdout
        assert cluster.get("pods", "-n", namespace, "-l", "tier=front")["items"][0]["metadata"]["name"] == "seen"
        cluster.kubectl("-n", namespace, "delete", "pod", "seen")
    finally:
        watch.terminate()
    lines = watch.communicate()[0].splitlines()
    assert any("Running" in line for line in lines)
    gone = cluster.kubectl("-n", namespace, "get", "pod", "seen", check=False)
    assert gone.returncode == 1 and 'pods "seen" not found' in gone.stderr


def test_second_up_changes_nothing(cluster):
    before = {n["metadata"]["name"]: n["metadata"]["uid"] for n in cluster.get("nodes")["items"]}
    cluster.up()
    assert before == {n["metadata"]["name"]: n["metadata"]["uid"] for n in cluster.get("nodes")["items"]}
