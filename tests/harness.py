"""A cluster of one's own for tests: in a network namespace of its own, with its data in a temporary folder."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid

BUILD = os.environ.get("DHOW_BUILD", os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build"))
DHOW = os.path.join(BUILD, "dhow")


def is_sanitized():
    try:
        with open(os.path.join(BUILD, "CMakeCache.txt")) as f:
            return re.search(r"^DHOW_SANITIZE:\w+=.", f.read(), re.MULTILINE) is not None
    except OSError:
        return False


SANITIZED = is_sanitized()
# Programs under sanitizers are slower: limits are as much longer. What is expected stays the same.
PATIENCE = 6 if SANITIZED else 1
# What a sanitizer prints when it ends a program: commands show it, and daemons write it into their logs.
REPORT = re.compile(r"(ERROR|WARNING): (Address|Leak|Thread)Sanitizer|\.(cc|h|hpp|ipp):\d+:\d+: runtime error: ")
watched_logs, seen_reports = set(), set()


class SanitizerReport(Exception):
    """Not an AssertionError: that would mean "not yet" to eventually()."""

    def __init__(self, whose, text):
        super().__init__(f"a sanitizer's report in {whose}\n{text[:8000]}")


def watch_logs(pattern):
    watched_logs.add(pattern)


def check_logs():
    """Fails once for every sanitizer's report in the logs of daemons; each test ends with it."""
    for path in [p for pattern in watched_logs for p in glob.glob(pattern)] if SANITIZED else []:
        with open(path, errors="replace") as f:
            text = f.read()
        for match in REPORT.finditer(text):
            if (path, match.start()) not in seen_reports:
                seen_reports.add((path, match.start()))
                raise SanitizerReport(path, text[match.start():])


def run(args, timeout=60, check=True, **options):
    """Runs a command; a failure shows what it printed."""
    args = patient(args)
    done = subprocess.run(args, capture_output=True, text=True, timeout=timeout * PATIENCE, **options)
    if SANITIZED and (report := REPORT.search(done.stderr)):
        raise SanitizerReport(" ".join(args), done.stderr[report.start():])
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def patient(args):
    """Makes the limits among a client's options as long as those of the tests."""
    return [re.sub(r"^((?:--timeout=)?)(\d+)s$", lambda m: f"{m[1]}{int(m[2]) * PATIENCE}s", a) if "timeout" in a or b == "--timeout" else a
            for b, a in zip(["", *args], args)]


def eventually(probe, timeout=30, every=0.05):
    """Waits until probe() gives something true, and gives it back. Its AssertionErrors count as "not yet"."""
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = probe()
            if value:
                return value
        except AssertionError as e:
            last = e
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {last or probe}")
        time.sleep(every)


class Namespace:
    """A network namespace that stands for the machine."""

    def __init__(self):
        self.name = "dhow-test-" + uuid.uuid4().hex[:8]
        run(["ip", "netns", "add", self.name])
        run(self.inside(["ip", "link", "set", "lo", "up"]))

    def inside(self, args):
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"] + args

    def delete(self):
        run(["ip", "netns", "delete", self.name], check=False)


class Cluster:
    def __init__(self, nodes=3, zones=3, beside=None):
        """`beside`: on the machine of that cluster, with its data in the same folder; it is destroyed first."""
        self.beside = beside
        self.net = beside.net if beside else Namespace()
        self.name = "t" + uuid.uuid4().hex[:7]
        self.data = beside.data if beside else tempfile.mkdtemp(prefix="dhow-test-")
        self.nodes, self.zones = nodes, zones

    def dhow(self, *args, timeout=120, check=True):
        for folder in ("server", "engine", "nodes/*"):
            watch_logs(f"{self.data}/clusters/*/{folder}/log*")
        return run(self.net.inside([DHOW, *args, "--name", self.name, "--data", self.data]), timeout=timeout, check=check)

    def on_machine(self, *args):
        """A command that names no cluster."""
        return self.net.inside([DHOW, *args])

    def up(self, *args):
        return self.dhow("up", "--nodes", str(self.nodes), "--zones", str(self.zones), *args)

    @property
    def kubeconfig(self):
        return f"{self.data}/clusters/{self.name}/kubeconfig"

    def kubectl_command(self, *args):
        return self.net.inside(["kubectl", "--kubeconfig", self.kubeconfig, *args])

    def kubectl(self, *args, timeout=60, check=True, input=None):
        return run(self.kubectl_command(*args), timeout=timeout, check=check, input=input)

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    @property
    def docker_host(self):
        return f"unix:///run/dhow/{self.name}/docker.sock"

    def docker_command(self, *args):
        return self.net.inside(["docker", "-H", self.docker_host, *args])

    def docker(self, *args, timeout=60, check=True, input=None):
        environment = {**os.environ, "DOCKER_CONFIG": self.data + "/docker-cli"}
        return run(self.docker_command(*args), timeout=timeout, check=check, input=input, env=environment)

    def curl(self, url, *args, check=True):
        return run(self.net.inside(["curl", "-sS", "--max-time", "5", *args, url]), check=check)

    def destroy(self):
        """Takes everything down, whatever state it is in."""
        try:
            try:
                if SANITIZED:
                    self.end_daemons()
            finally:
                self.dhow("down", check=False)
        finally:
            if not self.beside:
                self.net.delete()
                shutil.rmtree(self.data, ignore_errors=True)

    def end_daemons(self):
        """Leaks are told when a process ends, and `down` would take the log along."""
        for machine in [f"{self.name}-node-{i + 1}" for i in range(self.nodes)] + [f"{self.name}-master-1"]:
            self.dhow("machine", "stop", machine, check=False)
        for pid, line in processes_naming(f"engine --cluster {self.data}"):
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not os.path.exists(f"/proc/{pid}"))
        check_logs()


def processes_naming(text):
    """Command lines of running processes that hold the text."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(pid) != os.getpid():
            found.append((int(pid), line))
    return found
