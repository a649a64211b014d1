"""up, down and what is asked about a cluster: nothing collides, nothing is left, and what was cut short is taken up again."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

import pytest
from harness import DHOW, Cluster, Namespace, eventually, processes_naming, run
from pods import HELLO, restarts


def mounts():
    with open("/proc/self/mounts") as f:
        return f.read()


def cgroups_naming(name):
    found = []
    for root, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(root, f) for f in folders if f == name]
    return found


class Machine:
    """A network namespace that stands for a machine, its look when it was new, and clusters on it."""

    def __init__(self):
        self.net = Namespace()
        self.clusters = []
        self.before = self.network()

    def network(self):
        """Links, addresses, routes and tables; not what the kernel adds by itself some time after a link went up (its state, IPv6 link-local)."""
        def lines(*command):
            return run(self.net.inside(list(command))).stdout.splitlines()

        # The engine makes networks ready ahead of its containers when it finds the time.
        links = [(link["ifname"], link["mtu"], link.get("master"), link["address"]) for link in json.loads("".join(lines("ip", "-j", "link")))
                 if not (link.get("master") or "").endswith("-engine")]
        routes = lines("ip", "route", "show", "table", "all")
        return {
            "links": sorted(links, key=str),
            "addresses": sorted(lines("ip", "-o", "-4", "address")),
            "routes": sorted(line.rstrip() for line in routes if "fe80::" not in line and "ff00::" not in line),
            "tables": sorted(lines("nft", "list", "tables")),
        }

    def cluster(self, nodes=1, zones=1):
        made = Cluster.__new__(Cluster)
        made.net, made.nodes, made.zones = self.net, nodes, zones
        made.name, made.data = "t" + uuid.uuid4().hex[:7], tempfile.mkdtemp(prefix="dhow-test-")
        self.clusters.append(made)
        return made

    def nothing_left(self, cluster):
        """Looks at once: what `down` leaves to be done later is left."""
        assert not [line for _, line in processes_naming(cluster.data)]
        assert not processes_naming(cluster.name)
        assert cluster.name not in mounts() and cluster.data not in mounts()
        assert not cgroups_naming(cluster.name)
        assert not os.path.exists(f"/run/dhow/{cluster.name}")
        assert not os.path.exists(f"{cluster.data}/clusters/{cluster.name}")

    def network_is_as_before(self):
        """The kernel takes the links of an ended namespace away a moment after its last process."""
        def same():
            now = self.network()
            assert now == self.before
            return True

        return eventually(same)

    def delete(self):
        try:
            for cluster in self.clusters:
                cluster.dhow("down", check=False)
        finally:
            self.net.delete()
            for cluster in self.clusters:
                shutil.rmtree(cluster.data, ignore_errors=True)


@pytest.fixture
def machine():
    made = Machine()
    try:
        yield made
    finally:
        made.delete()


def load_balancer(cluster):
    return cluster.get("service", "hello")["status"]["loadBalancer"]["ingress"][0]["ip"]


def test_two_clusters_side_by_side_do_not_collide(machine):
    first, second = machine.cluster(2, 2), machine.cluster(1, 1)
    for cluster in (first, second):
        cluster.up("--deploy", HELLO)
    plans = []
    for cluster in (first, second):
        with open(f"{cluster.data}/clusters/{cluster.name}/cluster.json") as f:
            plans.append(json.load(f))
    for key in ("index", "podRange", "serviceRange", "apiPort"):
        assert plans[0][key] != plans[1][key]
    addresses = [load_balancer(c) for c in (first, second)]
    assert addresses[0] != addresses[1]
    for cluster, address in zip((first, second), addresses):
        answer = cluster.curl(f"http://{address}/").stdout
        assert f"on node {cluster.name}-node-" in answer
        assert {n["metadata"]["name"].rsplit("-node-")[0] for n in cluster.get("nodes")["items"]} == {cluster.name}
    # Neither notices when the other goes.
    before = restarts(second)
    first.dhow("down")
    machine.nothing_left(first)
    assert f"on node {second.name}-node-" in second.curl(f"http://{addresses[1]}/").stdout
    assert restarts(second) == before
    # What the first had is free again.
    third = machine.cluster(1, 1)
    third.up()
    with open(f"{third.data}/clusters/{third.name}/cluster.json") as f:
        assert json.load(f)["index"] == plans[0]["index"]
    for cluster in (second, third):
        cluster.dhow("down")
        machine.nothing_left(cluster)
    machine.network_is_as_before()


def test_a_name_that_is_taken_with_other_data_is_refused(machine):
    first = machine.cluster()
    first.up()
    other = tempfile.mkdtemp(prefix="dhow-test-")
    try:
        for verb in ("up", "down"):
            refused = run(machine.net.inside([DHOW, verb, "--name", first.name, "--data", other]), check=False)
            assert refused.returncode != 0 and refused.stderr.strip()
        assert os.listdir(other) == []
        assert first.kubectl("get", "--raw", "/readyz").stdout.strip() == "ok"
    finally:
        shutil.rmtree(other)


def test_down_leaves_nothing_of_a_used_cluster(machine):
    cluster = machine.cluster(3, 3)
    mounts_before = mounts()
    cluster.up("--deploy", HELLO)
    assert machine.network() != machine.before
    cluster.kubectl("create", "deployment", "more", "--image=registry.dhow.internal:5000/hello:1", "--replicas=9")
    cluster.kubectl("rollout", "status", "deployment/more", "--timeout=30s")
    cluster.kubectl("exec", "deployment/more", "--", "/hello-is-not-here", check=False)
    cluster.docker("network", "create", "left-over", check=False)
    cluster.docker("volume", "create", "left-over", check=False)
    down = cluster.dhow("down")
    assert "is gone" in down.stdout
    machine.nothing_left(cluster)
    machine.network_is_as_before()
    assert mounts() == mounts_before or cluster.name not in mounts()
    assert os.listdir(cluster.data) in ([], ["clusters"])
    again = cluster.dhow("down", check=False)
    assert again.returncode != 0 and "there is no cluster" in again.stderr


def test_second_up_changes_nothing_and_is_quick(machine):
    cluster = machine.cluster(3, 3)
    cluster.up("--deploy", HELLO)
    eventually(lambda: cluster.get("deployment", "hello")["status"].get("readyReplicas") == 6)

    def state():
        objects = {}
        for kind in ("nodes", "deployments", "replicasets", "pods", "services", "endpointslices"):
            for o in cluster.get(kind, "-A")["items"]:
                objects[(kind, o["metadata"]["name"])] = (o["metadata"]["uid"], o["metadata"].get("generation"), o.get("spec"))
        machines = [line.split()[:3] for line in cluster.dhow("status").stdout.splitlines() if line.startswith(cluster.name + "-")]
        return objects, machines, restarts(cluster), machine.network()

    before = state()
    began = time.monotonic()
    second = cluster.up("--deploy", HELLO)
    print(f"the second up took {time.monotonic() - began:.2f} s")
    assert "is up" in second.stdout
    assert state() == before


@pytest.mark.parametrize("flags, text", [
    (["--nodes", "0"], "--nodes 0"),
    (["--nodes", "-3"], "--nodes -3"),
    (["--nodes", "101"], "--nodes 101"),
    (["--nodes", "many"], "--nodes"),
    (["--nodes", "9", "--zones", "9"], "--zones 9"),
    (["--zones", "0"], "--zones 0"),
    (["--nodes", "1", "--zones", "2"], "--zones 2"),
    (["--masters", "2"], "--masters 2"),
    (["--masters", "9"], "--masters 9"),
    (["--datastore", "mysql"], "--datastore mysql"),
    (["--no-such-flag"], "--no-such-flag"),
    (["--deploy", "/no/such/folder"], "/no/such/folder"),
    (["--deploy", "/proc"], "/proc"),
])
def test_bad_flags_are_refused_and_leave_nothing(machine, flags, text):
    cluster = machine.cluster()
    refused = cluster.dhow("up", *flags, check=False)
    assert refused.returncode != 0 and text in refused.stderr, (refused.stdout, refused.stderr)
    machine.nothing_left(cluster)
    machine.network_is_as_before()
    assert os.listdir(cluster.data) == []


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "-a", "a" * 41])
def test_bad_names_are_refused(machine, name):
    with tempfile.TemporaryDirectory() as data:
        for verb in ("up", "down", "status"):
            refused = run(machine.net.inside([DHOW, verb, f"--name={name}", "--data", data]), check=False)
            assert refused.returncode != 0 and refused.stderr.strip()
        assert os.listdir(data) == []
    machine.network_is_as_before()


def test_other_counts_for_a_cluster_that_exists_are_refused(machine):
    cluster = machine.cluster(2, 1)
    cluster.up()
    before = machine.network()
    refused = cluster.dhow("up", "--nodes", "3", "--zones", "1", check=False)
    assert refused.returncode != 0 and "2 nodes" in refused.stderr
    assert machine.network() == before
    assert len(cluster.get("nodes")["items"]) == 2


def interrupted_up(cluster, seconds):
    """Starts `up` and kills it, with nothing that it could do about it."""
    command = cluster.net.inside([DHOW, "up", "--name", cluster.name, "--data", cluster.data, "--nodes", str(cluster.nodes), "--zones",
                                  str(cluster.zones), "--deploy", HELLO])
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    started.send_signal(signal.SIGKILL)
    started.wait()


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.06, 0.1, 0.2, 0.4])
def test_up_that_was_killed_is_taken_up_again(machine, seconds):
    cluster = machine.cluster(2, 2)
    interrupted_up(cluster, seconds)
    cluster.up("--deploy", HELLO)
    assert "hello from pod" in eventually(lambda: cluster.curl(f"http://{load_balancer(cluster)}/").stdout)
    assert "answers" in cluster.dhow("status").stdout
    cluster.dhow("down")
    machine.nothing_left(cluster)
    machine.network_is_as_before()


@pytest.mark.parametrize("seconds", [0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2, 0.4])
def test_down_of_a_half_made_cluster_leaves_nothing(machine, seconds):
    cluster = machine.cluster(2, 2)
    interrupted_up(cluster, seconds)
    done = cluster.dhow("down", check=False)
    assert done.returncode == 0 or "there is no cluster" in done.stderr, done.stderr
    machine.nothing_left(cluster)
    machine.network_is_as_before()


def test_down_that_was_killed_is_taken_up_again(machine):
    cluster = machine.cluster(2, 2)
    for seconds in (0.02, 0.1, 0.25):
        cluster.up("--deploy", HELLO)
        started = subprocess.Popen(cluster.net.inside([DHOW, "down", "--name", cluster.name, "--data", cluster.data]),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        started.send_signal(signal.SIGKILL)
        started.wait()
        done = cluster.dhow("down", check=False)
        assert done.returncode == 0 or "there is no cluster" in done.stderr, done.stderr
        machine.nothing_left(cluster)
        machine.network_is_as_before()


def test_status_kubeconfig_and_docker_socket_tell_where_things_are(machine):
    cluster = machine.cluster(2, 2)
    for verb in ("status", "kubeconfig", "docker-socket"):
        missing = cluster.dhow(verb, check=False)
        assert missing.returncode != 0 and "there is no cluster" in missing.stderr
    cluster.up()
    status = cluster.dhow("status").stdout
    assert f"CLUSTER   {cluster.name}" in status
    rows = {line.split()[0]: line.split()[1:] for line in status.splitlines() if line.startswith(cluster.name + "-")}
    assert rows[f"{cluster.name}-master-1"][0] == "Running"
    assert rows[f"{cluster.name}-node-1"][0] == "Ready" and rows[f"{cluster.name}-node-1"][2] == "local-east-1"
    assert rows[f"{cluster.name}-node-2"][0] == "Ready" and rows[f"{cluster.name}-node-2"][2] == "local-east-2"
    kubeconfig = cluster.dhow("kubeconfig").stdout.strip()
    assert kubeconfig == cluster.kubeconfig
    assert os.stat(kubeconfig).st_mode & 0o077 == 0
    assert len(json.loads(run(machine.net.inside(["kubectl", "--kubeconfig", kubeconfig, "get", "nodes", "-o", "json"])).stdout)["items"]) == 2
    socket = cluster.dhow("docker-socket").stdout.strip()
    assert socket == cluster.docker_host
    assert run(machine.net.inside(["curl", "-sS", "--unix-socket", socket.removeprefix("unix://"), "http://docker/_ping"])).stdout == "OK"
    wrong = cluster.dhow("machine", "stop", "no-such-machine", check=False)
    assert wrong.returncode != 0 and "no-such-machine" in wrong.stderr
    cluster.dhow("machine", "stop", f"{cluster.name}-master-1")
    stopped = cluster.dhow("status", check=False)
    assert stopped.returncode == 1 and "does not answer" in stopped.stdout
    cluster.dhow("machine", "start", f"{cluster.name}-master-1")
    assert "answers" in cluster.dhow("status").stdout


def test_commands_at_the_same_time_wait_for_each_other(machine):
    cluster = machine.cluster(2, 2)

    def at_once(*commands):
        started = [subprocess.Popen(machine.net.inside([DHOW, *c, "--name", cluster.name, "--data", cluster.data]), text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE) for c in commands]
        outputs = [p.communicate(timeout=60) for p in started]
        return [(p.returncode, *output) for p, output in zip(started, outputs)]

    up = ["up", "--nodes", "2", "--zones", "2"]
    assert all(code == 0 for code, _, err in at_once(up, up))
    assert all(code == 0 and out.count("Ready") == 2 for code, out, err in at_once(*[["status"]] * 4))
    node = f"{cluster.name}-node-1"
    assert all(code == 0 for code, _, err in at_once(["machine", "stop", node], ["machine", "stop", node], up))
    first, second = at_once(["down"], ["down"])
    assert 0 in (first[0], second[0])
    machine.nothing_left(cluster)
    machine.network_is_as_before()
    answers = at_once(up, ["down"], up)
    assert answers[0][0] == 0 and answers[2][0] == 0, answers
    cluster.dhow("down", check=False)
    machine.nothing_left(cluster)
    machine.network_is_as_before()


def test_kept_data_brings_the_objects_back(machine):
    cluster = machine.cluster(2, 2)
    cluster.up("--deploy", HELLO)
    cluster.kubectl("create", "namespace", "kept")
    cluster.kubectl("-n", "kept", "create", "configmap", "settings", "--from-literal=colour=green")
    uids = {o["metadata"]["uid"] for o in cluster.get("deployments")["items"] + cluster.get("configmaps", "-n", "kept")["items"]}
    address = load_balancer(cluster)
    cluster.dhow("down", "--keep-data")
    machine.network_is_as_before()
    assert not processes_naming(cluster.data) and not cgroups_naming(cluster.name)
    assert os.path.exists(f"{cluster.data}/clusters/{cluster.name}/masters/{cluster.name}-master-1/store.db")
    # Asking makes nothing, and a machine alone cannot start.
    status = cluster.dhow("status", check=False)
    assert status.returncode == 1 and status.stdout.count("Stopped") == 3 and "does not answer" in status.stdout
    refused = cluster.dhow("machine", "start", f"{cluster.name}-master-1", check=False)
    assert refused.returncode != 0 and "dhow up" in refused.stderr
    assert not os.path.exists(f"/run/dhow/{cluster.name}") and not cgroups_naming(cluster.name)
    cluster.up()
    kept = cluster.get("configmap", "settings", "-n", "kept")
    assert kept["data"] == {"colour": "green"}
    assert uids == {o["metadata"]["uid"] for o in cluster.get("deployments")["items"] + cluster.get("configmaps", "-n", "kept")["items"]}
    assert load_balancer(cluster) == address
    eventually(lambda: cluster.get("deployment", "hello")["status"].get("readyReplicas") == 6)
    assert "hello from pod" in eventually(lambda: cluster.curl(f"http://{address}/").stdout)
