"""One master and three: what survives the death of any of them, of a member of their store, of most, and of all."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from harness import Cluster, eventually, run
from pods import (HELLO, apply, in_pod, in_pod_network, main_process, member_process, node_is_ready, processes_of, publish_shell, restarts,
                  role_process, shell_pod, wait_answers, wait_ready)
from writer import Writer


def made(masters):
    cluster = Cluster(nodes=3, zones=3)
    try:
        cluster.up("--masters", str(masters), "--deploy", HELLO)
        publish_shell(cluster)
        apply(cluster, shell_pod("shell", "sleep 100000"))
        wait_ready(cluster, "shell")
    except BaseException:
        cluster.destroy()
        raise
    cluster.masters = [f"{cluster.name}-master-{i + 1}" for i in range(masters)]
    return cluster


@pytest.fixture(scope="module")
def three():
    cluster = made(3)
    yield cluster
    cluster.destroy()


@pytest.fixture(scope="module")
def one():
    cluster = made(1)
    yield cluster
    cluster.destroy()


@pytest.fixture(params=["one", "three"])
def any_number(request):
    return request.getfixturevalue(request.param)


def rows(cluster):
    """The machines as `dhow status` lists them: state, process, zone, address by name."""
    out = cluster.dhow("status", check=False).stdout
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(cluster.name + "-") and len(line.split()) == 5}


def leader(cluster):
    return cluster.kubectl("-n", "kube-system", "get", "lease", "dhow-master", "-o", "jsonpath={.spec.holderIdentity}", "--request-timeout=5s",
                           check=False).stdout


def load_balancer(cluster):
    return cluster.get("service", "hello")["status"]["loadBalancer"]["ingress"][0]["ip"]


def hello_pods(cluster):
    return [p for p in cluster.get("pods", "-l", "app=hello")["items"] if "deletionTimestamp" not in p["metadata"]]


def ready(cluster, count=6):
    pods = hello_pods(cluster)
    return len(pods) == count and all(
        any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", [])) for p in pods)


@pytest.fixture
def writer(three):
    started = Writer(three, "w" + os.urandom(4).hex())
    yield started
    if started.process.poll() is None:
        started.stop()


def test_masters_stand_in_zones_of_their_own_and_one_leads(three):
    machines = rows(three)
    assert {machines[m][2] for m in three.masters} == {"local-east-1", "local-east-2", "local-east-3"}
    assert len({machines[m][3] for m in three.masters}) == 3
    assert leader(three) in three.masters
    assert eventually(lambda: [m for m in three.masters if rows(three)[m][0] == "Leads"]) == [leader(three)]


@pytest.mark.parametrize("masters", ["0", "2", "4", "8", "-1", "some"])
def test_numbers_of_masters_that_make_no_sense_are_refused(masters):
    cluster = Cluster(nodes=1, zones=1)
    try:
        refused = cluster.dhow("up", "--masters", masters, check=False)
        assert refused.returncode != 0 and "--masters" in refused.stderr
        assert os.listdir(cluster.data) == []
    finally:
        cluster.destroy()


def test_no_acknowledged_write_is_lost_while_servers_are_killed(three, writer):
    writer.goes_on()
    for master in three.masters:
        os.kill(role_process(three, "server", f"/{master}/"), signal.SIGKILL)
        began = time.monotonic()
        writer.goes_on()
        print(f"20 writes {time.monotonic() - began:.2f} s after the kill of the server of {master}")
        eventually(lambda: rows(three)[master][0] in ("Running", "Leads"))
    writer.stop()
    writer.nothing_is_lost()


def test_no_acknowledged_write_is_lost_while_members_of_the_store_are_killed(three, writer):
    writer.goes_on()
    for master in three.masters:
        old = eventually(lambda: member_process(three, master))
        os.kill(old, signal.SIGKILL)
        writer.goes_on()
        eventually(lambda: member_process(three, master) != old)
        writer.goes_on()
    writer.stop()
    writer.nothing_is_lost()


def test_another_takes_over_when_the_leaders_machine_stops(three, writer):
    before = restarts(three)
    for _ in range(2):
        old = eventually(lambda: leader(three))
        three.dhow("machine", "stop", old)
        began = time.monotonic()
        try:
            new = eventually(lambda: leader(three) not in ("", old) and leader(three))
            print(f"{new} leads {time.monotonic() - began:.2f} s after {old} had stopped")
            writer.goes_on()
            victim = hello_pods(three)[0]["metadata"]["name"]
            three.kubectl("delete", "pod", victim)
            eventually(lambda: ready(three) and victim not in [p["metadata"]["name"] for p in hello_pods(three)])
        finally:
            three.dhow("machine", "start", old)
        eventually(lambda: rows(three)[old][0] == "Running")
    writer.stop()
    writer.nothing_is_lost()
    after = restarts(three)
    assert all(after[k] == n for k, n in before.items() if k in after)


def test_without_a_quorum_writes_fail_with_a_reason_and_workloads_go_on(three):
    address = load_balancer(three)
    down = three.masters[1:]
    for master in down:
        three.dhow("machine", "stop", master)
    try:
        refused = three.kubectl("create", "configmap", "no-quorum", "--request-timeout=20s", check=False)
        assert refused.returncode != 0 and refused.stderr.strip()
        print(refused.stderr.strip())
        for _ in range(10):
            assert "hello from pod" in three.curl(f"http://{address}/").stdout
    finally:
        for master in down:
            three.dhow("machine", "start", master)
    eventually(lambda: three.kubectl("create", "configmap", "quorum", "--request-timeout=5s", check=False).returncode == 0)
    three.kubectl("delete", "configmap", "quorum")


def members(cluster):
    """The store's members as `dhow status` lists them: state by master."""
    out = cluster.dhow("status", check=False).stdout
    return {line.split()[0]: line.split()[1] for line in out[out.find("MEMBER OF"):].splitlines()[1:] if line.startswith(cluster.name + "-")}


def test_a_member_that_lost_its_data_joins_anew(three, writer):
    assert sorted(eventually(lambda: set(members(three).values()) == {"Leads", "Follows"} and members(three))) == three.masters
    lost, other = three.masters[1], three.masters[2]
    three.dhow("machine", "stop", lost)
    shutil.rmtree(f"{three.data}/clusters/{three.name}/masters/{lost}/etcd")
    writer.goes_on()
    three.dhow("machine", "start", lost)
    eventually(lambda: members(three)[lost] in ("Follows", "Leads"), timeout=60)
    # It counts: another may go now.
    three.dhow("machine", "stop", other)
    try:
        writer.goes_on()
    finally:
        three.dhow("machine", "start", other)
    eventually(lambda: set(members(three).values()) == {"Leads", "Follows"})
    writer.stop()
    writer.nothing_is_lost()


def test_workloads_do_without_any_master_and_come_back_from_their_nodes_disks(any_number):
    cluster = any_number
    eventually(lambda: ready(cluster))
    address = load_balancer(cluster)
    service_ip = cluster.get("service", "hello")["spec"]["clusterIP"]
    shell = cluster.get("pod", "shell")
    before = restarts(cluster)
    pods = {p["metadata"]["name"]: p for p in hello_pods(cluster)}
    nodes = sorted({p["spec"]["nodeName"] for p in pods.values()})
    shells_node = shell["spec"]["nodeName"]
    rebooted = next(n for n in nodes if n != shells_node)
    other = next(n for n in nodes if n not in (rebooted, shells_node))
    for master in cluster.masters:
        cluster.dhow("machine", "stop", master)
    try:
        assert cluster.kubectl("get", "nodes", "--request-timeout=2s", check=False).returncode != 0
        for _ in range(20):
            assert "hello from pod" in cluster.curl(f"http://{address}/").stdout
        # A container that dies is started again.
        victim = next(p for p in pods.values() if p["spec"]["nodeName"] == other)
        old = main_process(victim)
        os.kill(old, signal.SIGKILL)
        eventually(lambda: [pid for pid in processes_of(victim) if pid != old])
        # An agent that dies finds its pods again.
        kept = {p["metadata"]["name"]: main_process(p) for p in pods.values() if p["spec"]["nodeName"] == shells_node}
        agent = role_process(cluster, "agent", f"/{shells_node}/")
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: role_process(cluster, "agent", f"/{shells_node}/") != agent)
        assert kept == {p["metadata"]["name"]: main_process(p) for p in pods.values() if p["spec"]["nodeName"] == shells_node}
        # A node that loses its power starts its pods from its own disk.
        lost = [p for p in pods.values() if p["spec"]["nodeName"] == rebooted]
        cluster.dhow("machine", "stop", rebooted)
        assert not any(processes_of(p) for p in lost)
        cluster.dhow("machine", "start", rebooted)
        eventually(lambda: all(processes_of(p) for p in lost))
        # Names and cluster addresses still work from inside a pod, on a node whose agent was started anew.
        assert service_ip in eventually(lambda: in_pod(shell, "nslookup", "hello.default.svc.cluster.local", check=False).stdout)
        for _ in range(10):
            eventually(lambda: "hello from pod" in in_pod_network(shell, "curl", "-sS", "-m", "2", f"http://{service_ip}/", check=False).stdout)
    finally:
        for master in cluster.masters:
            cluster.dhow("machine", "start", master)
    wait_answers(cluster)
    for node in nodes:
        eventually(lambda: node_is_ready(cluster, node))
    # Nothing was doubled, nothing was made anew, and only what died has started again.
    eventually(lambda: ready(cluster))
    assert {p["metadata"]["uid"] for p in hello_pods(cluster)} == {p["metadata"]["uid"] for p in pods.values()}
    touched = {victim["metadata"]["name"], *(p["metadata"]["name"] for p in lost)}
    # Its node tells of the restart when it has found a master again.
    eventually(lambda: any(n > before[k] for k, n in restarts(cluster).items() if k[1] == victim["metadata"]["name"]))
    assert {k: n for k, n in restarts(cluster).items() if k in before and k[1] not in touched} == {
        k: n for k, n in before.items() if k[1] not in touched}
    assert "hello from pod" in eventually(lambda: cluster.curl(f"http://{address}/", check=False).stdout)


def test_the_region_that_is_killed_comes_back_and_loses_no_machine(any_number):
    cluster = any_number
    eventually(lambda: ready(cluster))
    address = load_balancer(cluster)
    before, machines = restarts(cluster), {name: row[1] for name, row in rows(cluster).items()}
    old = role_process(cluster, "region")
    os.kill(old, signal.SIGKILL)
    assert "hello from pod" in cluster.curl(f"http://{address}/").stdout
    wait_answers(cluster)
    assert role_process(cluster, "region") != old
    assert restarts(cluster) == before
    assert eventually(lambda: {name: row[1] for name, row in rows(cluster).items()} == machines)
    # The load balancer follows again.
    cluster.kubectl("scale", "deployment/hello", "--replicas=7")
    eventually(lambda: ready(cluster, 7))
    names = {p["metadata"]["name"] for p in hello_pods(cluster)}
    seen = set()

    def all_answer():
        seen.update(name for name in names if name in cluster.curl(f"http://{address}/", check=False).stdout)
        return seen == names

    eventually(all_answer, every=0)
    cluster.kubectl("scale", "deployment/hello", "--replicas=6")
    eventually(lambda: len(hello_pods(cluster)) == 6)


def test_the_regions_api_is_for_masters_alone(three):
    folder = f"{three.data}/clusters/{three.name}"
    url = f"https://{rows(three)[three.masters[0]][3].rsplit('.', 2)[0]}.0.1:7443/v1/machines"
    ask = lambda *pair: three.curl(url, "--cacert", f"{folder}/pki/ca.crt", *pair, check=False).stdout
    master = f"{folder}/masters/{three.masters[0]}"
    assert f'"name":"{three.masters[0]}"' in ask("--cert", f"{master}/server.pem", "--key", f"{master}/server.pem")
    node = f"{folder}/nodes/{three.name}-node-1"
    assert "PermissionDenied" in ask("--cert", f"{node}/node.pem", "--key", f"{node}/node.pem")
    assert "PermissionDenied" in ask()


def test_masters_use_an_etcd_that_is_there_already():
    cluster = Cluster(nodes=2, zones=2)
    endpoint = "http://10.77.0.1:2379"
    etcd = None
    try:
        run(cluster.net.inside(["ip", "address", "add", "10.77.0.1/32", "dev", "lo"]))
        etcd = subprocess.Popen(cluster.net.inside(["etcd", f"--data-dir={cluster.data}/own-etcd", f"--listen-client-urls={endpoint}",
                                                    f"--advertise-client-urls={endpoint}", "--listen-peer-urls=http://127.0.0.1:2380"]),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: "true" in cluster.curl(f"{endpoint}/health", check=False).stdout)
        cluster.up("--masters", "2", "--datastore", f"etcd={endpoint}")
        cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        keys = cluster.curl(f"{endpoint}/v3/kv/range", "-X", "POST", "-d", '{"key": "Lw==", "range_end": "MA==", "keys_only": true}').stdout
        found = [base64.b64decode(entry["key"]).decode() for entry in json.loads(keys)["kvs"]]
        assert f"/dhow/{cluster.name}/registry/configmaps/default/kept" in found
        assert all(key.startswith(f"/dhow/{cluster.name}/") for key in found)
        # Two masters over a store of their own need no majority of masters.
        cluster.dhow("machine", "stop", eventually(lambda: leader(cluster)))
        eventually(lambda: rows(cluster) and cluster.kubectl("create", "configmap", "on-one", check=False).returncode == 0)
        refused = cluster.dhow("up", "--masters", "1", "--nodes", "2", "--zones", "2", check=False)
        assert refused.returncode != 0 and "--datastore" in refused.stderr
    finally:
        cluster.destroy()
        if etcd:
            etcd.kill()
            etcd.wait()
