"""Two whole machines in emulators, each with systemd and Debian's kernel, on one network: a socket between both."""

import glob
import os
import re
import shutil
import subprocess
import tempfile
import time

import cgroup_v2_machine as machine
from builds import build
from docker_engine import busybox_layer, registry_files
from harness import BUILD, run

SYSTEMD = ["/lib/systemd/systemd", "/usr/bin/systemctl", "/lib/systemd/systemd-shutdown", "/lib/systemd/systemd-executor"]
MODULES = ["kernel/drivers/virtio", "kernel/drivers/net/virtio_net.ko", "kernel/drivers/net/net_failover.ko"]
SERVICE = """[Unit]
After=basic.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/dhow
ExecStart=/bin/sh /checks.sh
ExecStopPost=/bin/sh -c "sync; /usr/bin/systemctl poweroff --force --force"
"""


def missing():
    reason = machine.missing()
    for path in SYSTEMD[:3] if not reason else []:
        if not os.path.exists(path):
            return f"{path} is not installed"
    return reason


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def make_root(root):
    machine.make_root(root, MODULES)
    for path in SYSTEMD:
        if os.path.exists(path):
            machine.install(root, path)
    # systemd's own targets and slices; of services only what ends the machine.
    os.makedirs(root + "/lib/systemd/system", exist_ok=True)
    for path in glob.glob("/lib/systemd/system/*.target") + glob.glob("/lib/systemd/system/*.slice"):
        shutil.copy(path, root + path, follow_symlinks=False)
    # Another build of the same version, to upgrade to.
    program = build(f"{root}/opt/other", another=True)
    run(["strip", "--strip-debug", program])
    os.remove(f"{root}/opt/other/examples")
    units = root + "/etc/systemd/system"
    write(units + "/checks.service", SERVICE)
    os.makedirs(units + "/multi-user.target.wants")
    os.symlink("../checks.service", units + "/multi-user.target.wants/checks.service")
    os.symlink("/lib/systemd/system/multi-user.target", units + "/default.target")
    write(root + "/etc/machine-id", "")
    write(root + "/etc/os-release", 'NAME="Debian"\n')
    os.makedirs(root + "/var/tmp", exist_ok=True)
    write(root + "/etc/dhow/registries.yaml", "registries:\n  10.9.0.1:5000:\n    endpoint: http://10.9.0.1:5000\n    insecure: true\n")
    hello = open(f"{BUILD}/examples/hello/hello", "rb").read()
    layer = busybox_layer([("hello", hello, 0o755)])
    for name, (_, content) in registry_files("hello", "1", layer, Entrypoint=["/hello"]).items():
        path = root + "/registry" + name
        if not name.endswith("/"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(content)


def boot(script, timeout=400):
    """Runs the script on two new machines, "one" and "two"; gives what their consoles showed."""
    with tempfile.TemporaryDirectory(prefix="dhow-machines-", dir="/var/tmp") as work:
        make_root(work + "/root")
        shutil.copy(script, work + "/root/checks.sh")
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", work + "/root", work + "/disk", "2G"], timeout=120)
        shutil.rmtree(work + "/root")
        image = glob.glob(machine.kernel() + "/boot/vmlinuz-*")[0]
        machines = []
        try:
            for name, role, mac in (("one", "on", 1), ("two", "off", 2)):
                wire = f"stream,id=net,server={role},addr.type=unix,addr.path={work}/wire"
                command = [
                    "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G", "-nodefaults", "-no-reboot",
                    "-display", "none", "-serial", "stdio", "-kernel", image,
                    "-append", f"console=ttyS0 root=/dev/nvme0n1 rw init=/lib/systemd/systemd panic=-1 quiet mitigations=off "
                               f"systemd.hostname={name} systemd.show_status=false systemd.log_target=null",
                    "-drive", f"file={work}/disk,if=none,id=disk,format=raw,cache=unsafe,snapshot=on", "-device", "nvme,drive=disk,serial=dhow",
                    "-netdev", wire, "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:00:00:0{mac}"]
                log = open(f"{work}/{name}.log", "wb+")
                machines.append((subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT), log))
                end = time.monotonic() + 10
                while not os.path.exists(work + "/wire") and time.monotonic() < end:
                    time.sleep(0.05)
            end = time.monotonic() + timeout
            for process, log in machines:
                try:
                    process.wait(timeout=max(1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.seek(0, os.SEEK_END)
                    log.write(f"\nstopped after {timeout} s\n".encode())
        finally:
            for process, log in machines:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        shown = []
        for process, log in machines:
            log.seek(0)
            shown.append(log.read().decode(errors="replace").replace("\r", ""))
            log.close()
        return shown


def checks(text):
    """{name: (exit code, output)} of a console."""
    return {name: (int(code), output) for name, output, code in re.findall(r"^@@ ([a-z]+)\n(.*?)^@@ (\d+) \1$", text, re.S | re.M)}
