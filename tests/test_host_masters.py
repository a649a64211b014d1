"""Several masters on separate hosts: upgraded one after the other, restored from a snapshot, leaving and joining; no container is the worse for it."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from builds import build, later, script
from harness import DHOW, PATIENCE, eventually
from hosts import Network, join_command
from test_join import WEB, etcdctl
from test_upgrade import id_of

HERE = os.path.dirname(os.path.abspath(__file__))
LINKS = "/var/lib/dhow/host/programs/"


class Region:
    """Three masters with an etcd and two nodes."""

    def __init__(self):
        self.network = Network(segments=1)
        self.masters = [self.network.host(f"master-{n}", 1) for n in (1, 2, 3)]
        self.nodes = [self.network.host(f"node-{n}", 1) for n in (1, 2)]
        self.first = self.masters[0]
        server, token, pin = join_command(self.first.start("server", "--name", "up", "--store", "etcd", shows="dhow join"))
        for node in self.nodes:
            node.start("join", server, "--token", token, "--ca-hash", pin, "--zone", f"local-{node.name[-1]}", shows="is node")
        for master in self.masters[1:]:
            master.start(*self.first.dhow("token", "create", "--master").stdout.split()[1:], shows="dhow join", timeout=90)
        eventually(lambda: self.voters() == 3)
        # Masters tell that they live by leases, and nodes hear of them.
        eventually(lambda: all(len(n.run("cat", "/var/lib/dhow/host/node/var/masters").stdout.split()) == 3 for n in self.nodes))

    def voters(self):
        return len([m for m in json.loads(etcdctl(self.first, "member", "list", "-w", "json"))["members"] if not m.get("isLearner")])

    def runs(self):
        """The build of each server and agent, as the kernel tells it."""
        found = {}
        for host, role in [(h, "server") for h in self.masters] + [(h, "agent") for h in self.nodes]:
            pid = eventually(lambda: host.role(role))
            found[host.name] = os.readlink(f"/proc/{pid}/exe").split("/programs/")[1].split("/")[0]
        return found

    def containers(self):
        """Every container's id and restarts, and where its process is."""
        return sorted((p["metadata"]["name"], s["containerID"], s["restartCount"], s["state"]["running"]["startedAt"])
                      for p in self.first.get("pods")["items"] for s in p["status"]["containerStatuses"])


@pytest.fixture(scope="module")
def region():
    made = None
    try:
        made = Region()
        yield made
    finally:
        if made:
            made.network.destroy()


def upgrade(host, program=DHOW, *args, check=True):
    return host.run(program, "upgrade", *args, timeout=120, check=check)


def own(master, *args, check=True):
    """A command by the programs that the host runs itself: those under test read no store of a later form."""
    return master.run(f"{LINKS}links/dhow-server/dhow", *args, timeout=120, check=check)


def refused(region, host, program, *args):
    before = region.runs()
    done = upgrade(host, program, *args, check=False)
    assert done.returncode == 1, done.stdout
    assert region.runs() == before
    return done.stderr


def test_masters_then_nodes_are_replaced_under_load(region, tmp_path):
    new, now = build(str(tmp_path / "new"), version=later(1), store="1 2"), id_of(None, DHOW)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}}
    region.first.kubectl("apply", "-f", "-", input=json.dumps(WEB) + json.dumps(service))
    region.first.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
    before = region.containers()
    assert len(before) == 2 and set(region.runs().values()) == {now}
    assert "nothing was to be done" in upgrade(region.first).stdout

    # What cannot go well is refused before anything ends.
    assert "masters come before nodes" in refused(region, region.nodes[0], new)
    far = build(str(tmp_path / "far"), version=later(2))
    assert "too far" in refused(region, region.first, far)
    region.masters[2].run("kill", "-STOP", str(region.masters[2].role("etcd")))
    try:
        assert "the store's member master-3 does not answer" in refused(region, region.first, new)
    finally:
        region.masters[2].run("kill", "-CONT", str(region.masters[2].role("etcd")))

    target = f"{region.nodes[0].address}:30080"
    answers = region.network.router.inside(["curl", "-sf", "-m", "2", f"http://{target}/"])
    eventually(lambda: subprocess.run(answers, capture_output=True).returncode == 0)
    load = subprocess.Popen(region.network.router.inside([sys.executable, f"{HERE}/load.py", target, "100"]), stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    assert load.stdout.readline() == "running\n"
    members = {m.name: m.role("etcd") for m in region.masters}
    # Debian has replaced the second's etcd meanwhile.
    shutil.copy("/usr/bin/etcd", f"{region.network.dir}/etcd")
    region.masters[1].run("mount", "--bind", f"{region.network.dir}/etcd", "/usr/bin/etcd")
    for number, master in enumerate(region.masters):
        began = time.monotonic()
        said = eventually(lambda: (done := upgrade(master, new, check=False)).returncode == 0 and done.stdout)
        print(said, f"{time.monotonic() - began:.1f} s")
        assert f"runs dhow {id_of(None, new)}; before it was {now}" in said and "before-upgrade-" in said
        region.masters[number - 1].kubectl("create", "configmap", f"written-{number}")
    for node in region.nodes:
        assert f"runs dhow {id_of(None, new)}" in upgrade(node, new).stdout
    assert set(region.runs().values()) == {id_of(None, new)}
    # Members are etcd's: only the replaced one has started anew.
    now_members = {m.name: m.role("etcd") for m in region.masters}
    assert {name for name in members if members[name] != now_members[name]} == {"master-2"}
    assert sorted(c["metadata"]["name"] for c in region.first.get("configmaps")["items"] if c["metadata"]["name"].startswith("written")) == [
        "written-0", "written-1", "written-2"]
    load.stdin.close()
    told = load.stdout.read().splitlines()
    load.wait(timeout=10 * PATIENCE)
    assert len(told) == 1 and int(told[0].split()[0]) > 100, told
    assert region.containers() == before
    for node in region.first.get("nodes")["items"]:
        assert node["status"]["nodeInfo"]["kubeletVersion"].endswith(f"+dhow.{later(1)}")
    # And where nothing but etcd is another.
    region.masters[0].run("mount", "--bind", f"{region.network.dir}/etcd", "/usr/bin/etcd")
    assert "started anew with another etcd: 1" in upgrade(region.masters[0], new).stdout
    assert "nothing was to be done" in upgrade(region.masters[0], new).stdout
    pod = before[0][0]
    assert region.first.kubectl("exec", pod, "--", "echo", "hello").stdout == "hello\n"


def test_what_does_not_start_goes_back_and_what_was_cut_short_is_completed(region, tmp_path):
    before, runs = region.containers(), region.runs()
    now = next(iter(runs.values()))
    node, master = region.nodes[0], region.masters[1]
    broken = script(str(tmp_path / "broken"), "exit 1", later(1))
    said = refused(region, node, DHOW, "--to", broken)
    assert f"dhow-agent does not come up with {id_of(None, broken)}" in said and f"it runs {now} again" in said, said
    # The node was not away for so long that its pod has moved.
    assert region.containers() == before
    # Killed before it is through: the next goes on, with what the service was linked to.
    other = build(str(tmp_path / "other"), version=later(1), another=True)
    process = subprocess.Popen(master.inside([other, "upgrade"]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    eventually(lambda: id_of(None, other) in os.readlink(f"/proc/{master.holder.pid}/root{LINKS}links/dhow-server"))
    process.kill()
    process.communicate()
    assert f"runs dhow {id_of(None, other)}" in upgrade(master, other).stdout
    assert region.runs() == runs | {master.name: id_of(None, other)}
    # Back by its id; and a store of a newer form is not given to an older program.
    upgrade(master, DHOW, "--to", now)
    assert region.runs() == runs
    newer = build(str(tmp_path / "newer"), version=later(1), store="2 2", another=True)
    upgrade(master, newer)
    older = build(str(tmp_path / "older"), version=later(1), store="1 1", another=True)
    assert "has form 2" in refused(region, master, older)
    assert region.containers() == before


def test_a_snapshot_is_brought_back_while_masters_share_an_etcd(region):
    """By any of them; the others start anew by themselves."""
    first, second = region.masters[:2]
    before = region.containers()
    first.kubectl("create", "configmap", "earlier")
    saved = first.dhow("snapshot", "save").stdout.split()[1].rstrip(":")
    first.kubectl("create", "configmap", "later")
    file = f"{first.dir}/lib/dhow/{saved.split('/dhow/', 1)[1]}"
    with open(file, "rb") as f, open(f"{region.network.dir}/cut", "wb") as cut:
        cut.write(f.read()[:-100])
    said = own(second, "snapshot", "restore", f"{region.network.dir}/cut", check=False)
    assert said.returncode == 1 and "nothing was changed" in said.stderr, said.stderr
    for again in (False, True):
        servers = {m.name: m.role("server") for m in region.masters}
        done = own(second, "snapshot", "restore", file)
        print(done.stdout)
        assert "restored the state of" in done.stdout and "before-restore-" in done.stdout
        for master in region.masters:
            eventually(lambda: "NotFound" in master.kubectl("get", "configmap", "later", check=False).stderr)
            assert master.get("configmap", "earlier")["metadata"]["name"] == "earlier"
            eventually(lambda: master.role("server") not in (None, servers[master.name]))
        eventually(lambda: region.first.kubectl("get", "nodes", check=False).stdout.count(" Ready") == 2)
        assert region.containers() == before
        region.first.kubectl("create", "configmap", "later")
    # The content before the last but one is gone.
    keys = etcdctl(first, "get", "/", "--prefix", "--keys-only")
    assert [k for k in keys.split() if not k.endswith("!mark")] == [], keys[:500]
    region.first.kubectl("rollout", "restart", "deployment/web")
    region.first.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)


def test_masters_hear_of_one_that_leaves_and_of_one_that_joins(region):
    first, second, third = region.masters

    def known(master):
        options = json.loads(master.run("cat", "/var/lib/dhow/host/master/master.json").stdout)
        assert len(options["etcd"]) == len(options["peers"])
        return set(options["peers"])

    assert all(known(m) == {"master-1", "master-2", "master-3"} for m in region.masters)
    # One that is merely stopped stays known.
    third.dhow("service", "stop")
    eventually(lambda: third.address not in first.kubectl("get", "endpointslice", "kubernetes", "-o", "yaml").stdout)
    assert known(first) == {"master-1", "master-2", "master-3"}
    third.start("service", "run", shows="")
    eventually(lambda: third.address in first.kubectl("get", "endpointslice", "kubernetes", "-o", "yaml").stdout)
    eventually(lambda: region.voters() == 3)
    assert "has left" in third.dhow("leave", "--force", timeout=120).stdout
    eventually(lambda: all(known(m) == {"master-1", "master-2"} for m in (first, second)))
    fourth = region.network.host("master-4", 1)
    fourth.start(*first.dhow("token", "create", "--master").stdout.split()[1:], shows="dhow join", timeout=90,
                 program=f"{second.dir}/lib/dhow/host/programs/links/dhow-server/dhow")
    eventually(lambda: all(known(m) == {"master-1", "master-2", "master-4"} for m in (first, second)))
    eventually(lambda: region.voters() == 3)
    # Two of three are enough, and the new one is one of them: the store of a master whose own member is away.
    stopped = second.role("etcd")
    second.run("kill", "-STOP", str(stopped))
    try:
        for master in (first, fourth, second):
            eventually(lambda: master.kubectl("create", "configmap", f"by-{master.name}", check=False).returncode == 0)
    finally:
        second.run("kill", "-CONT", str(stopped))


def test_a_host_that_leaves_takes_its_programs_along(region):
    node = region.nodes[1]
    assert node.run("ls", LINKS).stdout.split()
    node.dhow("leave", timeout=120)
    assert node.run("ls", "/var/lib/dhow", check=False).stdout == ""
