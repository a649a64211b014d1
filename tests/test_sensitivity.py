"""Two clusters on one machine, one of them restricted: nothing passes between them, and what restricted means."""

import glob
import json
import os

import pytest
from harness import Cluster, eventually, run
from pods import HELLO, SHELL_IMAGE, apply, in_pod, in_pod_network, main_process, publish_shell, shell_pod, wait_ready

SERVE = "exec httpd -f -p 8080 -h /bin"
# What the level restricted asks of a pod.
POD_RULES = {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}}
CONTAINER_RULES = {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}


def well_behaved(name):
    return shell_pod(name, SERVE, container=CONTAINER_RULES, **POD_RULES)


@pytest.fixture(scope="module")
def pair():
    """An internal cluster and a restricted one, each with a pod `web` behind a load-balanced service `web`."""
    a = Cluster(nodes=1, zones=1)
    b = Cluster(nodes=1, zones=1, beside=a)
    try:
        for cluster, sensitivity in ((a, "internal"), (b, "restricted")):
            cluster.up("--sensitivity", sensitivity)
            publish_shell(cluster)
            service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web-" + cluster.name},
                       "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}
            # The restricted one isolates its pods.
            opened = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"},
                      "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}}
            apply(cluster, well_behaved("web"), service, opened)
        yield a, b
    finally:
        b.destroy()
        a.destroy()


def web(cluster):
    return wait_ready(cluster, "web")[0]


def balanced(cluster):
    def address():
        status = cluster.get("service", "web-" + cluster.name)["status"]
        return status.get("loadBalancer", {}).get("ingress", [{}])[0].get("ip")
    return eventually(address)


def reaches(pod, url):
    return in_pod_network(pod, "curl", "-sSk", "-o", "/dev/null", "-m", "2", url, check=False).returncode == 0


def test_clusters_are_listed_and_switched_by_contexts(pair):
    a, b = pair
    rows = {line.split()[0]: line.split()[1:] for line in run(a.on_machine("clusters", "--data", a.data)).stdout.splitlines()}
    assert rows["NAME"] == ["SENSITIVITY", "STATUS", "MASTERS", "NODES", "ZONES", "API", "DATA"]
    assert rows[a.name][:5] == ["internal", "Ready", "1", "1", "1"]
    assert rows[b.name][:5] == ["restricted", "Ready", "1", "1", "1"]
    shared = run(a.on_machine("kubeconfig", "--all", "--data", a.data)).stdout.strip()
    for cluster in (a, b):
        kubectl = a.net.inside(["kubectl", "--kubeconfig", shared])
        run(kubectl + ["config", "use-context", cluster.name])
        assert run(kubectl + ["get", "nodes", "-o", "name"]).stdout.split() == [f"node/{cluster.name}-node-1"]
    refused = b.dhow("up", "--nodes", "1", "--zones", "1", "--sensitivity", "public", check=False)
    assert refused.returncode == 1 and "sensitivity never changes" in refused.stderr


def test_no_packet_passes(pair):
    for here, there in (pair, pair[::-1]):
        config = json.load(open(f"{there.data}/clusters/{there.name}/cluster.json"))
        node = there.get("nodes")["items"][0]["status"]["addresses"][0]["address"]
        source, target = web(here), web(there)
        own = web(here)["status"]["podIP"]
        assert reaches(source, f"http://{own}:8080/")
        assert reaches(source, f"http://{balanced(here)}/")
        eventually(lambda: there.curl(f"http://{balanced(there)}/"))  # from the machine it answers
        service = there.get("service", "web-" + there.name)["spec"]["clusterIP"]
        host = node.rsplit(".", 2)[0] + f".{config['index'] * 8}.1"
        for address in (target["status"]["podIP"] + ":8080", service, balanced(there)):
            assert not reaches(source, f"http://{address}/"), address
        for address in (f"{node}:{config['apiPort']}", f"{host}:{config['apiPort']}", f"{host}:{config['registryPort']}/v2/"):
            assert not reaches(source, f"https://{address}"), address
        assert in_pod_network(source, "ping", "-c", "1", "-W", "1", node, check=False).returncode != 0


def test_no_name_passes(pair):
    for here, there in (pair, pair[::-1]):
        pod = web(here)
        assert "Address" in in_pod(pod, "nslookup", f"web-{here.name}.default.svc.cluster.local").stdout
        assert in_pod(pod, "nslookup", f"web-{there.name}.default.svc.cluster.local", check=False).returncode != 0


def test_no_image_passes(pair):
    a, b = pair
    a.dhow("image", "--tag", "registry.dhow.internal:5000/only-a:1", "--add", "/bin/busybox:/busybox", "--entrypoint", "/busybox")
    password = open(f"{a.data}/clusters/{a.name}/pki/registry-password").read().strip()
    config = json.load(open(f"{b.data}/clusters/{b.name}/cluster.json"))
    registry = f"https://10.89.{config['index'] * 8}.1:{config['registryPort']}/v2/"
    for user in ([], ["-u", "dhow:" + password]):
        assert b.curl(registry + "only-a/manifests/1", "-k", "-o", "/dev/null", "-w", "%{http_code}", *user).stdout == "401"
    pod = well_behaved("stranger")
    pod["spec"]["containers"][0]["image"] = "registry.dhow.internal:5000/only-a:1"
    apply(b, pod)
    eventually(lambda: b.get("pod", "stranger")["status"].get("containerStatuses", [{}])[0].get("state", {}).get("waiting", {}).get("reason")
               in ("ErrImagePull", "ImagePullBackOff"))


def test_no_token_and_no_certificate_passes(pair):
    for here, there in (pair, pair[::-1]):
        config = json.load(open(f"{there.data}/clusters/{there.name}/cluster.json"))
        api = f"https://127.0.0.1:{config['apiPort']}/api/v1/namespaces/default/pods"
        token = here.kubectl("create", "token", "default").stdout.strip()
        answer = there.curl(api, "-k", "-H", f"Authorization: Bearer {token}", "-o", "/dev/null", "-w", "%{http_code}").stdout
        assert answer == "401"
        pki = f"{here.data}/clusters/{here.name}/pki"
        answer = there.curl(api, "-k", "--cert", pki + "/admin.pem", "--key", pki + "/admin.pem", "-o", "/dev/null", "-w", "%{http_code}", check=False)
        assert answer.stdout in ("401", "000")  # refused by the API, or by TLS itself
        # And a client of the one does not take the other for its own.
        other = there.curl(api, "--cacert", pki + "/ca.crt", check=False)
        assert other.returncode == 60


def test_restricted_cluster_refuses_a_privileged_pod_in_kubernetes_words(pair):
    a, b = pair
    pod = shell_pod("root", "sleep 60", container={"securityContext": {"privileged": True}})
    refused = b.kubectl("apply", "-f", "-", input=json.dumps(pod), check=False)
    assert refused.returncode == 1
    assert ('pods "root" is forbidden: violates PodSecurity "restricted:latest": privileged (container "main" must not set '
            'securityContext.privileged=true), allowPrivilegeEscalation != false') in refused.stderr
    warned = b.kubectl("create", "deployment", "plain", "--image", SHELL_IMAGE, "--replicas", "0").stderr
    assert 'Warning: would violate PodSecurity "restricted:latest"' in warned
    down = b.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=privileged", check=False)
    assert down.returncode == 1 and "may go down to baseline" in down.stderr
    a.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(pod))
    a.kubectl("create", "namespace", "strict")
    a.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=baseline")
    refused = a.kubectl("-n", "strict", "apply", "-f", "-", input=json.dumps(pod), check=False)
    assert 'violates PodSecurity "baseline:latest"' in refused.stderr


def test_pods_of_a_restricted_cluster_are_isolated_until_a_policy_opens_them(pair):
    _, b = pair
    b.kubectl("create", "namespace", "closed")
    apply(b, well_behaved("one"), well_behaved("two"), namespace="closed")
    one, two = wait_ready(b, "one", "two", namespace="closed")
    to_two, to_web = (f"http://{pod['status']['podIP']}:8080/busybox" for pod in (two, web(b)))
    for url in (to_two, to_web):  # the second for the sake of its way out
        assert not reaches(one, url)
    assert not reaches(web(b), to_two)
    assert "Address" in in_pod(one, "nslookup", f"web-{b.name}.default.svc.cluster.local").stdout
    told = b.kubectl("-n", "closed", "describe", "pod", "one").stdout
    assert "NetworkIsolated" in told and "no NetworkPolicy selects this pod" in told
    explained = b.dhow("policy", "explain", "closed/one", "closed/two", "--port", "8080", check=False)
    assert explained.returncode == 1 and "isolated by default: the cluster is restricted" in explained.stdout
    among = [{"podSelector": {}}]
    apply(b, {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "among"},
              "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": among}], "egress": [{"to": among}]}}, namespace="closed")
    eventually(lambda: reaches(one, to_two))
    assert not reaches(one, to_web) and not reaches(web(b), to_two)
    b.kubectl("delete", "namespace", "closed", "--wait=false")
    # What the example needs it brings along.
    b.up("--deploy", HELLO)
    balancer = eventually(lambda: b.get("service", "hello")["status"].get("loadBalancer", {}).get("ingress", [{}])[0].get("ip"))
    assert "hello from pod" in eventually(lambda: b.curl(f"http://{balancer}/", check=False).stdout)


def test_every_pod_of_a_restricted_cluster_has_users_of_its_own(pair):
    a, b = pair
    assert "hostUsers" not in web(a)["spec"]
    assert web(b)["spec"]["hostUsers"] is False
    outside = {c.name: open(f"/proc/{main_process(web(c))}/uid_map").read().split() for c in pair}
    assert outside[a.name] == open("/proc/self/uid_map").read().split()
    first = int(outside[b.name][1])
    assert first >= 65536 and outside[b.name] == ["0", str(first), "65536"]
    assert os.stat(f"/proc/{main_process(web(b))}").st_uid == first + 1000
    pod = well_behaved("users")
    pod["spec"]["hostUsers"] = True
    refused = b.kubectl("apply", "-f", "-", input=json.dumps(pod), check=False)
    assert ('pods "users" is forbidden: violates PodSecurity "restricted:latest": host users (pod must not set hostUsers=true)') in refused.stderr
    a.kubectl("apply", "--dry-run=server", "-f", "-", input=json.dumps(pod))
    # What is the cluster's own is free.
    kept = b.kubectl("-n", "kube-system", "apply", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(well_behaved("users")))
    assert "hostUsers" not in json.loads(kept.stdout)["spec"]


def test_secrets_are_not_in_the_store_of_a_restricted_cluster(pair):
    import base64

    needle = "needle-" + os.urandom(8).hex()
    for cluster, encrypted in zip(pair, (False, True)):
        cluster.kubectl("create", "secret", "generic", "needle", f"--from-literal=key={needle}")
        assert base64.b64decode(cluster.get("secret", "needle")["data"]["key"]).decode() == needle
        stored = b"".join(open(path, "rb").read() for path in glob.glob(f"{cluster.data}/clusters/{cluster.name}/masters/*/store.db*"))
        plain = needle.encode() in stored or base64.b64encode(needle.encode()) in stored
        assert plain != encrypted
        assert (b"k8s:enc:aesgcm:v1:" in stored) == encrypted
    keys = f"{pair[1].data}/clusters/{pair[1].name}/pki/encryption.yaml"
    assert os.stat(keys).st_mode & 0o777 == 0o600


def test_audit_log_of_a_restricted_cluster_has_each_request_and_no_secret(pair):
    a, b = pair
    b.kubectl("create", "secret", "generic", "told", "--from-literal=key=hushed-value")
    b.kubectl("create", "namespace", "seen")
    path = f"{b.data}/clusters/{b.name}/masters/{b.name}-master-1/audit/audit.log"

    def events():
        return [json.loads(line) for line in open(path).read().split("\n")[:-1]]

    def found():
        return [e for e in events() if e["verb"] == "create" and e.get("objectRef", {}).get("name") in ("told", "seen")]
    eventually(lambda: len(found()) == 2)
    for event in found():
        assert event["user"]["username"] == "kubernetes-admin"
        assert event["responseStatus"]["code"] == 201
        whole = event["objectRef"]["resource"] == "namespaces"
        assert event["level"] == ("RequestResponse" if whole else "Metadata")
        assert ("requestObject" in event) == whole
    text = open(path).read()
    assert "hushed-value" not in text and "aHVzaGVkLXZhbHVl" not in text
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert not glob.glob(f"{a.data}/clusters/{a.name}/masters/*/audit")
