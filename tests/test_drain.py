"""The drain barrier: pods end in rollouts, scale-downs and drains, and no request is lost; nothing waits for what is dead."""

import os
import signal
import subprocess
import sys
import time

import pytest
from harness import PATIENCE, Cluster, eventually
from pods import HELLO_IMAGE, apply, main_process, publish_shell, role_process, shell_pod, wait_ready

LOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.py")
NAME = "served"
REPLICAS = 6


def served(replicas=REPLICAS, **env):
    """hello ends at SIGTERM: what is open and asks nothing is closed at once. No preStop hook."""
    container = {"name": "hello", "image": HELLO_IMAGE, "env": [{"name": k, "value": v} for k, v in env.items()],
                 "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": NAME}},
                     "template": {"metadata": {"labels": {"app": NAME}}, "spec": {"containers": [container]}}}}


@pytest.fixture(scope="module")
def cluster():
    made = Cluster(nodes=3, zones=3)
    try:
        made.up("--deploy", os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples/hello"))
        made.kubectl("delete", "deployment,service", "hello")
        publish_shell(made)
        apply(made, served(), {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
                               "spec": {"type": "LoadBalancer", "selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]}},
              shell_pod("client", "sleep 100000"))
        made.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=60s")
        wait_ready(made, "client")
        yield made
    finally:
        made.destroy()


class Load:
    """Requests all the time, from outside to the load balancer and a node port and from a pod to the cluster address: a new connection
    each, and on connections that are kept."""

    def __init__(self, cluster, rate=100):
        service = eventually(lambda: (s := cluster.get("service", NAME))["status"].get("loadBalancer", {}).get("ingress") and s)
        node = cluster.get("nodes")["items"][0]
        address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        ways = [(cluster.net.inside([]), f"{service['status']['loadBalancer']['ingress'][0]['ip']}:80"),
                (cluster.net.inside([]), f"{address}:{service['spec']['ports'][0]['nodePort']}"),
                (["nsenter", f"--net=/proc/{main_process(cluster.get('pod', 'client'))}/ns/net", "--"], f"{service['spec']['clusterIP']}:80")]
        self.running = [(target, subprocess.Popen([*where, sys.executable, LOAD, target, str(rate)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
                        for where, target in ways]
        for _, process in self.running:
            assert process.stdout.readline() == "running\n"

    def end(self):
        """How many were sent, and what was lost."""
        sent, lost = 0, []
        for target, process in self.running:
            out, _ = process.communicate("end\n", timeout=60)
            *failures, last = out.splitlines()
            sent += int(last)
            lost += [f"{target} {line}" for line in failures]
        return sent, lost

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, process in self.running:
            process.kill()
            process.wait()


def roll(cluster, run):
    apply(cluster, served(RUN=str(run)))
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=60s", timeout=90)


def events(cluster, reason):
    return [e for e in cluster.get("events")["items"] if e["reason"] == reason]


def test_no_request_is_lost_in_rollouts_scale_downs_and_drains(cluster):
    rounds = int(os.environ.get("DHOW_ROLLOUTS", "3"))
    with Load(cluster) as load:
        for i in range(rounds):
            roll(cluster, i)
            cluster.kubectl("scale", "deployment", NAME, "--replicas=2")
            eventually(lambda: len(cluster.get("pods", "-l", f"app={NAME}")["items"]) == 2)
            cluster.kubectl("scale", "deployment", NAME, f"--replicas={REPLICAS}")
            cluster.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=60s")
            node = f"{cluster.name}-node-{i % 2 + 2}"
            cluster.kubectl("drain", node, "--ignore-daemonsets", "--pod-selector", f"app={NAME}", "--timeout=60s", timeout=90)
            cluster.kubectl("uncordon", node)
            cluster.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=60s")
        sent, lost = load.end()
    print(f"{sent} requests, {len(lost)} lost")
    assert sent > 100 * rounds
    assert not lost, lost[:20]
    assert not events(cluster, "Undrained")


def test_agent_that_is_mute_holds_no_stop_for_longer_than_the_bound(cluster):
    mute = f"{cluster.name}-node-3"
    pod = next(p for p in cluster.get("pods", "-l", f"app={NAME}")["items"] if p["spec"]["nodeName"] != mute)["metadata"]["name"]
    agent = role_process(cluster, "agent", mute)
    os.kill(agent, signal.SIGSTOP)
    try:
        began = time.monotonic()
        cluster.kubectl("delete", "pod", pod, "--timeout=20s")
        took = time.monotonic() - began
    finally:
        os.kill(agent, signal.SIGCONT)
    print(f"the pod was gone after {took:.1f} s")
    assert 2 <= took < 6 * PATIENCE
    told = eventually(lambda: [e for e in events(cluster, "Undrained") if e["involvedObject"]["name"] == pod])
    assert f"not confirmed by {mute}" in told[0]["message"]
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=60s")
