"""Pods with a user namespace of their own (`hostUsers: false`): inside they have root and their volumes, outside they are nobody."""

import json
import os
import signal

from harness import eventually
from pods import apply, in_pod_network, node_is_ready, processes_of, role_process, shell_pod

SCRIPT = """cat /proc/self/uid_map > /dir/map; id -u > /dir/id; cat /conf/key /hush/key > /memory/both; echo root > /dir/root
echo line; exec httpd -f -p 80 -h /memory"""
USER = """until [ -e /dir/root ]; do usleep 20000; done; cat /hush/key > /dir/user; id -G > /dir/groups; echo ended > /dev/termination-log"""


def owned_pod(name, image, node):
    mounts = [{"name": v, "mountPath": "/" + v} for v in ("dir", "memory", "conf", "hush")]
    pod = shell_pod(name, SCRIPT, node=node, hostUsers=False, restartPolicy="OnFailure", securityContext={"fsGroup": 2000},
                    volumes=[{"name": "dir", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                             {"name": "conf", "configMap": {"name": "conf"}}, {"name": "hush", "secret": {"secretName": "hush"}}])
    main = pod["spec"]["containers"][0]
    main.update(image=image, volumeMounts=[*mounts, {"name": "dir", "mountPath": "/part", "subPath": "part"}],
                readinessProbe={"httpGet": {"port": 80, "path": "/both"}, "periodSeconds": 1})
    user = {"name": "user", "image": image, "command": ["sh", "-c", USER], "volumeMounts": mounts, "securityContext": {"runAsUser": 1000}}
    first = {"name": "first", "image": image, "command": ["sh", "-c", "echo first > /dir/first"], "volumeMounts": mounts}
    pod["spec"]["containers"].append(user)
    pod["spec"]["initContainers"] = [first]
    return pod


def ids_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return {line.split()[1] for line in f if line.startswith(("Uid:", "Gid:"))}


def served(pod):
    """The process of the pod's main container, and the id outside that is root inside."""
    pid = next(p for p in processes_of(pod) if b"httpd" in open(f"/proc/{p}/cmdline", "rb").read())
    inside, outside, count = open(f"/proc/{pid}/uid_map").read().split()
    assert (inside, count) == ("0", "65536") and int(outside) >= 65536 and int(outside) % 65536 == 0
    assert ids_of(pid) == {outside}
    return pid, int(outside)


def test_pods_have_users_of_their_own(cluster, namespace, busybox):
    def kubectl(*args, **options):
        return cluster.kubectl("-n", namespace, *args, **options)

    node = f"{cluster.name}-node-1"
    handlers = cluster.get("node", node)["status"]["runtimeHandlers"]
    assert handlers == [{"name": "", "features": {"recursiveReadOnlyMounts": True, "userNamespaces": True}}]
    kubectl("create", "configmap", "conf", "--from-literal=key=told")
    kubectl("create", "secret", "generic", "hush", "--from-literal=key=hushed")
    apply(cluster, *(owned_pod(name, busybox, node) for name in ("one", "two")), namespace=namespace)
    eventually(lambda: len([p for p in cluster.get("pods", "-n", namespace)["items"] if p["status"].get("containerStatuses", [{}])[0].get("ready")]) == 2)
    one, two = (cluster.get("pod", name, "-n", namespace) for name in ("one", "two"))
    (pid, root), (_, other) = served(one), served(two)
    assert root != other

    # Inside: root, with volumes that are its own; another container of the pod shares them as another user.
    def inside(*command, container="main"):
        return kubectl("exec", "one", "-c", container, "--", *command).stdout

    assert inside("cat", "/dir/map").split() == ["0", str(root), "65536"]
    assert inside("cat", "/proc/self/uid_map").split() == ["0", str(root), "65536"]
    assert inside("id", "-u") == "0\n" and inside("cat", "/dir/id", "/dir/first") == "0\nfirst\n"
    assert inside("stat", "-c", "%u:%g", "/dir/root", "/dir/user", "/memory/both", "/etc/hosts", "/part", "/") == "0:2000\n1000:2000\n0:2000\n0:0\n0:2000\n0:0\n"
    assert "2000" in inside("cat", "/dir/groups").split()
    assert inside("ping", "-c", "1", "-W", "2", two["status"]["podIP"]).count("1 packets received") == 1
    assert kubectl("logs", "one", "-c", "main").stdout == "line\n"
    ended = eventually(lambda: next(s for s in cluster.get("pod", "one", "-n", namespace)["status"]["containerStatuses"] if s["name"] == "user")["state"].get("terminated"))
    assert (ended["exitCode"], ended["message"]) == (0, "ended\n")
    assert in_pod_network(two, "curl", "-sS", "-m", "5", f"http://{one['status']['podIP']}/both").stdout == "toldhushed"
    # On disk the ids are those that the pod knows, whatever its range is the next time.
    volume = f"{cluster.data}/clusters/{cluster.name}/nodes/{node}/var/pods/{namespace}_one_{one['metadata']['uid']}/volumes/emptyDir/dir"
    assert [(os.stat(f"{volume}/{name}").st_uid, os.stat(f"{volume}/{name}").st_gid) for name in ("root", "user")] == [(0, 2000), (1000, 2000)]

    # An agent that is killed finds the range again, and gives it to nobody else.
    agent = role_process(cluster, "agent", f"/{node}/")
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: role_process(cluster, "agent", f"/{node}/") != agent)
    eventually(lambda: kubectl("exec", "one", "-c", "main", "--", "echo", "here", check=False).stdout == "here\n")
    assert served(one) == (pid, root)
    three = owned_pod("three", busybox, node)
    apply(cluster, three, namespace=namespace)
    eventually(lambda: cluster.get("pod", "three", "-n", namespace)["status"].get("containerStatuses", [{}])[0].get("ready"))
    assert served(cluster.get("pod", "three", "-n", namespace))[1] not in (root, other)
    # A container that starts again is in its pod's range again.
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: [p for p in processes_of(one) if p != pid and b"httpd" in open(f"/proc/{p}/cmdline", "rb").read()])
    assert served(one)[1] == root
    eventually(lambda: node_is_ready(cluster, node))


def test_what_user_namespaces_cannot_have_is_refused(cluster, namespace, busybox):
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        pod = shell_pod("wrong", "true", hostUsers=False, **{field: True})
        refused = cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(pod), check=False)
        assert f'The Pod "wrong" is invalid: spec.{field}: Forbidden: when `hostUsers` is false' in refused.stderr
    # A file system that cannot be shown with other ids is named.
    pod = shell_pod("proc", "true", hostUsers=False, volumes=[{"name": "p", "hostPath": {"path": "/proc"}}])
    pod["spec"]["containers"][0].update(image=busybox, volumeMounts=[{"name": "p", "mountPath": "/machine"}])
    apply(cluster, pod, namespace=namespace)
    eventually(lambda: "idmapped mounts) of /proc: Invalid argument" in cluster.kubectl("-n", namespace, "get", "events").stdout)


def test_docker_takes_the_hosts_users(cluster, busybox):
    assert cluster.docker("run", "--rm", "--userns=host", busybox, "cat", "/proc/self/uid_map").stdout.split() == open("/proc/self/uid_map").read().split()
