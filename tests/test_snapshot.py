"""The store's content saved, lost and brought back, with one master and with three; and moved to etcd under way."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from harness import DHOW, Cluster, eventually
from pods import apply, main_process, publish_shell, shell_pod, wait_answers, wait_ready
from writer import Writer

needs_etcd = pytest.mark.skipif(not shutil.which("etcd"), reason="etcd is not installed")


def made(masters, zones=3):
    cluster = Cluster(nodes=zones, zones=zones)
    try:
        cluster.up("--masters", str(masters))
        publish_shell(cluster)
        apply(cluster, shell_pod("stays", "sleep 100000"), shell_pod("lost", "sleep 100000"))
        wait_ready(cluster, "stays", "lost")
    except BaseException:
        cluster.destroy()
        raise
    return cluster


@pytest.fixture(params=[1, pytest.param(3, marks=needs_etcd)])
def cluster(request):
    cluster = made(request.param)
    yield cluster
    cluster.destroy()


@pytest.fixture
def one():
    cluster = made(1, zones=1)
    yield cluster
    cluster.destroy()


def snapshots(cluster):
    header, *lines = cluster.dhow("snapshot", "list").stdout.splitlines()
    assert header.split() == ["NAME", "CREATED", "REVISION", "OBJECTS", "SIZE"]
    return [line.split()[0] for line in lines]


def revision(cluster):
    return int(json.loads(cluster.kubectl("get", "--raw", "/api/v1/configmaps").stdout)["metadata"]["resourceVersion"])


def is_gone(cluster, kind, name):
    return "NotFound" in cluster.kubectl("get", kind, name, check=False).stderr


def test_what_was_lost_is_brought_back_and_what_stayed_is_not_touched(cluster, tmp_path):
    cluster.kubectl("create", "configmap", "settings", "--from-literal=a=1")
    stays = cluster.get("pod", "stays")
    pid = main_process(stays)
    saved = cluster.dhow("snapshot", "save").stdout
    path = re.search(r"saved (\S+): revision \d+, \d+ objects", saved)[1]
    name = os.path.basename(path)
    assert os.stat(path).st_mode & 0o777 == 0o600 and name in snapshots(cluster)

    lost = cluster.get("pod", "lost")
    cluster.kubectl("delete", "pod", "lost", "--now")
    cluster.kubectl("delete", "configmap", "settings")
    cluster.kubectl("create", "configmap", "later")
    before = revision(cluster)

    # What is not whole, or of another cluster, changes nothing.
    with open(path, "rb") as f:
        whole = f.read()
    for what, content in {"cut": whole[:-1], "flipped": whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:], "other": b"PK" * 500,
                          "empty": b""}.items():
        (tmp_path / what).write_bytes(content)
        refused = cluster.dhow("snapshot", "restore", str(tmp_path / what), check=False)
        assert refused.returncode == 1 and "nothing was changed" in refused.stderr, refused.stderr
    refused = cluster.dhow("snapshot", "restore", "none", check=False)
    assert refused.returncode == 1 and "dhow snapshot list" in refused.stderr
    assert not is_gone(cluster, "configmap", "later") and is_gone(cluster, "configmap", "settings")

    restored = cluster.dhow("snapshot", "restore", name).stdout
    kept = re.search(r"is kept in (\S+)", restored)[1]
    assert os.path.exists(kept)
    wait_answers(cluster)
    assert cluster.get("configmap", "settings")["data"] == {"a": "1"}
    assert is_gone(cluster, "configmap", "later")
    assert revision(cluster) > before, "no client takes what is new for old"

    back = eventually(lambda: (pod := cluster.get("pod", "lost")) and pod["status"].get("phase") == "Running" and main_process(pod) and pod)
    assert back["metadata"]["uid"] == lost["metadata"]["uid"]
    # The status of the past gives way to what is.
    eventually(lambda: (status := cluster.get("pod", "lost")["status"]["containerStatuses"][0])["ready"]
               and status["containerID"] != lost["status"]["containerStatuses"][0]["containerID"])
    wait_ready(cluster, "lost")
    assert main_process(stays) == pid, "the container of a pod that is in both was not restarted"
    now = cluster.get("pod", "stays")
    assert now["status"]["containerStatuses"][0]["restartCount"] == 0 and now["status"]["podIP"] == stays["status"]["podIP"]
    # Controllers and scheduler work on the restored state.
    cluster.kubectl("create", "configmap", "after")
    apply(cluster, shell_pod("new", "sleep 100000"))
    wait_ready(cluster, "new")


def test_a_snapshot_of_another_cluster_is_refused_by_name(one, tmp_path):
    other = Cluster(nodes=1, zones=1)
    try:
        other.up()
        path = str(tmp_path / "theirs")
        other.dhow("snapshot", "save", path)
        refused = one.dhow("snapshot", "restore", path, check=False)
        assert refused.returncode == 1
        assert other.name in refused.stderr and "another cluster" in refused.stderr and "--other-cluster" in refused.stderr
        assert not is_gone(one, "pod", "stays")
    finally:
        other.destroy()


def test_the_leading_master_saves_regularly():
    cluster = Cluster(nodes=1, zones=1)
    try:
        refused = cluster.dhow("up", "--nodes", "1", "--zones", "1", "--snapshot-every", "soon", check=False)
        assert refused.returncode != 0 and "--snapshot-every" in refused.stderr
        cluster.up("--snapshot-every", "1s")
        eventually(lambda: len([s for s in snapshots(cluster) if s.startswith("auto-")]) >= 2)
    finally:
        cluster.destroy()


@needs_etcd
def test_a_cluster_moves_to_etcd_under_writes(one):
    pid = main_process(one.get("pod", "stays"))
    store = f"{one.data}/clusters/{one.name}/masters/{one.name}-master-1/store.db"
    refused = one.dhow("datastore", "migrate", "--to", "paper", check=False)
    assert refused.returncode != 0
    writer = Writer(one, "moved")
    try:
        writer.goes_on()
        before = revision(one)
        # Cut short: either store is in charge, and `up` completes it.
        command = subprocess.Popen(one.net.inside([DHOW, "datastore", "migrate", "--to", "etcd", "--name",
                                                   one.name, "--data", one.data]), stdout=subprocess.PIPE, text=True)
        assert "master stopped" in command.stdout.readline()
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        one.up()
        wait_answers(one)
        writer.goes_on()
    finally:
        writer.stop()
    assert not os.path.exists(store) and os.path.exists(store + ".moved-to-etcd")
    writer.nothing_is_lost()
    assert revision(one) > before
    assert "MEMBER OF THE STORE" in one.dhow("status").stdout
    again = one.dhow("datastore", "migrate", "--to", "etcd", check=False)
    assert again.returncode == 1 and "etcd already" in again.stderr
    assert main_process(one.get("pod", "stays")) == pid
    apply(one, shell_pod("new", "sleep 100000"))
    wait_ready(one, "new")
    # What came over is kept like all else.
    one.dhow("snapshot", "save")
    one.kubectl("delete", "configmaps", "--all")
    one.dhow("snapshot", "restore", snapshots(one)[0])
    wait_answers(one)
    writer.nothing_is_lost()
    assert main_process(one.get("pod", "stays")) == pid
