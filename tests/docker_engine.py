"""The container engine alone, on a machine of its own (a network namespace), with the real docker CLI; and images for it."""

import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

from harness import BUILD, PATIENCE, Namespace, check_logs, eventually, run, watch_logs

APPLETS = """sh true false cat echo sleep id ls touch hostname kill env pwd ps mount grep head tail seq wc mkdir rm ip nc wget httpd
stty tty stat date test expr dd ln printf sort uniq tr cut chmod chown find sync trap readlink nslookup""".split()


def busybox_layer(extra=()):
    """A layer with a small userland; extra: (path, bytes, mode)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ["bin", "etc", "tmp", "srv", "proc", "sys", "dev", "root", "data"]:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        files = [("bin/busybox", open("/bin/busybox", "rb").read(), 0o755),
                 ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n", 0o644),
                 ("etc/group", b"root:x:0:\nweb:x:34:\nextra:x:77:web\n", 0o644),
                 ("data/seed", b"from the image\n", 0o644)]
        for path, content, mode in [*files, *extra]:
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
        for applet in APPLETS:
            info = tarfile.TarInfo("bin/" + applet)
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    return out.getvalue()


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def image_config(layer, platform="linux/amd64", **config):
    system, architecture = platform.split("/")
    return json.dumps({"architecture": architecture, "os": system, "created": "2026-01-01T00:00:00Z",
                       "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], **config},
                       "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()


def docker_archive(tag, layer, **config):
    """As `docker save` writes it."""
    content = image_config(layer, **config)
    name = hashlib.sha256(content).hexdigest() + ".json"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in [(name, content), ("layer.tar", layer),
                           ("manifest.json", json.dumps([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode())]:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def registry_files(repository, tag, layer, **config):
    """What a registry serves of an image: {"/v2/...": (type, bytes)}."""
    content = image_config(layer, **config)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind,
                           "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(content), "size": len(content)},
                           "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)}]}).encode()
    return {"/v2/": ("application/json", b"{}"),
            **{f"/v2/{repository}/manifests/{name}": (kind, manifest) for name in (tag, digest(manifest))},
            **{f"/v2/{repository}/blobs/{digest(blob)}": ("application/octet-stream", blob) for blob in (content, layer)}}


class Engine:
    def __init__(self):
        self.net = Namespace()
        # Overlay layers want a real file system.
        self.dir = tempfile.mkdtemp(prefix="dhow-docker-test-", dir="/var/tmp")
        self.disk = self.dir
        self.socket = self.dir + "/docker.sock"
        self.cgroup = "/" + os.path.basename(self.dir)
        self.environment = {**os.environ, "DOCKER_HOST": "unix://" + self.socket, "DOCKER_CONFIG": self.dir + "/cli"}
        self.process = None
        self.registry_process = None

    def machine(self, args):
        """A command where the engine runs."""
        return self.net.inside(args)

    def data(self):
        """The engine's data folder, as this process sees it."""
        return self.dir

    def start(self):
        program = os.path.join(BUILD, "bench", "engine-bench")
        watch_logs(self.dir + "/engine.log")
        log = open(self.dir + "/engine.log", "ab")
        self.process = subprocess.Popen(self.machine([program, "--serve", self.socket, "--dir", self.disk, "--cgroup", self.cgroup]),
                                        stdout=log, stderr=log)

        def answers():
            if self.process.poll() is not None:
                raise RuntimeError(open(self.dir + "/engine.log").read()[-2000:])
            return self.docker("version", check=False).returncode == 0

        eventually(answers)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def registry(self):
        """Debian's docker-registry on 127.0.0.1:5000 of this machine."""
        if not self.registry_process:
            config = self.dir + "/registry.yml"
            with open(config, "w") as f:
                f.write(f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {self.dir}/registry}}\n"
                        "  delete: {enabled: true}\nhttp: {addr: '127.0.0.1:5000'}\n")
            self.registry_process = subprocess.Popen(self.net.inside(["docker-registry", "serve", config]),
                                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            eventually(lambda: run(self.net.inside(["curl", "-sf", "http://127.0.0.1:5000/v2/"]), check=False).returncode == 0)
        return "localhost:5000"

    def command(self, *args):
        return self.net.inside(["docker", *args])

    def docker(self, *args, check=True, timeout=60, **options):
        return run(self.command(*args), timeout=timeout, check=check, env=self.environment, **options)

    def lines(self, *args):
        return self.docker(*args).stdout.splitlines()

    def inspect(self, name, kind="container"):
        return json.loads(self.docker(kind, "inspect", name).stdout)[0]

    def load(self, archive):
        return run(self.command("load"), env=self.environment, input=archive) if isinstance(archive, str) else subprocess.run(
            self.command("load"), env=self.environment, input=archive, capture_output=True, check=False)

    def terminal(self, *args, input="", timeout=30):
        """Runs docker with a terminal; gives what it showed."""
        quoted = " ".join("'" + a.replace("'", "'\\''") + "'" for a in self.command(*args))
        return subprocess.run(["script", "-qefc", quoted, "/dev/null"], env=self.environment, input=input, capture_output=True, text=True,
                              timeout=timeout)

    def traces(self):
        """What containers leave on the machine while they run, and must not afterwards."""
        groups = []
        for top, folders, _ in os.walk("/sys/fs/cgroup"):
            if self.cgroup in top and not top.endswith(self.cgroup):
                groups.append(top)
        with open("/proc/self/mountinfo") as f:
            mounts = [line for line in f if self.dir in line]
        data = self.data()
        state = os.listdir(data + "/run/sandboxes") if os.path.exists(data + "/run/sandboxes") else []
        rules = run(self.net.inside(["nft", "list", "ruleset"]), check=False).stdout
        return {"cgroups": groups, "mounts": mounts, "sandboxes": state,
                "containers": os.listdir(data + "/root/containers"),
                "layers": os.listdir(data + "/root/images/snapshots"),
                "ports": [line for line in rules.splitlines() if re.search(r": 10\.88\.", line)],
                "shims": [line for pid, line in self.processes() if "shim" in line]}

    def processes(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read().replace(b"\0", b" ").decode(errors="replace")
                inside = self.dir in line or os.readlink(f"/proc/{pid}/cwd").startswith(self.dir)
            except OSError:
                continue
            if inside:
                found.append((int(pid), line))
        return found

    def destroy(self):
        try:
            if self.process:
                if self.process.poll() is not None:
                    self.start()
                self.process.send_signal(signal.SIGUSR1)
                self.process.wait(timeout=60 * PATIENCE)
                check_logs()
        finally:
            if self.registry_process:
                self.registry_process.kill()
                self.registry_process.wait()
            left = [p for p in self.processes()]
            self.net.delete()
            for controller in os.listdir("/sys/fs/cgroup"):
                path = f"/sys/fs/cgroup/{controller}{self.cgroup}"
                if os.path.isdir(path):
                    os.rmdir(path)
            shutil.rmtree(self.dir, ignore_errors=True)
            assert not left, left


class SmallDisk(Engine):
    """An engine whose data lies on a small file system, which nobody but it and its containers sees."""

    def __init__(self, size):
        super().__init__()
        self.disk = self.dir + "/disk"
        os.mkdir(self.disk)
        self.holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                                        f"mount -t tmpfs -o size={size} tmpfs {self.disk} && echo ready && exec sleep infinity"], stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"ready\n"

    def machine(self, args):
        return self.net.inside(["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--", *args])

    def data(self):
        return f"/proc/{self.holder.pid}/root{self.disk}"

    def fill(self):
        """Leaves not a byte."""
        with open(self.data() + "/ballast", "wb", buffering=0) as f:
            for piece in (1 << 20, 4096, 1):
                try:
                    while True:
                        f.write(bytes(piece))
                except OSError:
                    pass

    def free(self):
        os.remove(self.data() + "/ballast")

    def destroy(self):
        try:
            super().destroy()
        finally:
            self.holder.kill()
            self.holder.wait()


class StaticRegistry(http.server.BaseHTTPRequestHandler):
    """A registry that serves given bytes, right or wrong: {"/v2/...": (type, bytes)} from a JSON file."""

    def do_GET(self):
        known = self.server.known.get(self.path.split("?")[0])
        self.send_response(200 if known else 404)
        if known:
            self.send_header("Content-Type", known[0])
        body = known[1].encode("latin-1") if known else b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


if __name__ == "__main__":  # serves a file of known answers, inside the test's namespace
    address = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
    if ":" in address:
        http.server.ThreadingHTTPServer.address_family = socket.AF_INET6
    server = http.server.ThreadingHTTPServer((address, int(sys.argv[1])), StaticRegistry)
    with open(sys.argv[2]) as known:
        server.known = json.load(known)
    server.serve_forever()
