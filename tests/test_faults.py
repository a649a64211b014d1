"""What breaks is mended by itself, and what did not break does not notice: masters, agents, shims and whole machines that die."""

import os
import signal
import time

import pytest
from harness import Cluster, eventually, run
from pods import (HELLO, SHELL_IMAGE, apply, endpoint_addresses, in_pod, in_pod_network, main_process, node_is_ready, publish_shell,
                  processes_of, restarts, role_process, shell_pod, shim_of, wait_answers, wait_ready)

COUNT = "i=0; while true; do i=$((i+1)); echo line $i; usleep 20000; done"


@pytest.fixture(scope="module")
def broken():
    """A cluster to break: hello, a shell in a pod and a pod that counts. Each test leaves it whole."""
    made = Cluster()
    try:
        made.up("--deploy", HELLO)
        publish_shell(made)
        apply(made, shell_pod("shell", "sleep 100000"))
        wait_ready(made, "shell")
        yield made
    finally:
        made.destroy()


@pytest.fixture
def shell(broken):
    return broken.get("pod", "shell")


def load_balancer(cluster):
    return cluster.get("service", "hello")["status"]["loadBalancer"]["ingress"][0]["ip"]


def hello_pods(cluster):
    return [p for p in cluster.get("pods", "-l", "app=hello")["items"] if "deletionTimestamp" not in p["metadata"]]


def all_ready(cluster, count=6):
    pods = hello_pods(cluster)
    return len(pods) == count and all(
        any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", [])) for p in pods)


def log_numbers(cluster, pod):
    return [int(line.split()[1]) for line in cluster.kubectl("logs", pod).stdout.splitlines()]


def assert_no_gap(numbers):
    assert numbers == list(range(1, len(numbers) + 1))


def test_applications_run_on_while_the_master_is_stopped(broken, shell):
    eventually(lambda: all_ready(broken))
    address = load_balancer(broken)
    service_ip = broken.get("service", "hello")["spec"]["clusterIP"]
    victim = hello_pods(broken)[0]
    before = restarts(broken)
    master = f"{broken.name}-master-1"
    broken.dhow("machine", "stop", master)
    try:
        assert broken.kubectl("get", "nodes", "--request-timeout=2s", check=False).returncode != 0
        for _ in range(20):
            assert "hello from pod" in broken.curl(f"http://{address}/").stdout
        # A container that dies is started again by its node.
        old = main_process(victim)
        os.kill(old, signal.SIGKILL)
        eventually(lambda: [pid for pid in processes_of(victim) if pid != old])
        victim_url = f"http://{victim['status']['podIP']}:8080/"
        eventually(lambda: victim["metadata"]["name"] in in_pod_network(shell, "curl", "-sS", "-m", "2", victim_url, check=False).stdout)
        # Names and cluster addresses work from inside a pod.
        assert service_ip in in_pod(shell, "nslookup", "hello.default.svc.cluster.local").stdout
        for _ in range(10):
            assert "hello from pod" in in_pod_network(shell, "curl", "-sS", "-m", "2", f"http://{service_ip}/").stdout
    finally:
        broken.dhow("machine", "start", master)
    wait_answers(broken)
    key = next(k for k in before if k[1] == victim["metadata"]["name"])
    eventually(lambda: restarts(broken).get(key) == 1)
    assert restarts(broken) == {**before, key: 1}
    eventually(lambda: all_ready(broken))
    gone = hello_pods(broken)[1]["metadata"]["name"]
    broken.kubectl("delete", "pod", gone)
    eventually(lambda: all_ready(broken) and gone not in [p["metadata"]["name"] for p in hello_pods(broken)])


def test_killed_server_comes_back_with_what_was_written(broken):
    eventually(lambda: all_ready(broken))
    before = restarts(broken)
    for i in range(10):
        broken.kubectl("create", "configmap", f"just-before-{i}", f"--from-literal=n={i}")
    pid = role_process(broken, "server")
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    wait_answers(broken, timeout=5)
    print(f"the API answers {time.monotonic() - began:.2f} s after the kill of its server")
    names = {c["metadata"]["name"] for c in broken.get("configmaps")["items"]}
    assert {f"just-before-{i}" for i in range(10)} <= names
    assert role_process(broken, "server") != pid
    # What the nodes tell after they connect again changes no pod.
    broken.kubectl("scale", "deployment/hello", "--replicas=7")
    eventually(lambda: all_ready(broken, 7))
    broken.kubectl("scale", "deployment/hello", "--replicas=6")
    eventually(lambda: len(hello_pods(broken)) == 6)
    after = restarts(broken)
    assert {k: v for k, v in before.items() if k in after} == {k: v for k, v in after.items() if k in before}
    assert sum(k not in after for k in before) <= 1
    for node in broken.get("nodes")["items"]:
        assert node_is_ready(broken, node["metadata"]["name"])


def test_killed_agent_loses_no_process_and_no_line(broken):
    apply(broken, shell_pod("counter", COUNT))
    pod = wait_ready(broken, "counter")[0]
    node = pod["spec"]["nodeName"]
    beside = [p for p in hello_pods(broken) if p["spec"]["nodeName"] == node]
    before = {p["metadata"]["name"]: main_process(p) for p in [pod, *beside]}
    agent = role_process(broken, "agent", f"/{node}/")
    seen = len(eventually(lambda: log_numbers(broken, "counter")))
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: role_process(broken, "agent", f"/{node}/") != agent)
    eventually(lambda: broken.kubectl("exec", "counter", "--", "echo", "here", check=False).stdout == "here\n")
    eventually(lambda: node_is_ready(broken, node))
    eventually(lambda: len(log_numbers(broken, "counter")) > seen + 20)
    assert_no_gap(log_numbers(broken, "counter"))
    assert before == {p["metadata"]["name"]: main_process(p) for p in [pod, *beside]}
    now = broken.get("pod", "counter")
    assert now["metadata"]["uid"] == pod["metadata"]["uid"] and now["status"]["podIP"] == pod["status"]["podIP"]
    assert now["status"]["containerStatuses"][0]["restartCount"] == 0
    # Its pods are still its own: they end when they are deleted.
    broken.kubectl("delete", "pod", "counter", "--timeout=20s")
    eventually(lambda: not processes_of(pod))


def test_pod_without_its_shim_is_made_again(broken):
    eventually(lambda: all_ready(broken))
    pod = hello_pods(broken)[0]
    name, old = pod["metadata"]["name"], main_process(pod)
    os.kill(shim_of(pod), signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{old}"))

    def remade():
        now = broken.get("pod", name)
        status = now["status"]["containerStatuses"][0]
        return status["restartCount"] >= 1 and status["ready"] and processes_of(now)

    eventually(remade)
    now = broken.get("pod", name)
    assert now["metadata"]["uid"] == pod["metadata"]["uid"]
    url = f"http://{now['status']['podIP']}:8080/"
    assert name in in_pod_network(broken.get("pod", "shell"), "curl", "-sS", "-m", "2", url).stdout
    eventually(lambda: now["status"]["podIP"] in endpoint_addresses(broken, "hello"))


def test_container_over_its_memory_limit_is_told_as_oom_killed(broken):
    # tail keeps the whole line that never ends.
    apply(broken, shell_pod("greedy", "tail -n 1 /dev/zero", restartPolicy="Never",
                            container={"resources": {"limits": {"memory": "16Mi"}}}))
    eventually(lambda: broken.get("pod", "greedy")["status"]["phase"] == "Failed")
    ended = broken.get("pod", "greedy")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    broken.kubectl("delete", "pod", "greedy")


def test_node_whose_machine_is_stopped_leaves_the_service_and_comes_back(broken, shell):
    eventually(lambda: all_ready(broken))
    node = next(n["metadata"]["name"] for n in broken.get("nodes")["items"] if n["metadata"]["name"] != shell["spec"]["nodeName"])
    on_it = [p for p in hello_pods(broken) if p["spec"]["nodeName"] == node]
    assert on_it
    # On purpose: one that dies by itself is repaired (test_zones.py).
    broken.dhow("machine", "stop", node)
    # Nothing of the machine runs on, and the others do not notice.
    eventually(lambda: not any(processes_of(p) for p in on_it))
    eventually(lambda: not node_is_ready(broken, node), timeout=60, every=0.5)
    lost = {p["status"]["podIP"] for p in on_it}
    eventually(lambda: not lost & set(endpoint_addresses(broken, "hello")))
    assert len(endpoint_addresses(broken, "hello")) == 6 - len(lost)
    address = load_balancer(broken)
    for _ in range(20):
        assert "hello from pod" in broken.curl(f"http://{address}/").stdout
    assert "Stopped" in next(line for line in broken.dhow("status").stdout.splitlines() if line.startswith(node + " "))
    broken.dhow("machine", "start", node)
    eventually(lambda: node_is_ready(broken, node))
    eventually(lambda: all_ready(broken))
    assert {p["metadata"]["uid"] for p in on_it} <= {p["metadata"]["uid"] for p in hello_pods(broken)}
    eventually(lambda: len(endpoint_addresses(broken, "hello")) == 6)
