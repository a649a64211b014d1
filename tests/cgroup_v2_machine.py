"""A whole machine in an emulator whose cgroups are version 2 only: Debian's cloud kernel, this machine's programs, and a script."""

import glob
import os
import re
import shutil
import subprocess
import tempfile

from docker_engine import busybox_layer, docker_archive
from harness import BUILD, SANITIZED, run

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CACHE = os.path.expanduser("~/.cache/dhow-test")
MODULES = ["kernel/net", "kernel/drivers/net/veth.ko", "kernel/drivers/net/vxlan", "kernel/drivers/net/dummy.ko", "kernel/fs/overlayfs",
           "kernel/lib", "kernel/crypto", "kernel/arch"]
TOOLS = ["kubectl", "docker", "modprobe"]


def missing():
    """Why no machine can be made here, or None."""
    if SANITIZED:
        return "an emulated machine has neither the speed nor the disk for programs under sanitizers"
    if os.uname().machine != "x86_64":
        return "the emulated machine runs this machine's programs, and is an x86-64 one"
    for tool in ["qemu-system-x86_64", "mke2fs", "depmod", "dpkg-deb", "apt-get", "busybox", *TOOLS]:
        if not shutil.which(tool):
            return f"{tool} is not installed"
    try:
        kernel()
    except (AssertionError, OSError, subprocess.SubprocessError) as e:
        return f"the kernel package cannot be had: {str(e).splitlines()[0]}"
    return None


def kernel():
    """The folder of the unpacked kernel package; fetched from Debian's archive once."""
    made = glob.glob(CACHE + "/kernel/boot/vmlinuz-*")
    if made:
        return CACHE + "/kernel"
    os.makedirs(CACHE, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        depends = run(["apt-cache", "depends", "linux-image-cloud-amd64"]).stdout
        package = re.search(r"Depends: (linux-image-\S+)", depends)
        assert package, "linux-image-cloud-amd64 is not known to apt"
        run(["apt-get", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "download",
             package.group(1)], cwd=work, timeout=60)
        run(["dpkg-deb", "-x", glob.glob(work + "/*.deb")[0], work + "/kernel"])
        os.rename(work + "/kernel", CACHE + "/kernel")
    return CACHE + "/kernel"


def install(root, path, to=None, mode=None):
    """Copies a program with the libraries that it needs."""
    target = root + (to or path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy2(os.path.realpath(path), target)
    if mode:
        os.chmod(target, mode)
    for library in re.findall(r"(/\S+) \(0x", run(["ldd", path], check=False).stdout):
        if not os.path.exists(root + library):
            os.makedirs(os.path.dirname(root + library), exist_ok=True)
            shutil.copy2(os.path.realpath(library), root + library)


def make_root(root, modules=()):
    for folder in ["bin", "sbin", "etc", "proc", "sys", "dev", "run", "tmp", "root", "var/lib", "usr/bin", "lib64"]:
        os.makedirs(f"{root}/{folder}")
    for folder in ["lib", "usr/sbin", "usr/lib"]:
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    os.mknod(root + "/dev/console", 0o600 | 0o020000, os.makedev(5, 1))
    install(root, shutil.which("busybox"), "/bin/busybox")
    for applet in run(["busybox", "--list"]).stdout.split():
        if applet not in ("busybox", "modprobe"):
            os.symlink("busybox", f"{root}/bin/{applet}")
    for tool in TOOLS:
        install(root, shutil.which(tool), ("/sbin/" if tool == "modprobe" else "/usr/bin/") + tool)
    for name in ["dhow", "dhow-shim", "examples/hello/hello"]:
        install(root, f"{BUILD}/{name}", f"/opt/dhow/{name}")
        run(["strip", "--strip-debug", f"{root}/opt/dhow/{name}"])
    os.makedirs(root + "/examples/hello")
    for name in ["image.json", "hello.yaml"]:
        shutil.copy(f"{ROOT}/examples/hello/{name}", f"{root}/examples/hello/{name}")
    with open(root + "/busybox.tar", "wb") as f:
        f.write(docker_archive("busybox:latest", busybox_layer()))
    with open(root + "/etc/passwd", "w") as f:
        f.write("root:x:0:0:root:/root:/bin/sh\n")
    with open(root + "/etc/group", "w") as f:
        f.write("root:x:0:\n")
    source = kernel()
    version = os.listdir(source + "/lib/modules")[0]
    to = f"{root}/lib/modules/{version}"
    for part in [*MODULES, *modules]:
        path = f"{source}/lib/modules/{version}/{part}"
        os.makedirs(os.path.dirname(f"{to}/{part}"), exist_ok=True)
        (shutil.copytree if os.path.isdir(path) else shutil.copy)(path, f"{to}/{part}")
    for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"]:
        shutil.copy(f"{source}/lib/modules/{version}/{name}", f"{to}/{name}")
    run(["depmod", "-b", root, version])
    shutil.copy(f"{HERE}/cgroup_v2_init.sh", root + "/init")
    os.chmod(root + "/init", 0o755)


def boot(script, timeout=240):
    """Runs the script on a new machine; gives all that its console showed."""
    with tempfile.TemporaryDirectory(prefix="dhow-v2-", dir="/var/tmp") as work:
        make_root(work + "/root")
        shutil.copy(script, work + "/root/checks.sh")
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", work + "/root", work + "/disk", "1G"], timeout=120)
        shutil.rmtree(work + "/root")
        image = glob.glob(kernel() + "/boot/vmlinuz-*")[0]
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G", "-nodefaults", "-no-reboot",
            "-display", "none", "-serial", "stdio", "-kernel", image,
            "-append", "console=ttyS0 root=/dev/nvme0n1 rw init=/init panic=-1 quiet mitigations=off",
            "-drive", f"file={work}/disk,if=none,id=disk,format=raw,cache=unsafe", "-device", "nvme,drive=disk,serial=dhow"]
        try:
            shown = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                                   check=False).stdout
        except subprocess.TimeoutExpired as e:
            shown = (e.stdout or b"") + f"\nstopped after {timeout} s\n".encode()
        return shown.decode(errors="replace").replace("\r", "")
