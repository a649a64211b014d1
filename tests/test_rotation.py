"""Certificates that hold for less than a minute: everything goes on past several rotations, and nothing restarts."""

import os
import signal
import subprocess

import pytest
from harness import Cluster, eventually, processes_naming, run
from pods import member_process, role_process

LIFE = 45
EXAMPLE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples/hello")


def serial(path):
    return run(["openssl", "x509", "-noout", "-serial", "-in", path]).stdout.strip()


class Watch:
    """A client that was there before the first rotation."""

    def __init__(self, cluster):
        self.out = open(f"{cluster.data}/watch", "w+")
        self.process = subprocess.Popen(cluster.kubectl_command("get", "configmaps", "-w", "-o", "name"), stdout=self.out, stderr=subprocess.STDOUT)

    def saw(self, name):
        assert self.process.poll() is None, "the watch has ended"
        self.out.seek(0)
        return f"configmap/{name}" in self.out.read()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.out.close()


@pytest.fixture
def brief():
    cluster = Cluster(nodes=2, zones=2)
    try:
        cluster.up("--certificate-seconds", str(LIFE), "--deploy", EXAMPLE)
        cluster.dhow("datastore", "migrate", "--to", "etcd")
        yield cluster
    finally:
        cluster.destroy()


def containers(cluster):
    return sorted((status["containerID"], status["restartCount"]) for pod in cluster.get("pods", "-A")["items"]
                  for status in pod["status"]["containerStatuses"])


def processes(cluster):
    return sorted((pid, line) for role in ("server --config", "agent --config", "region --cluster") for pid, line in processes_naming(f"{role} {cluster.data}"))


def ready(cluster):
    return [condition["status"] for node in cluster.get("nodes")["items"] for condition in node["status"]["conditions"] if condition["type"] == "Ready"]


def test_certificates_rotate_in_running_processes(brief):
    folder = f"{brief.data}/clusters/{brief.name}"
    master = f"{folder}/masters/{brief.name}-master-1"
    files = [f"{folder}/pki/region.pem", f"{folder}/pki/admin.pem", f"{master}/server.pem", f"{master}/etcd.pem",
             *(f"{folder}/nodes/{brief.name}-node-{i}/node.pem" for i in (1, 2))]
    eventually(lambda: ready(brief) == ["True", "True"])
    old = f"{brief.data}/old.kubeconfig"
    run(["cp", brief.kubeconfig, old])
    before, running = containers(brief), processes(brief)
    assert len(running) >= 4
    watch = Watch(brief)
    try:
        seen = {path: {serial(path)} for path in files}
        written = 0

        def rotated():
            nonlocal written
            for path in files:
                seen[path].add(serial(path))
            written += 1
            brief.kubectl("create", "configmap", f"round-{written}")
            eventually(lambda: watch.saw(f"round-{written}"))
            return all(len(serials) > 3 for serials in seen.values())

        eventually(rotated, timeout=6 * LIFE, every=1)
        # Neither a container nor a process has noticed, nor a node.
        assert containers(brief) == before
        assert processes(brief) == running
        assert ready(brief) == ["True", "True"]
    finally:
        watch.stop()

    # What clients have had since the beginning is worth nothing any more, what `up` has left them is.
    refused = run(brief.net.inside(["kubectl", "--kubeconfig", old, "get", "nodes"]), check=False)
    assert refused.returncode != 0 and "Unauthorized" in refused.stderr
    run(brief.net.inside(["kubectl", "--kubeconfig", f"{brief.data}/kubeconfig", "--context", brief.name, "get", "nodes"]))
    # Nodes asked for theirs, and were given them by the cluster.
    asked = brief.kubectl("get", "csr").stdout
    assert f"system:node:{brief.name}-node-1" in asked and "Approved,Issued" in asked and "kubernetes.io/kube-apiserver-client-kubelet" in asked

    # New connections of every kind: tunnels, the registry, etcd's members and their clients.
    pod = brief.get("pods")["items"][0]["metadata"]["name"]
    assert brief.kubectl("logs", pod) is not None
    image = brief.get("pod", pod)["spec"]["containers"][0]["image"]
    brief.docker("pull", image)
    for pid in (member_process(brief, f"{brief.name}-master-1"), role_process(brief, "agent", f"/{brief.name}-node-1/")):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: brief.kubectl("create", "configmap", "after-all", check=False).returncode == 0)
    eventually(lambda: ready(brief) == ["True", "True"])
    eventually(lambda: brief.kubectl("logs", pod, check=False).returncode == 0)
    assert containers(brief) == before
