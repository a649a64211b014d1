"""What tests see of pods from the machine: their processes, their network, and an image with a shell to run in them."""

import json
import os

from harness import eventually, run

HELLO = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples/hello")
HELLO_IMAGE = "registry.dhow.internal:5000/hello:1"
SHELL_IMAGE = "registry.dhow.internal:5000/shell:1"


def publish_shell(cluster):
    """Puts an image with a static busybox into the cluster's registry, as SHELL_IMAGE."""
    root = os.path.join(cluster.data, "shell-image-" + cluster.name)
    if os.path.isdir(root):
        return SHELL_IMAGE  # another file's tests share the cluster
    os.makedirs(root + "/bin")
    os.makedirs(root + "/tmp")
    run(["cp", "/bin/busybox", root + "/bin/busybox"])
    for name in run(["/bin/busybox", "--list"]).stdout.split():
        if name != "busybox":
            os.symlink("busybox", f"{root}/bin/{name}")
    cluster.dhow("image", "--tag", SHELL_IMAGE, "--add", f"{root}:/", "--cmd", "sh")
    return SHELL_IMAGE


def apply(cluster, *objects, namespace="default"):
    text = "\n".join(json.dumps(o) for o in objects)
    return cluster.kubectl("-n", namespace, "apply", "-f", "-", input=text)


def shell_pod(name, script, node=None, labels=None, **spec):
    """A pod that runs a shell script; it ends at once when it is told to."""
    container = {"name": "main", "image": SHELL_IMAGE, "command": ["sh", "-c", script]}
    container.update(spec.pop("container", {}))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {"app": name}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0,
                     **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}), **spec}}


def wait_ready(cluster, *names, namespace="default", timeout=30):
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"--timeout={timeout}s", *[f"pod/{n}" for n in names],
                    timeout=timeout + 10)
    return [cluster.get("pod", n, "-n", namespace) for n in names]


def stat_of(pid):
    """The fields of /proc/PID/stat after the command, which may hold anything; none when the process has ended."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()
    except OSError:
        return None


def parent_of(pid):
    stat = stat_of(pid)
    return int(stat[1]) if stat else None


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return [part.decode(errors="replace") for part in f.read().split(b"\0")[:-1]]
    except OSError:
        return []


def processes_of(pod):
    """Process ids, as this machine counts them, of a pod's containers; children of children among them."""
    uid, found = pod["metadata"]["uid"], []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cgroup") as f:
                inside = uid in f.read()
        except OSError:
            continue
        if inside and not command_of(pid)[:1] == ["dhow-shim"]:
            found.append(int(pid))
    return sorted(found)


def main_process(pod):
    """The process id of the first process of the pod's container."""
    # Ids begin anew some time: the oldest is not always the lowest. What ended meanwhile was not the first.
    stats = {pid: stat for pid in processes_of(pod) if (stat := stat_of(pid))}
    firsts = [(int(stat[19]), pid) for pid, stat in stats.items() if int(stat[1]) not in stats]
    assert firsts, f"no process of {pod['metadata']['name']}"
    return min(firsts)[1]


def shim_of(pod):
    pid = main_process(pod)
    while command_of(pid)[:2] != ["dhow-shim", "sandbox"]:
        pid = parent_of(pid)
        assert pid and pid > 1, "no shim above the pod"
    return pid


def role_process(cluster, role, name=""):
    """The process id of the cluster's server, or of the agent of one node; not of the init above it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        line = command_of(pid)
        if len(line) > 3 and line[0].endswith("/dhow") and line[1] == role and f"/clusters/{cluster.name}" in line[3] and name in line[3]:
            return int(pid)
    raise AssertionError(f"no {role} {name} runs")


def member_process(cluster, master):
    """The process id of the etcd of one master."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        line = command_of(pid)
        if line and line[0].endswith("/etcd") and f"--name={master}" in line:
            return int(pid)
    raise AssertionError(f"no etcd of {master} runs")


def in_pod_network(pod, *command, check=True, timeout=20):
    """Runs a program of this machine in the pod's network: works without a master, and with images that hold no shell."""
    return run(["nsenter", f"--net=/proc/{main_process(pod)}/ns/net", "--", *command], check=check, timeout=timeout)


def in_pod(pod, *command, check=True, timeout=20):
    """Runs a program of the pod's image in the pod, without a master."""
    pid = str(main_process(pod))
    return run(["nsenter", "-t", pid, "-n", "-m", "-u", "-i", "--root", "--", *command], check=check, timeout=timeout)


def restarts(cluster, *args):
    """restartCount by namespace/pod/container, with the pod's unique id."""
    counts = {}
    for pod in cluster.get("pods", *(args or ["-A"]))["items"]:
        for container in pod["status"].get("containerStatuses", []):
            key = (pod["metadata"]["namespace"], pod["metadata"]["name"], pod["metadata"]["uid"], container["name"])
            counts[key] = container["restartCount"]
    return counts


def node_is_ready(cluster, name):
    conditions = cluster.get("node", name)["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def wait_answers(cluster, timeout=30):
    return eventually(lambda: cluster.kubectl("get", "--raw", "/readyz", check=False).stdout.strip() == "ok", timeout)


def endpoint_addresses(cluster, service, namespace="default"):
    """Addresses of the service's ready endpoints."""
    slices = cluster.get("endpointslices", "-n", namespace, "-l", f"kubernetes.io/service-name={service}")["items"]
    return sorted(a for s in slices for e in s.get("endpoints") or [] if e.get("conditions", {}).get("ready") for a in e["addresses"])
