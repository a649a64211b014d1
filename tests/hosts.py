"""Separate hosts for tests: each in network, mount and UTS namespaces of its own, with its own /etc, /run and /var/lib. They share nothing
but a network of segments with a router between them, in which a registry stands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid

from docker_engine import busybox_layer, registry_files
from harness import BUILD, DHOW, PATIENCE, SANITIZED, Namespace, SanitizerReport, REPORT, eventually, run

IMAGE = "registry.test:5000/hello:1"


class Network:
    """Segments 172.31.<n>.0/24 with a router, which is 172.31.<n>.1 in each and serves IMAGE; or with IPv6 alone, 2001:db8:31:<n>::/64."""

    def __init__(self, segments=2, ipv6=False):
        self.router = Namespace()
        self.prefix, self.length = ("2001:db8:31:{}::", 64) if ipv6 else ("172.31.{}.", 24)
        self.ipv6 = ipv6
        self.dir = tempfile.mkdtemp(prefix="dhow-hosts-", dir="/var/tmp")
        self.hosts, self.registry = [], None
        run(self.router.inside(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1" if ipv6 else "net.ipv4.ip_forward=1"]))
        for n in range(1, segments + 1):
            for command in (f"ip link add seg{n} type bridge", f"ip address add {self.address(n, 1)} dev seg{n}", f"ip link set seg{n} up"):
                run(self.router.inside(command.split()))
        self.serve_image()

    def at(self, segment, number):
        return self.prefix.format(segment) + str(number)

    def address(self, segment, number):
        """As `ip address add` takes it."""
        return f"{self.at(segment, number)}/{self.length}" + (" nodad" if self.ipv6 else "")

    def serve_image(self):
        hello = open(f"{BUILD}/examples/hello/hello", "rb").read()
        layer = busybox_layer([("hello", hello, 0o755)])
        known = registry_files("hello", "1", layer, Entrypoint=["/hello"])
        with open(self.dir + "/registry.json", "w") as f:
            json.dump({path: (kind, body.decode("latin-1")) for path, (kind, body) in known.items()}, f)
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "docker_engine.py")
        self.registry = subprocess.Popen(self.router.inside([sys.executable, program, "5000", self.dir + "/registry.json", "::" if self.ipv6 else "0.0.0.0"]))
        own = "[::1]" if self.ipv6 else "127.0.0.1"
        eventually(lambda: run(self.router.inside(["curl", "-sf", f"http://{own}:5000/v2/"]), check=False).returncode == 0)

    def host(self, name, segment):
        made = Host(self, name, segment, 10 + len(self.hosts))
        self.hosts.append(made)
        return made

    def destroy(self):
        try:
            for host in self.hosts:
                host.destroy()
        finally:
            if self.registry:
                self.registry.kill()
                self.registry.wait()
            self.router.delete()
            shutil.rmtree(self.dir, ignore_errors=True)


class Host:
    def __init__(self, network, name, segment, number):
        self.network, self.name, self.address = network, name, network.at(segment, number)
        router = network.at(segment, 1)
        self.dir = f"{network.dir}/{name}"
        self.services = None
        self.log_path = self.dir + "/log"
        for folder in ("lib", "etc", "work"):
            os.makedirs(f"{self.dir}/{folder}")
        own = " && ".join(["mount --make-rprivate /", f"mount --bind {self.dir}/lib /var/lib",
                           f"mount -t overlay -o lowerdir=/etc,upperdir={self.dir}/etc,workdir={self.dir}/work overlay /etc",
                           "mount -t tmpfs -o mode=755 tmpfs /run", "mount -t proc proc /proc", f"hostname {name}", "ip link set lo up",
                           "echo 0 > /proc/sys/net/ipv4/ip_forward",
                           "echo ready", "exec sleep infinity"])
        self.holder = subprocess.Popen(["unshare", "--mount", "--net", "--uts", "sh", "-c", own], stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n"
        self.link = "h" + uuid.uuid4().hex[:8]
        run(network.router.inside(["ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid)]))
        run(network.router.inside(["ip", "link", "set", self.link, "up", "master", f"seg{segment}"]))
        for command in (f"ip address add {network.address(segment, number)} dev eth0", "ip link set eth0 up", f"ip route add default via {router}"):
            self.run(*command.split())
        with open(f"{self.dir}/registries.yaml", "w") as f:
            f.write(f"registries:\n  registry.test:5000:\n    endpoint: http://{f'[{router}]' if network.ipv6 else router}:5000\n    insecure: true\n")
        self.run("sh", "-c", f"mkdir -p /etc/dhow && cp {self.dir}/registries.yaml /etc/dhow/registries.yaml")

    def inside(self, args):
        return ["nsenter", f"--target={self.holder.pid}", "--mount", "--net", "--uts", "--", *args]

    def run(self, *args, check=True, timeout=60, input=None):
        return run(self.inside(list(args)), check=check, timeout=timeout, input=input)

    def dhow(self, *args, check=True, timeout=60):
        return self.run(DHOW, *args, check=check, timeout=timeout)

    def kubectl(self, *args, check=True, timeout=60, input=None):
        return self.run("kubectl", "--kubeconfig", "/etc/dhow/kubeconfig", *args, check=check, timeout=timeout, input=input)

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    @property
    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def start(self, *args, shows, timeout=60, program=DHOW):
        """A command that stays, as `dhow server` does without systemd; gives what it showed when it shows `shows`."""
        with open(self.log_path, "ab") as log:
            begin = log.tell()
            self.services = subprocess.Popen(self.inside([program, *args]), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def shown():
            with open(self.log_path, errors="replace") as f:
                f.seek(begin)
                text = f.read()
            if shows not in text and self.services.poll() is not None:
                raise RuntimeError(f"dhow {' '.join(args)} ended with {self.services.returncode}\n{text}")
            return text if shows in text else None

        return eventually(shown, timeout=timeout)

    def role(self, role):
        """The process of a role here: server, agent, member's etcd."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read().split(b"\0")
                mine = os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{self.holder.pid}/ns/mnt")
            except OSError:
                continue
            if mine and (line[1:2] == [role.encode()] and b"--config" in line or role == "etcd" and line[0].endswith(b"/etcd")):
                return int(pid)
        return None

    def kill_all(self):
        """A power cut: every process here but the holder."""
        mine = os.readlink(f"/proc/{self.holder.pid}/ns/net")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{self.holder.pid}/ns/mnt") and int(pid) != self.holder.pid:
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                continue
        assert os.readlink(f"/proc/{self.holder.pid}/ns/net") == mine

    def destroy(self):
        try:
            if self.holder.poll() is None:
                self.dhow("leave", "--force", "--timeout", "0s", check=False, timeout=120)
                if self.services:
                    self.services.terminate()
                    try:
                        self.services.wait(timeout=20 * PATIENCE)
                    except subprocess.TimeoutExpired:
                        self.services.kill()
                self.kill_all()
            if SANITIZED and os.path.exists(self.log_path) and (report := REPORT.search(self.log)):
                raise SanitizerReport(self.name, self.log[report.start():])
        finally:
            self.holder.kill()
            self.holder.wait()


def join_command(text):
    """(server, token, hash) out of what `dhow server` or `dhow token create --print-join-command` prints."""
    return re.search(r"dhow join (\S+) --token (\S+) --ca-hash (\S+)", text).groups()
