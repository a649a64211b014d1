// The real kubectl against the server on TLS with client certificates.
#include "test_cluster.h"

namespace dhow::apiserver {
namespace {

class Kubectl : public KubectlTest {};

constexpr const char* kDeployment = R"(
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:1"}]}
)";

TEST_F(Kubectl, WorksWithObjectsFromCreationToDeletion) {
  auto version = good("version");
  expectHas(version, "Server Version: v1.35");
  expectHas(good("get namespaces"), "kube-system");
  expectHas(good("get service kubernetes"), "10.96.0.1");
  expectHas(good("create configmap c --from-literal=k=v"), "configmap/c created");
  expectHas(bad("create configmap c --from-literal=k=v"), "configmaps \"c\" already exists");
  expectHas(good("get configmap c -o jsonpath={.data.k}"), "v");
  expectHas(good("label configmap c tier=front"), "labeled");
  expectHas(good("annotate configmap c note=x"), "annotated");
  expectHas(good("get configmaps -l tier=front -o name"), "configmap/c");
  expectHas(good("patch configmap c -p '{\"data\":{\"k\":\"w\"}}'"), "patched");
  expectHas(good("patch configmap c --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/k\",\"value\":\"z\"}]'"),
            "patched");
  expectHas(good("get configmap c -o yaml"), "k: z");
  expectHas(good("delete configmap c"), "deleted");
  expectHas(bad("get configmap c"), "Error from server (NotFound): configmaps \"c\" not found");
}

TEST_F(Kubectl, AppliesOnceAndThenSaysUnchanged) {
  expectHas(good("apply -f -", kDeployment), "deployment.apps/web created");
  expectHas(good("apply -f -", kDeployment), "deployment.apps/web unchanged");
  expectHas(good("scale deployment web --replicas=5"), "scaled");
  expectHas(good("get deployment web"), "0/5");
  expectHas(good("set image deployment/web web=nginx:2"), "image updated");
  expectHas(good("get deploy -o wide"), "nginx:2");
  std::string changed = kDeployment;
  changed.replace(changed.find("nginx:1"), 7, "nginx:3");
  expectHas(good("apply -f -", changed), "configured");
  expectHas(good("diff -f -", changed), "");
  expectHas(good("delete -f -", kDeployment), "deleted");
}

TEST_F(Kubectl, AppliesOnTheServerSide) {
  expectHas(good("apply --server-side -f -", kDeployment), "serverside-applied");
  auto before = good("get deployment web -o jsonpath={.metadata.resourceVersion}");
  expectHas(good("apply --server-side -f -", kDeployment), "serverside-applied");
  EXPECT_EQ(good("get deployment web -o jsonpath={.metadata.resourceVersion}"), before);
  std::string changed = kDeployment;
  changed.replace(changed.find("replicas: 2"), 11, "replicas: 3");
  expectHas(bad("apply --server-side --field-manager=other -f -", changed), "conflict");
}

TEST_F(Kubectl, ExplainsAndDiscovers) {
  expectHas(good("explain pod.spec.containers"), "FIELD");
  auto resources = good("api-resources");
  for (auto name : {"configmaps", "deployments", "endpointslices", "clusterrolebindings", "leases"})
    expectHas(resources, name);
  expectHas(good("get --raw /readyz?verbose"), "readyz check passed");
  expectHas(bad("get --raw /nothing"), "could not find the requested resource");
  expectHas(bad("get widgets"), "the server doesn't have a resource type \"widgets\"");
}

TEST_F(Kubectl, TellsWhatIsWrongWithAManifest) {
  std::string broken = kDeployment;
  broken.replace(broken.find("replicas: 2"), 11, "replicaz: 2");
  expectHas(bad("apply -f -", broken), "unknown field \"spec.replicaz\"");
  expectHas(bad("create -f -", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n"),
            "is invalid: spec.containers: Required value");
  expectHas(bad("create configmap c -n nowhere"), "namespaces \"nowhere\" not found");
}

TEST_F(Kubectl, WatchesChanges) {
  auto command = fmt::format(
      "(sleep 0.5; HOME={0} KUBECONFIG={1} kubectl create configmap later) > /dev/null & HOME={0} KUBECONFIG={1} "
      "timeout 3 kubectl get configmaps -w",
      dir_, admin_);
  auto out = runCommand({"sh", "-c", command});
  ASSERT_TRUE(out.ok());
  expectHas(out->output, "later");
  expectHas(good("wait --for=jsonpath={.data.k}=v configmap/c --timeout=5s & sleep 0.3; KUBECONFIG=" + admin_ +
                 " kubectl create configmap c --from-literal=k=v; wait"),
            "created");
}

TEST_F(Kubectl, AnswersWhatAUserMayDo) {
  expectHas(good("auth whoami"), "system:masters");
  expectHas(good("auth can-i create pods"), "yes");
  auto viewer = cluster_->user("jane", {"devs"});
  expectHas(bad("get pods", "", viewer),
            "Error from server (Forbidden): pods is forbidden: User \"jane\" cannot list resource \"pods\" in API "
            "group \"\" in the namespace \"default\"");
  good("create rolebinding jane --clusterrole=view --user=jane");
  auto out = run("get pods", "", viewer);
  EXPECT_EQ(out.status.code, 0) << out.errors;
  expectHas(bad("delete pod x", "", viewer), "cannot delete resource");
  expectHas(bad("auth can-i create pods", "", viewer) + run("auth can-i create pods", "", viewer).output, "no");
  expectHas(good("auth can-i get pods --as=jane"), "yes");
  auto token = std::string(trim(good("create token default")));
  auto as = run(fmt::format(
      "auth whoami --kubeconfig=/dev/null --server=https://127.0.0.1:{} --insecure-skip-tls-verify --token={}",
      cluster_->port(), token));
  expectHas(as.output + as.errors, "system:serviceaccount:default:default");
  auto wrong = run(fmt::format(
      "get pods --kubeconfig=/dev/null --server=https://127.0.0.1:{} --insecure-skip-tls-verify --token={}x",
      cluster_->port(), token));
  EXPECT_NE(wrong.status.code, 0);
  expectHas(wrong.errors, "You must be logged in to the server (Unauthorized)");
}

TEST_F(Kubectl, KnowsTheEverydayVerbs) {
  good("create deployment web --image=nginx --replicas=2");
  expectHas(good("expose deployment web --port=80 --type=NodePort"), "exposed");
  expectHas(good("describe service web"), "NodePort");
  expectHas(good("describe deployment web"), "Replicas:");
  expectHas(good("rollout restart deployment web"), "restarted");
  expectHas(good("rollout pause deployment web"), "paused");
  expectHas(good("create -f -", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"), "created");
  expectHas(good("cordon n1"), "cordoned");
  expectHas(good("taint node n1 a=b:NoSchedule"), "tainted");
  expectHas(good("describe node n1"), "a=b:NoSchedule");
  expectHas(good("run p --image=i --overrides='{\"spec\":{\"nodeName\":\"n1\"}}'"), "created");
  expectHas(good("describe pod p"), "kube-api-access-");
  expectHas(good("get pods -o wide"), "Pending");
  expectHas(bad("drain n1 --timeout=2s"), "cannot delete");
  expectHas(good("delete pod p --now --wait=false"), "deleted");
  expectHas(good("get pod p"), "Terminating");
  expectHas(good("delete pod p --force --grace-period=0"), "force deleted");
  expectHas(good("create secret generic s --from-literal=k=v"), "created");
  expectHas(good("create namespace team"), "created");
  expectHas(good("create quota q -n team 2>&1 || echo none"), "");
  expectHas(good("get events -A"), "No resources");
  expectHas(good("get all"), "deployment.apps/web");
  expectHas(good("replace -f -", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: w}\n"),
            "replaced");
  expectHas(good("get secret s -o jsonpath={.data.k}"), "dw==");
  expectHas(good("wait --for=delete pod/p --timeout=5s"), "");
  expectHas(good("delete deployment,service,secret --all"), "deleted");
  expectHas(good("cluster-info"), "running at");
  expectHas(good("auth can-i --list"), "*.*");
}

constexpr const char* kPython = R"(
import sys
try:
    from kubernetes import client, config, watch
except ImportError:
    print('missing')
    sys.exit(0)
config.load_kube_config(sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()
core.create_namespaced_config_map('default', {'metadata': {'name': 'py'}, 'data': {'a': 'b'}})
core.patch_namespaced_config_map('py', 'default', {'data': {'c': 'd'}})
print(core.read_namespaced_config_map('py', 'default').data)
for event in watch.Watch().stream(core.list_namespaced_config_map, 'default', timeout_seconds=1):
    print(event['type'], event['object'].metadata.name)
spec = {'replicas': 1, 'selector': {'matchLabels': {'a': 'b'}}, 'template': {'metadata': {'labels': {'a': 'b'}}, 'spec': {'containers': [{'name': 'c', 'image': 'i'}]}}}
apps.create_namespaced_deployment('default', {'metadata': {'name': 'd'}, 'spec': spec})
apps.patch_namespaced_deployment_scale('d', 'default', {'spec': {'replicas': 4}})
print('replicas', apps.read_namespaced_deployment('d', 'default').spec.replicas)
core.delete_namespaced_config_map('py', 'default')
try:
    core.read_namespaced_config_map('py', 'default')
except client.ApiException as e:
    print(e.status, e.reason)
)";

TEST_F(Kubectl, DecidesOnCertificateSigningRequests) {
  auto jane = cluster_->user("jane", {"people"});
  auto requestFor = [](const std::string& name, const std::string& commonName) {
    auto pem = createCertificateRequest(generatePrivateKey(), {.commonName = commonName}).value();
    return fmt::format(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {}}}\nspec:\n"
        "  signerName: kubernetes.io/kube-apiserver-client\n  expirationSeconds: 7200\n  usages: [client auth]\n"
        "  request: {}\n",
        name, toBase64(pem));
  };
  expectHas(bad("create -f -", requestFor("zero", "jane"), jane),
            "cannot create resource \"certificatesigningrequests\" in API group \"certificates.k8s.io\"");
  good("create clusterrole asker --verb=create,get,list,update --resource=csr,certificatesigningrequests/approval");
  good("create clusterrolebinding asker --clusterrole=asker --group=people");
  auto made = run("create -f -", requestFor("one", "jane"), jane);
  EXPECT_EQ(made.status.code, 0) << made.errors;
  good("create -f -", requestFor("two", "joe"));
  auto table = good("get csr --field-selector spec.signerName=kubernetes.io/kube-apiserver-client");
  expectHas(table, "NAME   AGE");
  expectHas(table, "SIGNERNAME                            REQUESTOR   REQUESTEDDURATION   CONDITION");
  expectHas(table, "kubernetes.io/kube-apiserver-client   jane        120m                Pending");
  expectHas(good("get csr --field-selector spec.signerName=a.b/c"), "No resources found");
  expectHas(bad("certificate approve one", "", jane),
            "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"");
  good(
      "create clusterrolebinding asker-approves "
      "--clusterrole=system:certificates.k8s.io:kube-apiserver-client-approver "
      "--group=people");
  auto approved = run("certificate approve one", "", jane);
  EXPECT_EQ(approved.status.code, 0) << approved.errors;
  expectHas(approved.output, "certificatesigningrequest.certificates.k8s.io/one approved");
  expectHas(good("certificate deny two"), "two denied");
  table = good("get csr");
  expectHas(table, "Approved");
  expectHas(table, "Denied");
  auto described = good("describe csr one");
  expectHas(described, "Requesting User:     jane");
  expectHas(described, "Common Name:    jane");
  expectHas(described, "Status:              Approved");
  expectHas(good("get csr one -o jsonpath={.status.conditions[0].reason}"), "KubectlApprove");
  expectHas(bad("certificate deny one"), "certificate signing request \"one\" is already Approved");
  good("delete csr --all");
}

TEST_F(Kubectl, ThePythonClientAgrees) {
  auto out = runCommand({"/usr/bin/python3", "-c", kPython, admin_});
  if (!out.ok() || out->output.starts_with("missing")) GTEST_SKIP() << "python3-kubernetes is not installed";
  EXPECT_EQ(out->status.code, 0) << out->errors;
  for (auto line : {"{'a': 'b', 'c': 'd'}", "ADDED py", "replicas 4", "404 Not Found"}) expectHas(out->output, line);
}

}  // namespace
}  // namespace dhow::apiserver
