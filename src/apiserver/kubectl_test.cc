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
  expectHas(good("patch configmap c --type=json -p '[{\"op\":\"replace\",\"path\":\"/data/k\",\"value\":\"z\"}]'"), "patched");
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
  for (auto name : {"configmaps", "deployments", "endpointslices", "clusterrolebindings", "leases"}) expectHas(resources, name);
  expectHas(good("get --raw /readyz?verbose"), "readyz check passed");
  expectHas(bad("get --raw /nothing"), "could not find the requested resource");
  expectHas(bad("get widgets"), "the server doesn't have a resource type \"widgets\"");
}

TEST_F(Kubectl, TellsWhatIsWrongWithAManifest) {
  std::string broken = kDeployment;
  broken.replace(broken.find("replicas: 2"), 11, "replicaz: 2");
  expectHas(bad("apply -f -", broken), "unknown field \"spec.replicaz\"");
  expectHas(bad("create -f -", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n"), "is invalid: spec.containers: Required value");
  expectHas(bad("create configmap c -n nowhere"), "namespaces \"nowhere\" not found");
}

TEST_F(Kubectl, WatchesChanges) {
  auto command = fmt::format("(sleep 0.5; HOME={0} KUBECONFIG={1} kubectl create configmap later) > /dev/null & HOME={0} KUBECONFIG={1} timeout 3 kubectl get configmaps -w", dir_, admin_);
  auto out = runCommand({"sh", "-c", command});
  ASSERT_TRUE(out.ok());
  expectHas(out->output, "later");
  expectHas(good("wait --for=jsonpath={.data.k}=v configmap/c --timeout=5s & sleep 0.3; KUBECONFIG=" + admin_ + " kubectl create configmap c --from-literal=k=v; wait"), "created");
}

TEST_F(Kubectl, AnswersWhatAUserMayDo) {
  expectHas(good("auth whoami"), "system:masters");
  expectHas(good("auth can-i create pods"), "yes");
  auto viewer = cluster_->user("jane", {"devs"});
  expectHas(bad("get pods", "", viewer), "Error from server (Forbidden): pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"");
  good("create rolebinding jane --clusterrole=view --user=jane");
  auto out = run("get pods", "", viewer);
  EXPECT_EQ(out.status.code, 0) << out.errors;
  expectHas(bad("delete pod x", "", viewer), "cannot delete resource");
  expectHas(bad("auth can-i create pods", "", viewer) + run("auth can-i create pods", "", viewer).output, "no");
  expectHas(good("auth can-i get pods --as=jane"), "yes");
  auto token = std::string(trim(good("create token default")));
  auto as = run(fmt::format("auth whoami --kubeconfig=/dev/null --server=https://127.0.0.1:{} --insecure-skip-tls-verify --token={}", cluster_->port(), token));
  expectHas(as.output + as.errors, "system:serviceaccount:default:default");
  auto wrong = run(fmt::format("get pods --kubeconfig=/dev/null --server=https://127.0.0.1:{} --insecure-skip-tls-verify --token={}x", cluster_->port(), token));
  EXPECT_NE(wrong.status.code, 0);
  expectHas(wrong.errors, "You must be logged in to the server (Unauthorized)");
}

}  // namespace
}  // namespace dhow::apiserver
