"""The engine's disk is full: what is asked for fails clearly and leaves nothing, what runs goes on, and all is well when there is space again."""

import os

import pytest

from docker_engine import SmallDisk, busybox_layer, docker_archive
from harness import eventually

FULL = "No space left on device"


@pytest.fixture(scope="module")
def engine():
    made = SmallDisk("48m")
    try:
        made.start()
        loaded = made.load(docker_archive("busybox:latest", busybox_layer()))
        assert loaded.returncode == 0, loaded.stderr
        yield made
    finally:
        made.destroy()


@pytest.fixture
def full(engine):
    """The disk is full until the test frees it."""
    engine.filled = True
    engine.fill()
    yield engine
    free(engine)
    ids = engine.lines("ps", "-aq")
    if ids:
        engine.docker("rm", "-fv", *ids)


def free(engine):
    if engine.filled:
        engine.free()
        engine.filled = False


def everything(engine):
    folders = [engine.data() + folder for folder in ("/root/containers", "/root/images/snapshots", "/root/volumes", "/run/sandboxes")]
    return [sorted(os.listdir(folder)) for folder in folders], engine.lines("ps", "-aq"), engine.lines("volume", "ls", "-q")


@pytest.mark.parametrize("args", [
    ["run", "busybox", "true"],
    ["run", "--rm", "busybox", "true"],
    ["create", "busybox"],
    ["create", "-v", "/data", "busybox"],
    ["run", "-v", "new:/data", "busybox", "true"],
    ["volume", "create", "new"],
])
def test_what_needs_space_says_that_there_is_none_and_leaves_nothing(full, args):
    before = everything(full)
    done = full.docker(*args, check=False)
    assert done.returncode in (1, 125)
    assert "Error response from daemon: " in done.stderr and FULL in done.stderr
    assert everything(full) == before
    free(full)
    assert full.docker("run", "--rm", "-v", "new:/data", "busybox", "cat", "/data/seed").stdout == "from the image\n"
    full.docker("volume", "rm", "new")


def test_a_volume_that_cannot_hold_the_images_files_is_not_kept_half_full(full):
    free(full)
    full.load(docker_archive("files:latest", busybox_layer([("data/large", bytes(8 << 20), 0o644)])))
    full.fill()
    full.filled = True
    with open(full.data() + "/ballast", "r+b") as f:
        f.truncate(os.path.getsize(full.data() + "/ballast") - (4 << 20))
    before = everything(full)
    done = full.docker("create", "-v", "new:/data", "files", check=False)
    assert done.returncode == 1 and FULL in done.stderr
    assert everything(full) == before
    free(full)
    assert full.docker("run", "--rm", "-v", "new:/data", "files", "wc", "-c", "/data/large").stdout.split()[0] == str(8 << 20)
    full.docker("volume", "rm", "new")
    full.docker("rmi", "files")


def test_a_container_that_cannot_start_stays_as_it_was_and_starts_later(full):
    free(full)
    full.docker("create", "--name", "later", "busybox", "echo", "ran")
    full.fill()
    full.filled = True
    done = full.docker("start", "later", check=False)
    assert done.returncode == 1 and FULL in done.stderr
    assert full.inspect("later")["State"]["Status"] == "created"
    assert os.listdir(full.data() + "/run/sandboxes") == ["lock"]
    free(full)
    assert full.docker("start", "-a", "later").stdout == "ran\n"


def test_a_running_container_goes_on_and_its_log_resumes_with_whole_lines(full):
    free(full)
    full.docker("run", "-d", "--name", "talks", "--tmpfs", "/t", "busybox", "sh", "-c",
                "i=0; while true; do echo line $i of many; i=$((i+1)); echo $i > /t/now; sleep 0.005; done")
    eventually(lambda: len(full.lines("logs", "talks")) > 20)
    full.fill()
    full.filled = True

    def reached():
        return int(full.docker("exec", "talks", "cat", "/t/now").stdout.strip() or 0)

    at = reached()
    eventually(lambda: reached() > at + 200)
    assert "line 3 of many" in full.lines("logs", "talks")
    full.docker("pause", "talks")
    full.docker("unpause", "talks")
    free(full)
    at = reached()
    eventually(lambda: f"line {at + 20} of many" in full.lines("logs", "talks"))
    lines = [line for line in full.lines("logs", "talks") if line]
    numbers = [int(line.split()[1]) for line in lines if line.endswith(" of many")]
    assert numbers == sorted(set(numbers)), "lines may be missing, but none is torn or out of order"
    assert len(lines) - len(numbers) <= 1, "the one that was cut short by the full disk"


def test_stop_logs_and_removal_need_no_space_and_the_exit_is_kept(full):
    free(full)
    full.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", "echo said; trap 'exit 7' TERM; while true; do sleep 0.05; done")
    full.docker("run", "-d", "--name", "goes", "busybox", "sleep", "100")
    eventually(lambda: full.lines("logs", "ends") == ["said"])
    full.fill()
    full.filled = True
    full.docker("stop", "ends")
    assert full.lines("logs", "ends") == ["said"]
    assert full.inspect("ends")["State"]["ExitCode"] == 7
    full.docker("rm", "-f", "goes")
    free(full)
    state = full.data() + "/root/containers/" + full.inspect("ends")["Id"] + "/state.json"
    eventually(lambda: '"exitCode":7' in open(state).read())
    full.kill()
    full.start()
    assert full.inspect("ends")["State"]["ExitCode"] == 7


def test_an_engine_that_starts_on_a_full_disk_takes_over_what_runs(full):
    free(full)
    full.docker("run", "-d", "--name", "stays", "-p", "8085:80", "busybox", "sleep", "100")
    before = full.inspect("stays")
    full.fill()
    full.filled = True
    full.kill()
    full.start()
    after = full.inspect("stays")
    assert after["State"]["Pid"] == before["State"]["Pid"] and after["NetworkSettings"]["Ports"] == before["NetworkSettings"]["Ports"]
    assert full.docker("exec", "stays", "echo", "well").stdout == "well\n"
