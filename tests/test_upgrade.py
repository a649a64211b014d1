"""`dhow upgrade`: masters, then nodes, without stopping a container; versions one apart together; and every way in which it does not go well."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256

import pytest
from builds import build, later, script
from harness import Cluster, eventually, run
from pods import HELLO, HELLO_IMAGE, apply, main_process, node_is_ready, publish_shell, shell_pod, wait_ready
from writer import Writer

HERE = os.path.dirname(os.path.abspath(__file__))


class Script:
    """A script that runs in the cluster's network until it is stopped."""

    def __init__(self, cluster, name, *args):
        self.process = subprocess.Popen(cluster.net.inside([sys.executable, os.path.join(HERE, name), *args]), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def stop(self):
        self.process.stdin.close()
        text = self.process.stdout.read()
        self.process.wait(timeout=30)
        return text


def made(masters, nodes, folder):
    cluster = Cluster(nodes=nodes, zones=nodes)
    cluster.old = build(os.path.join(folder, "old"), another=True)
    try:
        dhow(cluster, cluster.old, "up", "--nodes", str(nodes), "--zones", str(nodes), "--masters", str(masters), "--deploy", HELLO)
        publish_shell(cluster)
        for number in range(nodes):
            apply(cluster, shell_pod(f"shell-{number}", "i=0; while :; do echo line $i; i=$((i + 1)); sleep 0.05; done",
                                     node=f"{cluster.name}-node-{number + 1}"))
        wait_ready(cluster, *[f"shell-{n}" for n in range(nodes)])
        cluster.docker("run", "-d", "--name", "kept", HELLO_IMAGE)
    except BaseException:
        cluster.destroy()
        raise
    return cluster


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    cluster = made(3, 3, tmp_path_factory.mktemp("three"))
    yield cluster
    cluster.destroy()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    cluster = made(1, 2, tmp_path_factory.mktemp("one"))
    yield cluster
    cluster.destroy()


def dhow(cluster, program, *args, check=True):
    return run(cluster.net.inside([program, *args, "--name", cluster.name, "--data", cluster.data]), timeout=240, check=check)


def id_of(cluster, program):
    """What the cluster calls a build: its version and a digest that it alone has."""
    out = json.loads(run([program, "version", "-o", "json"]).stdout)
    with open(os.path.join(os.path.dirname(program), "dhow-shim"), "rb") as f:
        shim = sha256(f.read()).hexdigest()
    return out["version"] + "-" + sha256((out["build"] + shim).encode()).hexdigest()[:12]


def runs(cluster):
    """The build of each process, as the kernel tells it."""
    programs, found = f"{cluster.data}/clusters/{cluster.name}/programs/", {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read().decode(errors="replace").split("\0")
            exe = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if exe.startswith(programs) and line[0].endswith("/dhow") and line[1] in ("region", "server", "agent", "engine"):
            found[line[0].split("/links/")[1].split("/")[0]] = exe.removeprefix(programs).split("/")[0]
    return found


def all_run(cluster, program, count):
    found = runs(cluster)
    return len(found) == count and set(found.values()) == {id_of(cluster, program)}


def first_process(pod):
    """Children that end meanwhile are no matter."""
    def look():
        try:
            return main_process(pod)
        except FileNotFoundError:
            return None

    return eventually(look)


def containers(cluster):
    """Every container's id, process and restarts, of Kubernetes and of Docker."""
    pods = {p["metadata"]["name"]: (p["status"]["containerStatuses"][0]["containerID"], p["status"]["containerStatuses"][0]["restartCount"],
                                    first_process(p)) for p in cluster.get("pods")["items"]}
    kept = json.loads(cluster.docker("inspect", "kept").stdout)[0]
    return pods | {"kept": (kept["Id"], kept["RestartCount"], kept["State"]["Pid"], kept["State"]["StartedAt"])}


def refused(cluster, program, *args):
    """Runs an upgrade that must be refused with nothing changed; gives what it said."""
    before = runs(cluster)
    done = dhow(cluster, program, "upgrade", *args, check=False)
    assert done.returncode != 0, done.stdout
    assert runs(cluster) == before
    return done.stderr


def number_of(line):
    return int(line.split()[1])


def follow(cluster, lines, state):
    """kubectl logs -f of shell-0, again whenever it ends, until state["ended"]."""
    state["times"] = 0
    while not state.get("ended"):
        state["times"] += 1
        state["process"] = subprocess.Popen(cluster.kubectl_command("logs", "-f", "shell-0"), stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True)
        lines.extend(line.strip() for line in state["process"].stdout if line.startswith("line "))


def balanced(cluster):
    return "http://" + cluster.get("service", "hello")["status"]["loadBalancer"]["ingress"][0]["ip"] + "/"


def test_everything_is_replaced_under_load_and_nothing_stops(three, tmp_path):
    new = build(str(tmp_path / "new"), version=later(1))
    before = containers(three)
    assert all_run(three, three.old, 8)

    # Another build changes nothing by itself, and says so.
    again = dhow(three, new, "up", "--nodes", "3", "--zones", "3", "--masters", "3").stdout
    assert id_of(three, new) in again and "dhow upgrade" in again and all_run(three, three.old, 8)

    writer = Writer(three, "w" + os.urandom(4).hex())
    requests = Script(three, "http_requester.py", balanced(three))
    watcher = Script(three, "api_watcher.py", f"{three.data}/{writer.prefix}.json")
    assert watcher.process.stdout.readline() == "watching\n"
    lines, following = [], {}
    threading.Thread(target=follow, args=(three, lines, following), daemon=True).start()
    eventually(lambda: lines)
    writer.goes_on()

    began = time.monotonic()
    done = dhow(three, new, "upgrade").stdout
    print(done, f"{time.monotonic() - began:.1f} s")
    order = [line.split()[0] for line in done.splitlines() if line.endswith(" ms")]
    masters, nodes = [f"{three.name}-master-{n}" for n in (1, 2, 3)], [f"{three.name}-node-{n}" for n in (1, 2, 3)]
    assert order[-8:] == ["region", *order[-7:-4], *nodes, "engine"] and sorted(order[-7:-4]) == masters, done
    assert all_run(three, new, 8)
    writer.goes_on()

    answered = json.loads(requests.stop())
    assert answered["failed"] == [] and answered["answered"] > 100, answered
    writer.stop()
    writer.nothing_is_lost()
    seen = watcher.stop().split()
    lost = set(writer.acknowledged[writer.acknowledged.index(seen[0]):]) - set(seen) if seen else {"all"}
    assert not lost, f"{len(lost)} of {len(writer.acknowledged)} were not seen by the watch"
    assert containers(three) == before
    # Not one line of what a container said is missing for who follows it, coming again when his master goes.
    reached = len(set(lines))
    eventually(lambda: len(set(lines)) > reached + 5)
    following["ended"] = True
    following["process"].kill()
    assert sorted(set(lines), key=number_of) == [f"line {n}" for n in range(len(set(lines)))], lines
    print(f"kubectl logs -f was started {following['times']} times")

    version = json.loads(three.kubectl("get", "--raw", "/version").stdout)
    assert version["gitVersion"] == f"v1.35.0+dhow.{later(1)}"
    for node in three.get("nodes")["items"]:
        assert node["status"]["nodeInfo"]["kubeletVersion"] == f"v1.35.0+dhow.{later(1)}"
        assert node["metadata"]["annotations"]["dhow.io/program"] == id_of(three, new)
    # What a pod's old shim minds can still be entered.
    assert three.kubectl("exec", "shell-1", "--", "echo", "hello").stdout == "hello\n"
    assert "nothing was to be done" in dhow(three, new, "upgrade").stdout
    assert os.listdir(f"{three.data}/clusters/{three.name}/snapshots") != []


def test_killed_at_any_moment_it_is_completed_by_the_next(three, tmp_path):
    """Back to the version before, by its id, which the cluster has kept; the command is killed again and again."""
    before = containers(three)
    new, old = build(str(tmp_path / "new"), version=later(1)), id_of(three, three.old)
    dhow(three, new, "upgrade")
    requests = Script(three, "http_requester.py", balanced(three))
    kills = 0
    for pause in (0.3, 0.7, 1.1, 1.6, 2.2):
        command = subprocess.Popen(three.net.inside([new, "upgrade", "--to", old, "--name", three.name, "--data", three.data]),
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            command.wait(timeout=pause)
        except subprocess.TimeoutExpired:
            command.kill()
            kills += 1
        command.communicate()
    assert kills >= 2
    mixed = runs(three)
    done = dhow(three, new, "upgrade", "--to", old)
    print(mixed, done.stdout)
    assert all_run(three, three.old, 8)
    answered = json.loads(requests.stop())
    assert answered["failed"] == [], answered
    assert containers(three) == before


def test_members_of_the_store_start_anew_where_debian_has_replaced_etcd(three, tmp_path):
    """The command sees another file, as after an upgrade of Debian's package; each member goes when the one before is back."""
    def members():
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            name = next((word.removeprefix("--name=") for word in line if word.startswith(f"--name={three.name}-master-")), None)
            if name and line[0].endswith("/etcd"):
                found[name] = pid
        return found

    runs_now = next(iter(set(runs(three).values())))
    program = f"{three.data}/clusters/{three.name}/programs/{runs_now}/dhow"
    before, pods = members(), containers(three)
    writer = Writer(three, "e" + os.urandom(4).hex())
    writer.goes_on()
    shutil.copy("/usr/bin/etcd", tmp_path / "etcd")
    command = f"mount --bind {tmp_path}/etcd /usr/bin/etcd && exec {program} upgrade --name {three.name} --data {three.data}"
    done = run(three.net.inside(["unshare", "--mount", "sh", "-c", command]), timeout=120).stdout
    assert "started anew with another etcd: 3 of the store's members" in done, done
    after = members()
    assert len(before) == len(after) == 3 and not set(before.values()) & set(after.values())
    writer.goes_on()
    writer.stop()
    writer.nothing_is_lost()
    assert containers(three) == pods
    assert "nothing was to be done" in dhow(three, program, "upgrade").stdout


def test_builds_of_one_version_are_told_apart_and_half_done_is_a_state_to_live_in(one, tmp_path):
    """The command dies when the master is done: it and perhaps a node are new, the other node is old for a while."""
    new = build(str(tmp_path / "new"), another=True)
    before = containers(one)
    command = subprocess.Popen(one.net.inside([new, "upgrade", "--name", one.name, "--data", one.data]), stdout=subprocess.PIPE, text=True)
    # While the first node is replaced the second one is old for sure.
    for line in command.stdout:
        if line.split()[0] == f"{one.name}-master-1":
            break
    command.kill()
    command.wait()
    found = eventually(lambda: (found := runs(one)) and len(found) == 5 and found)
    assert {found[p] for p in ("region", f"{one.name}-master-1")} == {id_of(one, new)}
    assert {found[p] for p in ("engine", f"{one.name}-node-2")} == {id_of(one, one.old)}
    status = dhow(one, new, "status").stdout
    assert "mixed" in status and id_of(one, one.old) in status and id_of(one, new) in status, status

    names = [f"mixed-{n}" for n in (1, 2)]
    for number, name in enumerate(names, 1):
        apply(one, shell_pod(name, "echo begun; exec sleep 100000", node=f"{one.name}-node-{number}"))
    wait_ready(one, *names)
    for name in names:
        assert one.kubectl("exec", name, "--", "echo", "hello").stdout == "hello\n"
        assert one.kubectl("logs", name).stdout == "begun\n"
    one.kubectl("scale", "deployment/hello", "--replicas=4")
    one.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")
    for name in names:
        one.kubectl("delete", "pod", name)
    one.kubectl("scale", "deployment/hello", "--replicas=6")
    one.kubectl("rollout", "status", "deployment/hello", "--timeout=30s")

    dhow(one, new, "upgrade")
    assert all_run(one, new, 5)
    after = containers(one)
    assert all(after[name] == before[name] for name in ("shell-0", "shell-1", "kept"))
    assert "mixed" not in dhow(one, new, "status").stdout
    one.old = new


def test_what_cannot_go_well_is_refused_before_anything_ends(one, tmp_path):
    far = build(str(tmp_path / "far"), version=later(2))
    said = refused(one, far)
    assert later(2) in said and later(0) in said and "too far" in said
    said = refused(one, one.old, "--to", str(tmp_path / "nothing"))
    assert "nothing" in said
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage/dhow").write_bytes(os.urandom(10000))
    os.chmod(tmp_path / "garbage/dhow", 0o755)
    (tmp_path / "garbage/dhow-shim").write_bytes(b"x")
    assert "no program that a cluster can run" in refused(one, one.old, "--to", str(tmp_path / "garbage"))

    node = f"{one.name}-node-2"
    new = build(str(tmp_path / "new"), version=later(1))

    def ids():
        pods = one.get("pods", "--field-selector", f"spec.nodeName={node}")["items"]
        return {status.get("containerID") for pod in pods for status in pod["status"]["containerStatuses"]}

    ended = ids()
    one.dhow("machine", "stop", node)
    assert f"dhow machine start {node}" in refused(one, new)
    one.dhow("machine", "start", node)
    # Their containers ended with the machine: its node's word is awaited, not what the API still holds of them.
    eventually(lambda: node_is_ready(one, node) and not ids() & (ended | {None}))


def test_what_does_not_start_goes_back_and_the_old_one_goes_on(one, tmp_path):
    before = containers(one)
    # It tells its version, and that is all that it can do: the first to be replaced stays away.
    broken = script(str(tmp_path / "broken"), "exit 1", later(1))
    began = time.monotonic()
    done = dhow(one, one.old, "upgrade", "--to", broken, check=False)
    assert done.returncode != 0 and "region does not come up" in done.stderr and f"it runs {id_of(one, one.old)} again" in done.stderr, done.stderr
    print(f"given up after {time.monotonic() - began:.1f} s: {done.stderr}")
    assert all_run(one, one.old, 5)

    # It is a master, and no node.
    half = build(str(tmp_path / "half"), version=later(1), change=lambda text: text.replace(b"\0agent\0", b"\0agenX\0"))
    done = dhow(one, one.old, "upgrade", "--to", half, check=False)
    node = f"{one.name}-node-1"
    assert done.returncode != 0 and f"{node} does not come up" in done.stderr and "--to " + id_of(one, one.old) in done.stderr, done.stderr
    assert runs(one)[f"{one.name}-master-1"] == id_of(one, half) and runs(one)[node] == id_of(one, one.old)
    eventually(lambda: node_is_ready(one, node))
    dhow(one, one.old, "upgrade", "--to", id_of(one, one.old))
    assert all_run(one, one.old, 5)
    assert containers(one) == before


def test_a_store_of_a_newer_form_is_not_given_to_an_older_program(one, tmp_path):
    new = build(str(tmp_path / "new"), version=later(1), store="2 2")
    before = containers(one)
    dhow(one, new, "upgrade")
    said = refused(one, new, "--to", one.old)
    assert "form 2" in said and later(1) in said and later(0) in said
    # Nor is a program that was not asked: the mark is in the store as well.
    assert containers(one) == before
    dhow(one, new, "down", "--keep-data")
    up = dhow(one, one.old, "up", "--nodes", "2", "--zones", "2", check=False)
    assert up.returncode != 0 and "form 2" in up.stderr and later(1) in up.stderr
    # One that was down starts with the programs of whoever starts it.
    even_newer = build(str(tmp_path / "newer"), version=later(2), store="2 2")
    up = dhow(one, even_newer, "up", "--nodes", "2", "--zones", "2")
    assert f"before it was {id_of(one, new)}" in up.stdout and all_run(one, even_newer, 5)
