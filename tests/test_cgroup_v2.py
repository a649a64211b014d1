"""A cluster and the engine on a machine whose cgroups are version 2 only, as most machines' are: a whole one in an emulator, with
an older kernel too. Slow (about a minute); skipped where the emulator or the kernel cannot be had."""

import os
import re

import pytest

import cgroup_v2_machine as machine


@pytest.fixture(scope="module")
def console():
    """{check: (exit code, output)} of cgroup_v2_checks.sh."""
    reason = machine.missing()
    if reason:
        pytest.skip(reason)
    text = machine.boot(os.path.join(machine.HERE, "cgroup_v2_checks.sh"))
    found = {name: (int(code), output) for name, output, code in re.findall(r"^@@ ([a-z]+)\n(.*?)^@@ (\d+) \1$", text, re.S | re.M)}
    assert "left" in found, text[-4000:]
    return found


def output(console, name, code=0):
    assert console[name][0] == code, console[name][1]
    return console[name][1]


def test_the_machine_has_version_2_only_and_a_session_as_systemd_lays_it_out(console):
    assert "0::/user.slice/user-0.slice/session-1.scope\n" in output(console, "own")


def test_a_cluster_starts_and_its_application_answers(console):
    assert 'cluster "q" is up' in output(console, "up")
    shown = output(console, "nodes")
    assert len(re.findall(r"^node/q-node-[12]\s+Ready ", shown, re.M)) == 2
    assert len(re.findall(r"^pod/hello-\S+\s+1/1\s+Running", shown, re.M)) == 6
    assert re.match(r"hello from pod hello-\S+ on node q-node-[12] in zone local-east-[12]\n", output(console, "url"))


def test_groups_that_hand_controllers_down_hold_no_process(console):
    groups = re.findall(r"^(dhow\S*) (\d+) \[(.*)\]$", output(console, "groups"), re.M)
    assert len(groups) > 15
    assert [name for name, count, controllers in groups if controllers and count != "0"] == []
    # A node's first processes are in a leaf; each container is in its pod's group.
    assert all(any(name == f"dhow/q/q-node-{n}/init" and count != "0" for name, count, _ in groups) for n in (1, 2))
    pods = [count for name, count, _ in groups if re.fullmatch(r"dhow/q/q-node-[12]/pods/burstable/pod[^/]+/[^/]+", name)]
    assert pods == ["1"] * 6


def test_memory_limits_of_pods_are_set(console):
    assert output(console, "podlimits").split() == [str(32 << 20)] * 12  # of 6 pods and their containers


def test_pods_have_users_of_their_own_on_an_older_kernel(console):
    shown = output(console, "users")
    assert "pod/users condition met" in shown, shown
    assert re.findall(r"^ +0 +(\d+) +65536$", shown, re.M)


def test_limits_of_docker_run_are_seen_inside(console):
    lines = output(console, "limits").splitlines()
    assert lines[:4] == ["0::/", str(64 << 20), "50000 100000", "40"]
    assert re.match(r"cgroup2 on /sys/fs/cgroup type cgroup2 \(ro,", lines[4])


def test_too_much_memory_is_told_as_oom(console):
    assert output(console, "oom") == "code 137\ntrue 137\noom\n"


def test_too_many_processes_are_refused(console):
    assert "can't fork: Resource temporarily unavailable" in output(console, "pids", console["pids"][0])


def test_stats_show_use_and_limits(console):
    cpu, usage, pids = re.search(r"([\d.]+)% (\S+) / 64MiB (\d+)\n", output(console, "stats")).groups()
    assert 20 < float(cpu) < 70 and re.fullmatch(r"[\d.]+[KM]iB", usage) and pids == "1"


def test_pause_freezes_and_unpause_thaws(console):
    assert output(console, "pause").splitlines() == ["busy", "paused", "frozen 1", "busy", "running", "busy"]


def test_devices_are_refused_unless_given(console):
    lines = output(console, "devices").splitlines()
    assert lines == ["made", "head: /tmp/d: Operation not permitted", "0", "3"]
    lines = output(console, "device", 1).splitlines()
    assert lines[0] == "3" and "can't create /dev/disk: Operation not permitted" in lines[1]


def test_a_privileged_container_makes_groups(console):
    assert output(console, "privileged") == "writable\n"


def test_a_node_stops_and_starts_again(console):
    shown = output(console, "again")
    assert re.search(r"^q-node-1\s+Ready", shown, re.M), shown
    assert shown.endswith("\n0\n")


def test_down_leaves_nothing(console):
    assert 'cluster "q" is gone' in output(console, "down")
    # The machine's own locks stay (choose.lock, contexts.lock): whoever removed one could part two commands that wait for it.
    assert [name for name in console["left"][1].split() if not name.endswith((":", ".lock"))] == []
