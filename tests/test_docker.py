"""The container engine with the real docker CLI, and with Docker's Python client."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
import fcntl

import pytest

from docker_engine import Engine, busybox_layer, digest, docker_archive, image_config
from harness import DHOW, eventually, run

NOTHING = {"cgroups": [], "mounts": [], "containers": [], "layers": [], "ports": [], "shims": []}


@pytest.fixture(scope="module")
def engine():
    made = Engine()
    try:
        made.start()
        loaded = made.load(docker_archive("busybox:latest", busybox_layer()))
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout == b"Loaded image: busybox:latest\n"
        yield made
    finally:
        made.destroy()


@pytest.fixture(autouse=True)
def clean(engine):
    """After each test nothing of its containers is left on the machine."""
    yield
    ids = engine.lines("ps", "-aq")
    if ids:
        engine.docker("rm", "-fv", *ids)
    traces = engine.traces()
    assert {key: traces[key] for key in NOTHING} == NOTHING
    # Those that wait ready may stay; the others go together, a moment later.
    eventually(lambda: run(engine.net.inside(["ip", "-o", "link"])).stdout.count("veth") <= 8)


def output(engine, *args):
    return engine.docker("run", "--rm", *args).stdout


def test_version_and_info_name_the_engine(engine):
    version = json.loads(engine.docker("version", "-f", "json").stdout)
    assert version["Server"]["ApiVersion"] == "1.51" and version["Server"]["Os"] == "linux"
    info = json.loads(engine.docker("info", "-f", "json").stdout)
    assert info["Driver"] == "overlay2" and info["OSType"] == "linux"
    assert "name=seccomp,profile=builtin" in info["SecurityOptions"]
    shown = engine.docker("info").stdout
    assert "Storage Driver: overlay2" in shown


def test_run_gives_output_and_exit_code(engine):
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 42", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 42)


@pytest.mark.parametrize("command,code,words", [
    ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH'),
    ("/no/such", 127, 'exec: "/no/such": stat /no/such: no such file or directory'),
    ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
])
def test_a_command_that_cannot_run(engine, command, code, words):
    done = engine.docker("run", "--rm", "busybox", command, check=False)
    assert done.returncode == code
    assert words in done.stderr and "Error response from daemon: failed to create task for container" in done.stderr
    assert engine.lines("ps", "-aq") == []


def test_options_of_run_reach_the_process(engine):
    assert output(engine, "-e", "A=1", "-e", "B=two words", "busybox", "sh", "-c", "echo $A $B") == "1 two words\n"
    assert output(engine, "-w", "/srv/deep", "busybox", "pwd") == "/srv/deep\n"
    assert output(engine, "-u", "web", "busybox", "id") == "uid=33(web) gid=34(web) groups=34(web),77(extra)\n"
    assert output(engine, "-u", "1000:1001", "busybox", "sh", "-c", "id -u; id -g") == "1000\n1001\n"
    assert output(engine, "--entrypoint", "echo", "busybox", "one", "two") == "one two\n"
    assert output(engine, "-h", "ship", "busybox", "hostname") == "ship\n"
    assert output(engine, "--read-only", "busybox", "sh", "-c", "touch /x 2>&1; true") == "touch: /x: Read-only file system\n"
    assert output(engine, "--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", "touch /t/x && echo yes") == "yes\n"
    assert output(engine, "--network", "none", "busybox", "sh", "-c", "ip -o link | wc -l") == "1\n"
    assert output(engine, "--add-host", "far:1.2.3.4", "busybox", "grep", "far", "/etc/hosts") == "1.2.3.4\tfar\n"
    assert output(engine, "--dns", "9.9.9.9", "busybox", "cat", "/etc/resolv.conf") == "nameserver 9.9.9.9\n"
    assert output(engine, "--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status") == "CapEff:\t0000000000000000\n"
    assert output(engine, "--init", "busybox", "sh", "-c", "true; echo ran") == "ran\n"


def test_limits_reach_the_kernel(engine):
    engine.docker("run", "-d", "--name", "limited", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "20", "busybox", "sleep", "100")
    host = engine.inspect("limited")["HostConfig"]
    assert host["Memory"] == 64 << 20 and host["NanoCpus"] == 500000000
    ident = engine.inspect("limited")["Id"]

    def limit(controller, name):
        path = f"/sys/fs/cgroup/{controller}{engine.cgroup}/{ident}/{name}"
        if not os.path.exists(path):
            pytest.skip("cgroup version 2")
        with open(path) as f:
            return f.read().strip()

    assert limit("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert limit("cpu", "cpu.cfs_quota_us") == "50000" and limit("cpu", "cpu.cfs_period_us") == "100000"
    assert limit("pids", "pids.max") == "20"
    stats = json.loads(engine.docker("stats", "--no-stream", "--format", "json", "limited").stdout)
    assert stats["MemUsage"].endswith("/ 64MiB")


def test_limits_and_restart_policy_can_change(engine):
    engine.docker("run", "-d", "--name", "changes", "--memory", "64m", "--cpus", "0.5", "busybox", "sleep", "100")
    assert engine.docker("update", "--memory", "200m", "--memory-swap", "300m", "--cpus", "0.25", "--pids-limit", "30", "--restart", "on-failure:3", "changes").stdout == "changes\n"
    ident = engine.inspect("changes")["Id"]
    if os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        kernel = {name: open(f"/sys/fs/cgroup/{name.split('.')[0]}{engine.cgroup}/{ident}/{name}").read().strip()
                  for name in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", "pids.max"]
                  if os.path.exists(f"/sys/fs/cgroup/{name.split('.')[0]}{engine.cgroup}/{ident}/{name}")}
        assert kernel.items() <= {"memory.limit_in_bytes": str(200 << 20), "memory.memsw.limit_in_bytes": str(300 << 20), "cpu.cfs_quota_us": "25000", "pids.max": "30"}.items()
        assert "memory.limit_in_bytes" in kernel
    engine.kill()
    engine.start()
    host = engine.inspect("changes")["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (200 << 20, 300 << 20, 250000000, 30)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    refused = engine.docker("update", "--memory", "1m", "changes", check=False)
    assert refused.returncode == 1 and "Minimum memory limit allowed is 6MB" in refused.stderr
    assert engine.inspect("changes")["HostConfig"] == host
    engine.docker("run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "100")
    refused = engine.docker("update", "--restart", "always", "brief", check=False)
    assert "Restart policy cannot be updated because AutoRemove is enabled for the container" in refused.stderr


def test_a_health_check_tells_how_a_container_fares(engine):
    engine.docker("run", "-d", "--name", "patient", "--health-cmd", "echo looked; test -e /tmp/well", "--health-interval", "300ms", "--health-retries", "2",
                  "busybox", "sleep", "100")
    assert engine.inspect("patient")["State"]["Health"]["Status"] in ("starting", "unhealthy")
    eventually(lambda: "(unhealthy)" in engine.docker("ps").stdout)
    health = engine.inspect("patient")["State"]["Health"]
    assert health["FailingStreak"] >= 2 and health["Log"][-1]["ExitCode"] == 1 and health["Log"][-1]["Output"] == "looked\n" and len(health["Log"]) <= 5
    engine.docker("exec", "patient", "touch", "/tmp/well")
    eventually(lambda: "(healthy)" in engine.docker("ps").stdout)
    assert engine.lines("ps", "-q", "--filter", "health=healthy") != [] == engine.lines("ps", "-q", "--filter", "health=unhealthy")
    told = engine.lines("events", "--since", "10m", "--until", str(int(time.time()) + 1), "--filter", "container=patient", "--format", "{{.Action}}")
    assert [action for action in told if action.startswith("health_status")] == ["health_status: unhealthy", "health_status: healthy"]
    engine.kill()
    engine.start()
    eventually(lambda: "(healthy)" in engine.docker("ps").stdout)
    engine.docker("stop", "-t", "0", "patient")
    assert engine.docker("inspect", "-f", "{{.State.Status}}", "patient").stdout == "exited\n"


def test_a_health_check_that_hangs_is_ended(engine):
    engine.docker("run", "-d", "--name", "hangs", "--health-cmd", "exec sleep 100", "--health-interval", "100ms", "--health-timeout", "500ms", "--health-retries", "1",
                  "busybox", "sleep", "1000")
    eventually(lambda: engine.inspect("hangs")["State"]["Health"]["Status"] == "unhealthy")
    probe = engine.inspect("hangs")["State"]["Health"]["Log"][0]
    assert probe["ExitCode"] == -1 and probe["Output"] == "Health check exceeded timeout (500ms)"
    engine.docker("rm", "-f", "hangs")  # in the middle of a check
    refused = engine.docker("run", "--health-cmd", "true", "--health-interval", "1us", "busybox", "true", check=False)
    assert refused.returncode == 125 and "Interval in Healthcheck cannot be less than 1ms" in refused.stderr


def test_memory_beyond_the_limit_is_an_oom_kill(engine):
    engine.docker("run", "--name", "greedy", "--memory", "16m", "busybox", "sh", "-c", "exec tail /dev/zero", check=False)
    state = engine.inspect("greedy")["State"]
    assert state["ExitCode"] == 137 and state["OOMKilled"] is True


def test_an_oom_kill_inside_a_container_that_goes_on_is_told_at_once(engine):
    engine.docker("run", "-d", "--name", "survives", "--memory", "16m", "busybox", "sh", "-c", "tail /dev/zero; sleep 100")
    eventually(lambda: engine.inspect("survives")["State"]["OOMKilled"])
    assert engine.inspect("survives")["State"]["Running"] is True
    events = engine.lines("events", "--since", "10m", "--until", str(int(time.time()) + 1), "--filter", "event=oom", "--format", "{{.Action}} {{.Actor.Attributes.name}}")
    assert events[-1] == "oom survives"


def test_volumes_and_binds(engine):
    os.makedirs(engine.dir + "/share")
    with open(engine.dir + "/share/in", "w") as f:
        f.write("from outside\n")
    assert output(engine, "-v", f"{engine.dir}/share:/s", "busybox", "sh", "-c", "cat /s/in; echo back > /s/out") == "from outside\n"
    assert open(engine.dir + "/share/out").read() == "back\n"
    read_only = engine.docker("run", "--rm", "-v", f"{engine.dir}/share:/s:ro", "busybox", "touch", "/s/x", check=False)
    assert read_only.returncode == 1 and "Read-only file system" in read_only.stderr
    assert output(engine, "-v", "kept:/data", "busybox", "sh", "-c", "cat /data/seed; echo more > /data/more") == "from the image\n"
    assert output(engine, "-v", "kept:/data", "busybox", "cat", "/data/more") == "more\n"
    assert "kept" in engine.lines("volume", "ls", "-q")
    engine.docker("volume", "rm", "kept")
    output(engine, "-v", "/anonymous", "busybox", "true")
    assert engine.lines("volume", "ls", "-q") == []


def test_published_ports_answer_from_outside(engine):
    engine.docker("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c",
                  "echo hello > /srv/index.html; exec httpd -f -p 80 -h /srv")
    assert engine.lines("port", "web") == ["80/tcp -> 0.0.0.0:8080"]
    page = eventually(lambda: run(engine.net.inside(["curl", "-s", "--max-time", "2", "http://127.0.0.1:8080/"]), check=False).stdout)
    assert page == "hello\n"
    address = engine.inspect("web")["NetworkSettings"]["IPAddress"]
    assert output(engine, "busybox", "wget", "-qO-", f"http://{address}/") == "hello\n"
    taken = engine.docker("run", "-d", "--name", "second", "-p", "8080:80", "busybox", "sleep", "100", check=False)
    assert taken.returncode == 125 and "port is already allocated" in taken.stderr
    assert engine.inspect("second")["State"]["Status"] == "created"


def test_ps_inspect_stop_start_kill_wait(engine):
    engine.docker("run", "-d", "--name", "box", "--label", "a=b", "busybox", "sh", "-c", "trap 'exit 5' TERM; while true; do sleep 0.1; done")
    shown = json.loads(engine.docker("ps", "--format", "json").stdout)
    assert shown["Names"] == "box" and shown["State"] == "running" and shown["Status"].startswith("Up ")
    header = engine.lines("ps")[0]
    assert re.split(r"\s{2,}", header.strip()) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert engine.lines("ps", "-q", "--filter", "label=a=b") == engine.lines("ps", "-q", "--filter", "name=^box$") != []
    assert engine.lines("ps", "-q", "--filter", "label=a=c") == []
    assert engine.docker("stop", "box").stdout == "box\n"
    state = engine.inspect("box")["State"]
    assert state["Status"] == "exited" and state["ExitCode"] == 5 and state["Pid"] == 0
    assert engine.docker("wait", "box").stdout == "5\n"
    engine.docker("start", "box")
    assert engine.inspect("box")["State"]["Running"] is True
    waiter = subprocess.Popen(engine.command("wait", "box"), env=engine.environment, stdout=subprocess.PIPE, text=True)
    engine.docker("kill", "box")
    assert waiter.communicate(timeout=20)[0] == "137\n"
    again = engine.docker("kill", "box", check=False)
    assert again.returncode == 1 and "is not running" in again.stderr
    assert "Exited (137)" in engine.docker("ps", "-a").stdout
    engine.docker("restart", "box")
    refused = engine.docker("rm", "box", check=False)
    assert refused.returncode == 1 and "container is running: stop the container before removing or force remove" in refused.stderr
    engine.docker("pause", "box")
    assert "(Paused)" in engine.docker("ps").stdout
    engine.docker("unpause", "box")
    engine.docker("rename", "box", "other")
    assert engine.docker("rm", "-f", "other").stdout == "other\n"
    assert engine.docker("inspect", "other", check=False).returncode == 1


def test_logs_keep_every_line_in_order_and_follow(engine):
    engine.docker("run", "-d", "--name", "talks", "busybox", "sh", "-c", "for i in $(seq 1 2000); do echo line $i; done; echo last >&2; sleep 0.3; echo end")
    followed = engine.docker("logs", "-f", "talks")
    assert followed.stdout.splitlines() == [f"line {i}" for i in range(1, 2001)] + ["end"]
    assert followed.stderr == "last\n"
    assert engine.docker("logs", "--tail", "2", "talks").stdout == "end\n"
    stamped = engine.lines("logs", "-t", "--tail", "1", "talks")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z end$", stamped[0])
    assert engine.docker("logs", "--since", "2100-01-01T00:00:00Z", "talks").stdout == ""


def test_standard_input_reaches_the_process_and_ends(engine):
    done = engine.docker("run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo done", input="one\ntwo\n")
    assert done.stdout == "one\ntwo\ndone\n"
    engine.docker("run", "-d", "-i", "--name", "open", "busybox", "cat")
    big = "x" * 300000 + "\n"
    assert engine.docker("exec", "-i", "open", "wc", "-c", input=big).stdout.strip() == str(len(big))


class Terminal:
    """A docker command on a terminal of 33 rows and 99 columns."""

    def __init__(self, engine, *args, program=("docker",)):
        self.controller, terminal = pty.openpty()
        self.resize(33, 99)
        self.process = subprocess.Popen(engine.net.inside([*program, *args]), env={**engine.environment, "TERM": "xterm"}, stdin=terminal, stdout=terminal,
                                        stderr=terminal, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(terminal)
        self.seen = ""

    def resize(self, rows, columns):
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.controller, text.encode())

    def until(self, pattern):
        end = time.monotonic() + 20
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, self.seen
            try:
                self.seen += os.read(self.controller, 65536).decode(errors="replace")
            except OSError:
                assert re.search(pattern, self.seen), self.seen
        return self.seen

    def end(self):
        code = self.process.wait(timeout=20)
        os.close(self.controller)
        return code


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_terminal_has_its_size_and_follows_it(engine, verb):
    if verb == "exec":
        engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
        terminal = Terminal(engine, "exec", "-it", "-e", "PS1=ready>", "box", "sh")
    else:
        terminal = Terminal(engine, "run", "-it", "--rm", "-e", "PS1=ready>", "busybox", "sh")
    terminal.until("ready>")
    terminal.type("tty; stty size\n")
    terminal.until(r"/dev/pts/\d+\s+33 99")
    terminal.resize(20, 70)
    os.killpg(terminal.process.pid, 28)  # SIGWINCH, as a window manager's terminal sends it
    terminal.type("sleep 0.5; stty size\n")
    terminal.until("20 70")
    terminal.type("sleep 100\n")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.type("exit 9\n")
    assert terminal.end() == 9


def test_exec_has_its_own_user_folder_environment_and_code(engine):
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
    done = engine.docker("exec", "-u", "web", "-w", "/srv", "-e", "X=y", "box", "sh", "-c", "id -un; pwd; echo $X; echo e >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("web\n/srv\ny\n", "e\n", 3)
    missing = engine.docker("exec", "box", "nosuch", check=False)
    assert missing.returncode == 127 and 'exec: "nosuch": executable file not found in $PATH' in missing.stdout + missing.stderr
    engine.docker("stop", "-t", "0", "box")
    stopped = engine.docker("exec", "box", "true", check=False)
    assert stopped.returncode == 1 and "is not running" in stopped.stderr


class ChrootEngine(Engine):
    """An engine that runs in a chroot: the root of its mount namespace is above its own."""

    def machine(self, args):
        root = self.dir + "/root"
        os.makedirs(root, exist_ok=True)
        make = 'mount --make-rprivate / && mount --rbind / "$0" && exec chroot "$0" "$@"'
        return super().machine(["unshare", "--mount", "sh", "-c", make, root, *args])


def test_exec_in_a_chroot_stays_in_the_container():
    made = ChrootEngine()
    try:
        made.start()
        assert made.load(docker_archive("busybox:latest", busybox_layer())).returncode == 0
        made.docker("run", "-d", "--name", "box", "busybox", "sleep", "100")
        assert made.docker("exec", "box", "cat", "/data/seed").stdout == "from the image\n"
        assert made.lines("exec", "box", "sh", "-c", "cd /; ls -d /../work /../var/lib 2>/dev/null; ls /proc/1/root/data") == ["seed"]
        made.docker("rm", "-f", "box")
    finally:
        made.destroy()


def test_attach_sees_what_follows(engine):
    engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "sleep 1; echo seen; exit 4")
    done = engine.docker("attach", "box", check=False)
    assert (done.stdout, done.returncode) == ("seen\n", 4)


def test_restart_policy_brings_it_back(engine):
    engine.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "sleep 0.2; exit 1")
    eventually(lambda: engine.inspect("again")["RestartCount"] >= 2)
    engine.docker("stop", "-t", "0", "again")
    assert engine.inspect("again")["State"]["Running"] is False


def test_pull_push_images_and_rmi(engine):
    registry = engine.registry()
    engine.docker("tag", "busybox", f"{registry}/team/box:1")
    pushed = engine.docker("push", f"{registry}/team/box:1").stdout
    assert re.search(r"1: digest: sha256:[0-9a-f]{64} size: \d+", pushed)
    removed = engine.docker("rmi", f"{registry}/team/box:1").stdout
    assert f"Untagged: {registry}/team/box:1" in removed
    pulled = engine.docker("pull", f"{registry}/team/box:1").stdout
    assert "1: Pulling from team/box" in pulled and "Status: Downloaded newer image" in pulled and re.search("Digest: sha256:[0-9a-f]{64}", pulled)
    assert "Status: Image is up to date" in engine.docker("pull", f"{registry}/team/box:1").stdout
    images = [json.loads(line) for line in engine.lines("images", "--format", "json")]
    assert {"busybox", f"{registry}/team/box"} <= {image["Repository"] for image in images}
    header = engine.lines("images")[0]
    assert re.split(r"\s{2,}", header.strip()) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    assert engine.inspect(f"{registry}/team/box:1", "image")["RepoDigests"][0].startswith(f"{registry}/team/box@sha256:")
    engine.docker("rmi", f"{registry}/team/box:1")
    run_by_pull = engine.docker("run", "--rm", f"{registry}/team/box:1", "echo", "pulled")
    assert run_by_pull.stdout == "pulled\n" and "Unable to find image" in run_by_pull.stderr
    engine.docker("run", "-d", "--name", "uses", f"{registry}/team/box:1", "sleep", "100")
    engine.docker("rmi", f"{registry}/team/box:1")
    used = engine.docker("rmi", "busybox", check=False)
    assert used.returncode == 1 and 'conflict: unable to remove repository reference "busybox" (must force)' in used.stderr


# --- bad input

def state(engine):
    return (engine.lines("ps", "-aq", "--no-trunc"), engine.lines("images", "-q", "--no-trunc"), engine.lines("volume", "ls", "-q"))


@pytest.mark.parametrize("args,code,words", [
    (["run", "-m", "1000", "busybox", "true"], 125, "Minimum memory limit allowed is 6MB"),
    (["run", "-m", "64m", "--memory-swap", "32m", "busybox", "true"], 125, "Minimum memoryswap limit should be larger than memory limit"),
    (["run", "--network", "nowhere", "busybox", "true"], 125, "network nowhere not found"),
    (["run", "--name", "-bad", "busybox", "true"], 125, "Invalid container name (-bad), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
    (["run", "-u", "nobody-here", "busybox", "true"], 125, "unable to find user nobody-here: no matching entries in passwd file"),
    (["run", "--mount", "type=bind,source=/no/such/path,target=/x", "busybox", "true"], 125, "bind source path does not exist: /no/such/path"),
    (["run", "localhost:1/none", "true"], 125, 'Error response from daemon: Get "http://localhost:1/v2/": dial tcp '),
    (["run", "localhost:1/none", "true"], 125, ":1: connect: connection refused"),
    (["pull", "localhost:1/none"], 1, 'Error response from daemon: Get "http://localhost:1/v2/": dial tcp '),
    (["pull", "nowhere.invalid/none"], 1, 'Error response from daemon: Get "https://nowhere.invalid/v2/none/manifests/latest": dial tcp: lookup nowhere.invalid: '),
    (["pull", "localhost:1/UPPER"], 1, "invalid reference format: repository name (UPPER) must be lowercase"),
    (["inspect", "nothing"], 1, "o such object: nothing"),
    (["stop", "nothing"], 1, "No such container: nothing"),
    (["rm", "nothing"], 1, "No such container: nothing"),
    (["rmi", "nothing"], 1, "No such image: nothing"),
    (["logs", "nothing"], 1, "No such container: nothing"),
    (["volume", "rm", "nothing"], 1, "get nothing: no such volume"),
])
def test_refusals_are_in_dockers_words_and_change_nothing(engine, args, code, words):
    before = state(engine)
    done = engine.docker(*args, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    engine.docker("container", "prune", "-f")  # a container whose start failed stays, as with Docker
    assert state(engine) == before


def test_a_name_is_taken_once(engine):
    engine.docker("create", "--name", "one", "busybox", "true")
    before = state(engine)
    done = engine.docker("create", "--name", "one", "busybox", "true", check=False)
    assert done.returncode == 1
    assert re.search(r'Conflict. The container name "/one" is already in use by container "[0-9a-f]{64}". You have to remove \(or rename\) that '
                     "container to be able to reuse that name.", done.stderr)
    assert state(engine) == before


@pytest.fixture
def odd_registry(engine):
    """A registry with what must be refused: an index for Windows alone, and layers that are not what they say."""
    known = {"/v2/": ("application/json", b"{}")}

    def image(name, spoil=lambda layer: layer, platform="linux/amd64"):
        layer = busybox_layer([("etc/name", name.encode(), 0o644)])
        served = spoil(layer)
        config = image_config(layer, platform)
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                               "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
                               "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)}]}).encode()
        known[f"/v2/{name}/blobs/{digest(config)}"] = ("application/octet-stream", config)
        known[f"/v2/{name}/blobs/{digest(layer)}"] = ("application/octet-stream", served)
        for reference in ["latest", digest(manifest)]:
            known[f"/v2/{name}/manifests/{reference}"] = ("application/vnd.oci.image.manifest.v1+json", manifest)
        return manifest

    image("corrupt", lambda layer: layer[:5000] + b"damaged" + layer[5007:])
    image("truncated", lambda layer: layer[:5000])
    windows = image("windows", platform="windows/amd64")
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(windows), "size": len(windows),
         "platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.17763.1"}}]}).encode()
    known["/v2/windows-index/manifests/latest"] = ("application/vnd.oci.image.index.v1+json", index)
    path = engine.dir + "/odd.json"
    with open(path, "w") as f:
        json.dump({key: (kind, content.decode("latin-1")) for key, (kind, content) in known.items()}, f)
    server = subprocess.Popen(engine.net.inside([sys.executable, os.path.join(os.path.dirname(__file__), "docker_engine.py"), "5001", path]))
    eventually(lambda: run(engine.net.inside(["curl", "-s", "http://127.0.0.1:5001/v2/"]), check=False).returncode == 0)
    yield "localhost:5001"
    server.kill()
    server.wait()


@pytest.mark.parametrize("name,words", [
    ("windows-index", "no matching manifest for linux/amd64 in the manifest list entries"),
    ("windows", 'image operating system "windows" cannot be used on this platform'),
    ("corrupt", "sha256"),
    ("truncated", "unexpected EOF"),
    ("absent", "manifest"),
])
def test_images_that_must_not_be_taken(engine, odd_registry, name, words):
    before = state(engine)
    done = engine.docker("pull", f"{odd_registry}/{name}", check=False, timeout=120)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    if name == "windows-index":
        assert "windows/amd64" in done.stderr, "it tells which platforms there are"
    assert state(engine) == before


# --- crashes

def test_containers_outlive_a_killed_engine_and_lose_no_line(engine):
    engine.docker("run", "-d", "--name", "counts", "-p", "8081:80", "busybox", "sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done")
    before = engine.inspect("counts")
    eventually(lambda: len(engine.lines("logs", "counts")) > 50)
    for _ in range(3):
        engine.kill()
        time.sleep(0.2)
        engine.start()
    after = engine.inspect("counts")
    for field in ["Pid", "StartedAt", "Status"]:
        assert after["State"][field] == before["State"][field]
    assert after["NetworkSettings"]["IPAddress"] == before["NetworkSettings"]["IPAddress"]
    assert "0.0.0.0:8081->80/tcp" in engine.docker("ps").stdout
    follower = subprocess.Popen(engine.command("logs", "-f", "counts"), env=engine.environment, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    engine.docker("stop", "-t", "0", "counts")
    lines = follower.communicate(timeout=20)[0].splitlines()
    assert len(lines) > 100 and lines == [str(i) for i in range(len(lines))]


def test_an_engine_killed_at_any_moment_leaves_nothing_half_done(engine):
    for moment in range(12):
        clients = [subprocess.Popen(engine.command("run", "--rm", "busybox", "true"), env=engine.environment, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL) for _ in range(3)]
        time.sleep(0.02 * moment)
        engine.kill()
        for client in clients:
            client.wait(timeout=30)
        engine.start()
    for ident in engine.lines("ps", "-aq"):
        assert engine.inspect(ident)["State"]["Status"] in ("created", "exited", "running")
    assert output(engine, "busybox", "echo", "well") == "well\n"


def dhow(engine, *args, check=True, **options):
    return run(engine.net.inside([DHOW, "docker", *args]), check=check, env=engine.environment, **options)


def test_dhow_docker_does_the_same_without_dockers_program(engine):
    if not os.path.exists(DHOW):
        pytest.skip("dhow is not built")
    done = dhow(engine, "run", "--rm", "-e", "A=1", "-w", "/srv", "-u", "web", "busybox", "sh", "-c", "echo $A; pwd; id -u; echo e >&2; exit 42", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n/srv\n33\n", "e\n", 42)
    assert dhow(engine, "run", "-i", "--rm", "busybox", "cat", input="piped\n").stdout == "piped\n"
    missing = dhow(engine, "run", "--rm", "busybox", "nosuch", check=False)
    assert missing.returncode == 127 and 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    refused = dhow(engine, "run", "-m", "1000", "busybox", "true", check=False)
    assert refused.returncode == 125 and "docker: Error response from daemon: Minimum memory limit allowed is 6MB" in refused.stderr
    ident = dhow(engine, "run", "-d", "--name", "box", "-p", "8083:80", "-m", "64m", "--cpus", "0.5", "--read-only", "-v", "/tmp:/t", "busybox", "sh", "-c",
                 "echo hello; exec sleep 100").stdout.strip()
    inspected = json.loads(dhow(engine, "inspect", "box").stdout)[0]
    assert inspected["Id"] == ident and inspected["HostConfig"]["Memory"] == 64 << 20 and inspected["HostConfig"]["ReadonlyRootfs"] is True
    ages = r"\d+ seconds?|Less than a second"
    both = [re.sub(ages, "AGE", text).split() for text in (dhow(engine, "ps").stdout, engine.docker("ps").stdout)]
    assert both[0] == both[1]
    assert dhow(engine, "images").stdout == engine.docker("images").stdout
    assert dhow(engine, "logs", "box").stdout == "hello\n"
    assert dhow(engine, "exec", "box", "sh", "-c", "exit 3", check=False).returncode == 3
    for command in (["stop", "-t", "0"], ["start"], ["kill"]):
        assert dhow(engine, *command, "box").stdout == "box\n"
    assert dhow(engine, "wait", "box").stdout == "137\n"
    assert dhow(engine, "rm", "box").stdout == "box\n"
    gone = dhow(engine, "rm", "box", check=False)
    assert gone.returncode == 1 and gone.stderr == "Error response from daemon: No such container: box\n"
    assert "Server Version" in dhow(engine, "info").stdout and "API version" in dhow(engine, "version").stdout
    registry = engine.registry()
    engine.docker("tag", "busybox", f"{registry}/team/two:1")
    engine.docker("push", f"{registry}/team/two:1")
    assert f"Untagged: {registry}/team/two:1" in dhow(engine, "rmi", f"{registry}/team/two:1").stdout
    assert "Status: Downloaded newer image" in dhow(engine, "pull", f"{registry}/team/two:1").stdout
    dhow(engine, "rmi", f"{registry}/team/two:1")


def test_dhow_docker_has_a_terminal(engine):
    if not os.path.exists(DHOW):
        pytest.skip("dhow is not built")
    terminal = Terminal(engine, "run", "-it", "--rm", "-e", "PS1=ready>", "busybox", "sh", program=[DHOW, "docker"])
    terminal.until("ready>")
    terminal.type("stty size\n")
    terminal.until("33 99")
    terminal.type("exit 9\n")
    assert terminal.end() == 9


def test_python_client(engine):
    script = f"""
import docker
client = docker.DockerClient(base_url="unix://{engine.socket}", version="auto")
assert client.ping() and client.version()["ApiVersion"] == "1.51"
assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\\n"
box = client.containers.run("busybox", "sleep 100", detach=True, name="py", environment={{"A": "b"}}, mem_limit="64m", ports={{"80/tcp": 8082}})
assert [c.name for c in client.containers.list()] == ["py"]
code, out = box.exec_run(["sh", "-c", "sleep 0.2; echo $A; exit 4"])
assert (code, out) == (4, b"b\\n"), (code, out)
code, out = box.exec_run(["sh", "-c", "sleep 0.2; echo o; echo e >&2"], demux=True)
assert out == (b"o\\n", b"e\\n"), out
box.kill()
assert box.wait()["StatusCode"] == 137
assert box.logs() == b""
box.remove()
try:
    client.containers.get("py")
    raise SystemExit("it is still there")
except docker.errors.NotFound:
    pass
try:
    client.containers.run("busybox", "nosuch", remove=True)
    raise SystemExit("it ran")
except docker.errors.APIError as e:
    assert "executable file not found" in str(e), e
assert client.images.get("busybox").tags == ["busybox:latest"]
"""
    # Debian's own client, whatever Python runs the tests.
    run(["/usr/bin/python3", "-c", script], timeout=60)
