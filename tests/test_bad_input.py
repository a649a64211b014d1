"""What is wrong is said clearly, in the client's own format, and changes nothing. Texts are Kubernetes' own."""

import base64
import json
import os
import shutil

import pytest
from harness import BUILD, Cluster, eventually, run

HELLO = "registry.dhow.internal:5000/hello:1"
KINDS = "configmaps,secrets,pods,deployments,services,serviceaccounts"


@pytest.fixture
def unchanged(cluster, namespace):
    """The objects of the namespace are afterwards what they were before, to the revision."""

    def state():
        done = cluster.kubectl("get", KINDS, "-n", namespace, "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name}@{.metadata.resourceVersion} {end}")
        return [item for item in done.stdout.split() if not item.startswith(("ServiceAccount/", "ConfigMap/kube-root-ca.crt"))]

    before = state()
    yield
    assert state() == before


class Raw:
    """Requests that kubectl does not send."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, str(folder)
        config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json").stdout)
        self.server = config["clusters"][0]["cluster"]["server"]
        self.put("ca", config["clusters"][0]["cluster"]["certificate-authority-data"])
        self.put("crt", config["users"][0]["user"]["client-certificate-data"])
        self.put("key", config["users"][0]["user"]["client-key-data"])

    def path(self, name):
        return os.path.join(self.folder, name)

    def put(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(base64.b64decode(data))

    def __call__(self, path, *args, method="GET", body=None, certificate="crt", key="key", **headers):
        """HTTP status, headers as text, and the answer's document."""
        given = ["-X", method, "--cacert", self.path("ca"), "-D", self.path("headers"), "-o", self.path("answer"), "-w", "%{http_code}"]
        if certificate:
            given += ["--cert", self.path(certificate), "--key", self.path(key)]
        for name, value in headers.items():
            given += ["-H", f"{name.replace('_', '-')}: {value}"]
        if body is not None:
            with open(self.path("body"), "w") as f:
                f.write(body if isinstance(body, str) else json.dumps(body))
            given += ["--data-binary", "@" + self.path("body")]
        code = int(self.cluster.curl(self.server + path, *given, *args).stdout)
        with open(self.path("headers")) as h, open(self.path("answer")) as a:
            return code, h.read(), json.loads(a.read() or "null")

    def refused(self, path, code, reason, message, **options):
        got, _, status = self(path, **options)
        assert (got, status["kind"], status["status"], status["code"]) == (code, "Status", "Failure", code), status
        assert status["reason"] == reason, status
        assert message in status["message"], status
        return status


@pytest.fixture(scope="module")
def raw(cluster, tmp_path_factory):
    return Raw(cluster, tmp_path_factory.mktemp("raw"))


def pod(name, spec=None, **container):
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, **(spec or {}), "containers": [{"name": "a", "image": HELLO, **container}]}}


def refused(cluster, namespace, expected, *args, input=None):
    """kubectl ends with 1 and prints the text."""
    done = cluster.kubectl("-n", namespace, *args, input=input, check=False)
    assert done.returncode == 1, done.stdout
    assert expected in done.stderr, done.stderr


@pytest.mark.parametrize("manifest, expected", [
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x", "error converting YAML to JSON"),
    ('{"kind": "Pod", "apiVersion": "v1",', "unexpected EOF"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a}]}", "spec.containers[0].image: Required value"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: X_}\nspec: {containers: [{name: a, image: b}]}", "metadata.name: Invalid value"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, colour: red}]}",
     'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].colour"'),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: 99999}]}]}", "must be between 1 and 65535"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, ports: [{containerPort: eighty}]}]}",
     "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, resources: {limits: {memory: lots}}}]}",
     "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ("kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\ndata: {a: 1}", "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"),
    ("kind: Secret\napiVersion: v1\nmetadata: {name: x}\ndata: {a: '%%'}", "illegal base64 data"),
    ("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}",
     "`selector` does not match template `labels`"),
    ("kind: Service\napiVersion: v1\nmetadata: {name: x}\nspec: {ports: [{port: 80, nodePort: 80}], type: NodePort}", "provided port is not in the valid range. The range of valid ports is 30000-32767"),
    ("kind: PodDisruptionBudget\napiVersion: policy/v1\nmetadata: {name: x}\nspec: {minAvailable: 1, maxUnavailable: 1}", "minAvailable and maxUnavailable cannot be both set"),
    ("kind: Nothing\napiVersion: v1\nmetadata: {name: x}", 'no matches for kind "Nothing" in version "v1"'),
    ("kind: ConfigMap\nmetadata: {name: x}", "apiVersion not set"),
])
def test_malformed_manifests_are_refused_with_the_field(cluster, namespace, unchanged, manifest, expected):
    refused(cluster, namespace, expected, "create", "-f", "-", input=manifest)


def test_unknown_fields_are_errors_warnings_or_nothing(cluster, namespace, unchanged):
    manifest = '{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","colour":"red"},"extra":1}'
    refused(cluster, namespace, 'strict decoding error: unknown field "extra", unknown field "metadata.colour"',
            "create", "--validate=strict", "-f", "-", input=manifest)
    warned = cluster.kubectl("-n", namespace, "create", "--dry-run=server", "--validate=warn", "-f", "-", input=manifest)
    assert warned.stderr.splitlines() == ['Warning: unknown field "extra"', 'Warning: unknown field "metadata.colour"']
    assert cluster.kubectl("-n", namespace, "create", "--dry-run=server", "--validate=ignore", "-f", "-", input=manifest).stderr == ""


def test_duplicate_fields_are_errors_warnings_or_nothing(raw, namespace, unchanged):
    maps = f"/api/v1/namespaces/{namespace}/configmaps?dryRun=All&fieldValidation="
    body = '{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"},"data":{"a":"b","a":"c"}}'
    raw.refused(maps + "Strict", 400, "BadRequest", 'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: duplicate field "data.a"',
                method="POST", body=body, Content_Type="application/json")
    code, headers, made = raw(maps + "Warn", method="POST", body=body, Content_Type="application/json")
    assert (code, made["data"]) == (201, {"a": "c"}) and r'299 - "duplicate field \"data.a\""' in headers
    code, headers, _ = raw(maps + "Ignore", method="POST", body=body, Content_Type="application/json")
    assert code == 201 and "duplicate" not in headers
    raw.refused(maps + "Maybe", 400, "BadRequest", 'fieldValidation: Unsupported value: "Maybe": supported values: "Ignore", "Strict", "Warn"',
                method="POST", body=body, Content_Type="application/json")


def test_bodies_that_cannot_be_read_are_refused(raw, namespace, unchanged):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    raw.refused(maps, 400, "BadRequest", "couldn't get version/kind; json parse error", method="POST", body='{"kind":', Content_Type="application/json")
    raw.refused(maps, 400, "BadRequest", "yaml: line", method="POST", body="kind: ConfigMap\n  bad: [", Content_Type="application/yaml")
    raw.refused(maps, 400, "BadRequest", "the API version in the data (v2) does not match the expected API version (v1)", method="POST",
                body={"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "x"}}, Content_Type="application/json")
    raw.refused(maps, 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request", method="POST",
                body={"metadata": {"name": "x", "namespace": "other"}}, Content_Type="application/json")
    raw.refused(maps, 415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json", method="POST",
                body="a,b", Content_Type="text/csv")
    raw.refused(maps, 406, "NotAcceptable", "only the following media types are accepted: application/json", Accept="text/csv")
    raw.refused(maps, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource", method="PUT", body="{}", Content_Type="application/json")
    raw.refused("/api/v1/nothings", 404, "NotFound", "the server could not find the requested resource")


def test_large_bodies_are_refused(cluster, raw, namespace, unchanged, tmp_path):
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    big = {"metadata": {"name": "big"}, "data": {"a": "x" * (3 << 20)}}
    raw.refused(maps, 413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", method="POST", body=big, Content_Type="application/json")
    (tmp_path / "file").write_text("x" * ((1 << 20) + 1))
    refused(cluster, namespace, 'ConfigMap "big" is invalid: []: Too long: may not be more than 1048576 bytes', "create", "configmap", "big", f"--from-file={tmp_path}/file")


def test_fixed_fields_stay(cluster, namespace):
    cluster.kubectl("-n", namespace, "create", "deployment", "d", "--image=x", "--replicas=0")
    refused(cluster, namespace, "spec.selector: Invalid value", "patch", "deployment", "d", "-p", '{"spec":{"selector":{"matchLabels":{"app":"e"}}}}')
    refused(cluster, namespace, "field is immutable", "patch", "deployment", "d", "-p", '{"spec":{"selector":{"matchLabels":{"app":"e"}}}}')
    cluster.kubectl("-n", namespace, "create", "configmap", "c", "--from-literal=a=b")
    cluster.kubectl("-n", namespace, "patch", "configmap", "c", "-p", '{"immutable":true}')
    refused(cluster, namespace, "data: Forbidden: field is immutable when `immutable` is set", "patch", "configmap", "c", "-p", '{"data":{"a":"c"}}')
    assert cluster.get("configmap", "c", "-n", namespace)["data"] == {"a": "b"}
    cluster.kubectl("-n", namespace, "create", "secret", "generic", "s", "--from-literal=a=b")
    refused(cluster, namespace, 'type: Invalid value: "x": field is immutable', "patch", "secret", "s", "-p", '{"type":"x"}')
    cluster.kubectl("-n", namespace, "create", "-f", "-", input=json.dumps(pod("p", {"nodeSelector": {"no": "where"}})))
    refused(cluster, namespace, "spec: Forbidden: pod updates may not change fields other than", "patch", "pod", "p", "-p", '{"spec":{"hostname":"h"}}')


@pytest.mark.parametrize("command, expected", [
    (["create", "configmap", "Bad_Name"], "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"),
    (["create", "namespace", "a" * 64], "must be no more than 63 bytes"),
    (["create", "service", "clusterip", "1up", "--tcp=80"], "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character"),
    (["get", "pods", "-l", "a in ("], "unable to parse requirement: found '', expected: ',', ')' or identifier"),
    (["get", "pods", "--field-selector", "a.b=c"], "field label not supported: a.b"),
    (["annotate", "namespace", "default", "a b=c"], "metadata.annotations: Invalid value: \"a b\""),
    (["label", "namespace", "default", "a b=c"], "name part must consist of alphanumeric characters, '-', '_' or '.'"),
])
def test_bad_names_labels_and_selectors(cluster, namespace, unchanged, command, expected):
    refused(cluster, namespace, expected, *command)


def test_missing_references_show_in_the_pod(cluster, namespace):
    pods = [pod("nomap", envFrom=[{"configMapRef": {"name": "missing"}}]),
            pod("nosecret", env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "missing", "key": "k"}}}]),
            pod("novolume", {"volumes": [{"name": "v", "configMap": {"name": "missing"}}]}, volumeMounts=[{"name": "v", "mountPath": "/v"}]),
            pod("nopullsecret", {"imagePullSecrets": [{"name": "missing"}]}),
            pod("badimage", image="UPPER/case:no@yes"),
            pod("noimage", image="registry.dhow.internal:5000/nothing:1"),
            pod("noregistry", image="127.0.0.1:1/nothing:here"),
            pod("never", image="registry.dhow.internal:5000/absent:1", imagePullPolicy="Never")]
    cluster.kubectl("-n", namespace, "create", "-f", "-", input=json.dumps({"kind": "List", "apiVersion": "v1", "items": pods}))
    expected = {"nomap": {"CreateContainerConfigError"}, "nosecret": {"CreateContainerConfigError"}, "novolume": {"ContainerCreating"},
                "badimage": {"InvalidImageName"}, "noimage": {"ErrImagePull", "ImagePullBackOff"}, "noregistry": {"ErrImagePull", "ImagePullBackOff"},
                "never": {"ErrImageNeverPull"}, "nopullsecret": {"Running"}}

    def shown():
        table = cluster.kubectl("-n", namespace, "get", "pods", "--no-headers").stdout
        states = {line.split()[0]: line.split()[2] for line in table.splitlines()}
        assert all(states.get(name) in wanted for name, wanted in expected.items()), table
        return True

    eventually(shown)

    def said(name, reason, message):
        def told():
            done = cluster.kubectl("-n", namespace, "get", "events", "--field-selector", f"involvedObject.name={name},reason={reason}", "-o", "jsonpath={.items[*].message}")
            assert message in done.stdout, done.stdout
            return True

        eventually(told)

    said("nomap", "Failed", 'Error: configmap "missing" not found')
    said("nosecret", "Failed", 'Error: secret "missing" not found')
    said("novolume", "FailedMount", 'MountVolume.SetUp failed for volume "v" : configmap "missing" not found')
    said("badimage", "InspectFailed", 'Failed to apply default image tag "UPPER/case:no@yes": couldn\'t parse image name')
    said("never", "ErrImageNeverPull", 'Container image "registry.dhow.internal:5000/absent:1" is not present with pull policy of Never')
    said("noimage", "Failed", 'Failed to pull image "registry.dhow.internal:5000/nothing:1"')
    # What was missing comes, and so does the pod.
    cluster.kubectl("-n", namespace, "create", "configmap", "missing", "--from-literal=a=b")
    eventually(lambda: cluster.get("pod", "nomap", "-n", namespace)["status"]["phase"] == "Running")
    cluster.kubectl("-n", namespace, "delete", "pods", "--all")
    assert cluster.get("pods", "-n", namespace)["items"] == []


def test_missing_accounts_and_priorities_are_refused(cluster, namespace, unchanged):
    refused(cluster, namespace, f'pods "p" is forbidden: error looking up service account {namespace}/missing: serviceaccount "missing" not found',
            "create", "-f", "-", input=json.dumps(pod("p", {"serviceAccountName": "missing"})))
    refused(cluster, namespace, 'pods "p" is forbidden: no PriorityClass with name missing was found', "create", "-f", "-", input=json.dumps(pod("p", {"priorityClassName": "missing"})))
    refused(cluster, "missing", 'namespaces "missing" not found', "create", "configmap", "c")


def test_strangers_are_unauthorized(cluster, raw, tmp_path):
    for token in ("not.a.token", "abc", "e30.e30.e30"):
        raw.refused("/api/v1/pods", 401, "Unauthorized", "Unauthorized", certificate=None, Authorization=f"Bearer {token}")
    raw.refused("/api/v1/pods", 401, "Unauthorized", "Unauthorized", certificate=None)
    raw.refused("/api/v1/pods", 401, "Unauthorized", "Unauthorized", certificate=None, Authorization="Basic YTpi")
    # A certificate of an authority of one's own, and one of the cluster's that has expired.
    pki = f"{cluster.data}/clusters/{cluster.name}/pki"
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=admin/O=system:masters"]
    run([*new, "-x509", "-days", "1", "-keyout", raw.path("own-key"), "-out", raw.path("own")])
    raw.refused("/api/v1/pods", 401, "Unauthorized", "Unauthorized", certificate="own", key="own-key")
    run([*new, "-new", "-keyout", raw.path("old-key"), "-out", raw.path("request")])
    run(["openssl", "x509", "-req", "-in", raw.path("request"), "-CA", f"{pki}/ca.crt", "-CAkey", f"{pki}/ca.key", "-CAserial", str(tmp_path / "serial"), "-CAcreateserial",
         "-days", "-1", "-out", raw.path("old")])
    raw.refused("/api/v1/pods", 401, "Unauthorized", "Unauthorized", certificate="old", key="old-key")
    done = run(cluster.net.inside(["kubectl", "--kubeconfig", "/dev/null", "--server", raw.server, "--certificate-authority", raw.path("ca"),
                                   "--client-certificate", raw.path("own"), "--client-key", raw.path("own-key"), "get", "pods"]), check=False)
    assert done.returncode == 1 and done.stderr.strip().endswith("You must be logged in to the server (Unauthorized)")


def test_who_may_not_is_told_what_in_kubernetes_words(cluster, raw, namespace, unchanged):
    token = cluster.kubectl("-n", namespace, "create", "token", "default").stdout.strip()
    user = f"system:serviceaccount:{namespace}:default"

    def as_account(*args):
        return run(cluster.net.inside(["kubectl", "--kubeconfig", "/dev/null", "--server", raw.server, "--certificate-authority", raw.path("ca"), "--token", token, "-n", namespace, *args]),
                   check=False)

    for args, text in [
        (["get", "pods"], f'Error from server (Forbidden): pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{namespace}"'),
        (["get", "pod", "x"], f'Error from server (Forbidden): pods "x" is forbidden: User "{user}" cannot get resource "pods" in API group "" in the namespace "{namespace}"'),
        (["get", "nodes"], f'Error from server (Forbidden): nodes is forbidden: User "{user}" cannot list resource "nodes" in API group "" at the cluster scope'),
        (["create", "configmap", "x"],
         f'error: failed to create configmap: configmaps is forbidden: User "{user}" cannot create resource "configmaps" in API group "" in the namespace "{namespace}"'),
        (["delete", "deployment", "x"],
         f'Error from server (Forbidden): deployments.apps "x" is forbidden: User "{user}" cannot delete resource "deployments" in API group "apps" in the namespace "{namespace}"'),
        (["get", "--raw", "/metrics"], f'Error from server (Forbidden): forbidden: User "{user}" cannot get path "/metrics"'),
    ]:
        done = as_account(*args)
        assert (done.returncode, done.stderr.strip()) == (1, text)


def test_old_and_future_revisions(cluster, raw, namespace):
    cluster.kubectl("-n", namespace, "create", "configmap", "c", "--from-literal=a=b")
    one = f"/api/v1/namespaces/{namespace}/configmaps/c"
    raw.refused(one, 409, "Conflict", 'Operation cannot be fulfilled on configmaps "c": the object has been modified; please apply your changes to the latest version and try again',
                method="PUT", body={"metadata": {"name": "c", "resourceVersion": "1"}}, Content_Type="application/json")
    raw.refused(one, 409, "Conflict", "Precondition failed: UID in precondition: other, UID in object meta:", method="DELETE", body={"preconditions": {"uid": "other"}},
                Content_Type="application/json")
    raw.refused("/api/v1/configmaps?continue=xyz", 400, "BadRequest", "continue key is not valid")
    raw.refused("/api/v1/configmaps?resourceVersion=abc", 400, "BadRequest", 'Invalid value: "abc"')
    status = raw.refused("/api/v1/configmaps?resourceVersion=99999999", 504, "Timeout", "Too large resource version: 99999999, current: ")
    assert status["details"]["retryAfterSeconds"] == 1
    assert cluster.get("configmap", "c", "-n", namespace)["data"] == {"a": "b"}


def test_bad_patches(cluster, raw, namespace):
    cluster.kubectl("-n", namespace, "create", "configmap", "c", "--from-literal=a=b")
    version = cluster.get("configmap", "c", "-n", namespace)["metadata"]["resourceVersion"]
    for kind, body, code, reason, message in [
        ("json-patch+json", "{bad", 400, "BadRequest", "invalid JSON"),
        ("json-patch+json", '[{"op":"replace","path":"/data/z","value":"1"}]', 422, "Invalid", "the server rejected our request due to an error in our request"),
        ("json-patch+json", '[{"op":"test","path":"/data/a","value":"1"}]', 422, "Invalid", "testing value /data/a failed"),
        ("json-patch+json", '{"op":"add"}', 400, "BadRequest", ""),
        ("json-patch+json", '[{"op":"frob","path":"/data"}]', 400, "BadRequest", "unexpected kind: frob"),
        ("merge-patch+json", "[]", 400, "BadRequest", ""),
        ("merge-patch+json", '{"data":5}', 400, "BadRequest", "json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string"),
        ("merge-patch+json", '{"metadata":{"name":"d"}}', 400, "BadRequest", "the name of the object (d) does not match the name on the URL (c)"),
        ("strategic-merge-patch+json", "{bad", 400, "BadRequest", "invalid JSON"),
        ("apply-patch+yaml", "a: [", 400, "BadRequest", "yaml: line"),
        ("apply-patch+yaml", "{}", 422, "Invalid", "fieldManager: Required value: is required for apply patch"),
        ("octet-stream", "x", 415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json-patch+json"),
    ]:
        raw.refused(f"/api/v1/namespaces/{namespace}/configmaps/c", code, reason, message, method="PATCH", body=body, Content_Type=f"application/{kind}")
    assert cluster.get("configmap", "c", "-n", namespace)["metadata"]["resourceVersion"] == version


@pytest.fixture
def small(request):
    """A cluster of one node with a file system of so many bytes in place of one of its folders."""
    made = Cluster(nodes=1, zones=1)
    folder = f"{made.data}/clusters/{made.name}/" + request.param[0].format(name=made.name)
    os.makedirs(folder, mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", f"size={request.param[1]}", "tmpfs", folder])
    made.folder = folder
    try:
        made.up()
        yield made
    finally:
        made.dhow("down", check=False)
        run(["umount", "-l", folder], check=False)
        made.destroy()


def fill(path):
    """Takes all the room that there is."""
    with open(path, "wb", buffering=0) as f:
        for size in (1 << 20, 1 << 12):
            try:
                while f.write(b"x" * size) == size:
                    pass
            except OSError:
                pass


@pytest.mark.parametrize("small", [("masters/{name}-master-1", "24m")], indirect=True)
def test_a_full_disk_of_the_master_refuses_writes_until_there_is_room(small):
    small.kubectl("create", "configmap", "before", "--from-literal=a=b")
    fill(f"{small.folder}/filler")
    assert shutil.disk_usage(small.folder).free == 0
    # What is at hand of the log may still take a write or two.
    value = "x" * 100_000

    def full():
        done = small.kubectl("create", "configmap", "c" + os.urandom(4).hex(), f"--from-literal=a={value}", check=False)
        assert done.returncode == 1
        return done

    done = eventually(full)
    assert "the store's disk is full" in done.stderr and "database or disk is full" in done.stderr
    assert small.get("configmap", "before")["data"] == {"a": "b"}
    known = {item["metadata"]["name"] for item in small.get("configmaps")["items"]}
    for i in range(3):
        assert small.kubectl("create", "configmap", f"late{i}", f"--from-literal=a={value}", check=False).returncode == 1
    assert {item["metadata"]["name"] for item in small.get("configmaps")["items"]} == known
    os.unlink(f"{small.folder}/filler")
    eventually(lambda: small.kubectl("create", "configmap", "after", f"--from-literal=a={value}", check=False).returncode == 0)
    eventually(lambda: "True" in small.kubectl("get", "nodes", "-o", 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}').stdout)
    # And it is all there after a restart.
    small.dhow("machine", "stop", f"{small.name}-master-1")
    small.dhow("machine", "start", f"{small.name}-master-1")
    eventually(lambda: {item["metadata"]["name"] for item in small.get("configmaps")["items"]} == known | {"after"})


@pytest.mark.parametrize("small", [("nodes/{name}-node-1", "24m")], indirect=True)
def test_a_full_disk_of_a_node_is_told_by_the_pod_and_leaves_nothing(small, tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(40 << 20))
    image = "registry.dhow.internal:5000/big:1"
    shutil.copy(f"{BUILD}/examples/hello/hello", tmp_path / "hello")
    small.dhow("image", "--tag", image, "--add", f"{tmp_path}:/", "--cmd", "/hello")
    used = shutil.disk_usage(small.folder).used
    small.kubectl("create", "-f", "-", input=json.dumps(pod("big", image=image)))

    def told():
        containers = small.get("pod", "big")["status"].get("containerStatuses")
        assert containers, "nothing is told yet"
        state = containers[0]["state"]["waiting"]
        assert state["reason"] in ("ErrImagePull", "ImagePullBackOff") and "no space left on device" in state["message"].lower(), state
        return True

    eventually(told)
    # What was taken for the image is given back.
    eventually(lambda: shutil.disk_usage(small.folder).used < used + (2 << 20))
    run(["mount", "-o", "remount,size=160m", small.folder])
    eventually(lambda: small.get("pod", "big")["status"]["phase"] == "Running", timeout=60)
