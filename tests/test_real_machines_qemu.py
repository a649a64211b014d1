"""One cluster of two whole machines with systemd: the first becomes its master and a node, the second joins. Slow (about a minute and a
half); skipped where the emulator or the kernel cannot be had."""

import os
import re

import pytest

import cgroup_v2_machine
import real_machines


@pytest.fixture(scope="module")
def consoles():
    reason = real_machines.missing()
    if reason:
        pytest.skip(reason)
    shown = real_machines.boot(os.path.join(cgroup_v2_machine.HERE, "real_machines_checks.sh"))
    one, two = (real_machines.checks(text) for text in shown)
    assert "gone" in one and "left" in two, f"one:\n{shown[0][-4000:]}\ntwo:\n{shown[1][-4000:]}"
    return one, two


def output(found, name, code=0):
    assert found[name][0] == code, found[name][1]
    return found[name][1]


def test_the_machines_become_one_cluster(consoles):
    one, two = consoles
    assert 'cluster "q" is up; this machine is its master "one"' in output(one, "server")
    assert 'this machine is node "two" of cluster "q", in zone east-2' in output(two, "join")
    rows = re.findall(r"^(\S+) +Ready .* (\S+)$", output(one, "nodes"), re.M)
    assert rows == [("one", "east-1"), ("two", "east-2")]


def test_a_pod_on_the_second_answers_through_a_service_on_the_first(consoles):
    answers = re.findall(r"hello from pod web on node two", output(consoles[0], "service"))
    assert len(answers) == 2  # by the cluster's address and by the first machine's node port
    assert output(consoles[0], "tunnel") == "web\n"


def test_systemd_keeps_the_agent_and_the_agent_keeps_containers(consoles):
    one, two = consoles
    units = output(two, "units").splitlines()
    assert units[0] == "active" and set(units[1:]) == {"Type=notify", "KillMode=process", "Delegate=yes", "Restart=always"}
    assert output(two, "restart") == "same containers\n"
    assert output(two, "killed") == "active\nruns on\n"
    assert "hello from pod web on node two" in output(one, "again")
    assert output(one, "status").endswith("active\nactive\n")


def test_both_are_upgraded_under_systemd_and_the_store_is_restored(consoles):
    one, two = consoles
    said = output(one, "upgrade")
    programs = re.findall(r"^/var/lib/dhow/host/programs/(\S+)/dhow$", said, re.M)
    assert len(programs) == 2 and len(set(programs)) == 1 and f"runs dhow {programs[0]}; before it was" in said, said
    said = output(two, "upgrade")
    assert f"/programs/{programs[0]}/dhow" in said and "same containers" in said and "nothing was to be done" in said, said
    said = output(one, "restore")
    assert "the master runs: `systemctl stop dhow-server`" in said and "restored the state of" in said, said
    assert "configmap/earlier" in said and 'configmaps "later" not found' in said and "node/two condition met" in said, said


def test_leaving_takes_everything_along(consoles):
    one, two = consoles
    assert 'this machine has left cluster "q"' in output(two, "leave")
    left = two["left"][1]
    assert "dhow" not in left.replace("/var/lib/dhow:", "").replace("/run/dhow:", ""), left
    assert left.splitlines()[-1] == "0"
    assert "NotReady" in output(one, "gone")
