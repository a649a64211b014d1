// Certificate signing requests from the asker to the certificate: the real API server over a store in memory, the
// controller, and client/certificate_request.h, under the virtual clock.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "apiserver/server.h"
#include "base/strings.h"
#include "certificates.h"
#include "client/certificate_request.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::controllers {
namespace {

using namespace std::chrono_literals;
using namespace client;
using apiserver::Caller;
using apiserver::LocalClient;
using testing::HasSubstr;
namespace kinds = object::resources;

const Caller kBootstrapper{"system:bootstrap:abcdef", "", {"system:bootstrappers", "system:authenticated"}, {}};
const Caller kNode{"system:node:a", "", {"system:nodes", "system:authenticated"}, {}};
const Caller kUser{"jane", "u1", {"people", "system:authenticated"}, {{"example.com/team", {"x", "y"}}}};

struct CertificatesTest : testing::Test {
  CertificatesTest() {
    CHECK(runOn(loop, server.start()).ok());
    admin = server.clientFor("admin");
    authority = createAuthority("dhow-test", loop.wallNow(), 24h * 3650).value();
    startController(authority);
  }
  ~CertificatesTest() override {
    runOn(loop, controller->stop());
    runOn(loop, server.stop());
  }
  void startController(std::optional<Identity> signer) {
    CertificatesController::Options options;
    options.authority = std::move(signer);
    controller = std::make_unique<CertificatesController>(Context{loop, *admin, server.caches()}, std::move(options));
    controller->start();
  }
  LocalClient as(const Caller& caller) { return LocalClient(server.registry(), caller); }

  // What requestCertificate() gives within a minute.
  Result<Identity> ask(const Caller& caller, CertificateRequest request) {
    auto client = as(caller);
    return runOn(loop, requestCertificate(loop, client, std::move(request), 60s));
  }
  Result<ObjectPtr> create(const Caller& caller, const std::string& name, json::object spec) {
    if (!spec.contains("request"))
      spec["request"] = toBase64(createCertificateRequest(generatePrivateKey(), {.commonName = "jane"}).value());
    auto client = as(caller);
    json::object body{{"metadata", json::object{{"name", name}}}, {"spec", std::move(spec)}};
    return runOn(loop, client.create(kinds::kCertificateSigningRequests, "", std::move(body), "", ""));
  }
  Result<ObjectPtr> decide(const Caller& caller, const std::string& name, std::string_view type) {
    json::object document = get(name)->root();
    arrayAt(objectAt(document, "status"), "conditions")
        .push_back({{"type", type}, {"status", "True"}, {"reason", "Because"}, {"message", "of it"}});
    auto client = as(caller);
    auto done =
        runOn(loop, client.update(kinds::kCertificateSigningRequests, "", name, "approval", std::move(document)));
    loop.advance(1s);
    return done;
  }
  ObjectPtr get(const std::string& name) {
    return server.caches().of(kinds::kCertificateSigningRequests).get("", name);
  }
  std::vector<ObjectPtr> all() { return server.caches().of(kinds::kCertificateSigningRequests).list(); }
  CertificateInfo certificateOf(const std::string& name) {
    return inspectCertificate(fromBase64(text(get(name)->root(), {"status", "certificate"})).value()).value();
  }

  SimLoop loop;
  store::MemoryStore store{loop, {}};
  apiserver::ApiServer server{loop, store, object::Kinds::builtin(), {}};
  std::unique_ptr<Client> admin;
  Identity authority;
  std::unique_ptr<CertificatesController> controller;
};

const json::array kClientUsages{"client auth", "digital signature"};

json::object clientSpec() {
  return {{"signerName", signers::kClient}, {"usages", kClientUsages}};
}

TEST_F(CertificatesTest, WhoJoinsGetsANodesCertificateAndTheNodeRenewsItsOwn) {
  auto joined = ask(kBootstrapper, nodeCertificateRequest("a"));
  ASSERT_TRUE(joined.ok()) << joined.error().message();
  auto info = inspectCertificate(joined->certificatePem).value();
  EXPECT_EQ(info.commonName, "system:node:a");
  EXPECT_EQ(info.organizations, std::vector<std::string>{"system:nodes"});
  EXPECT_NEAR(double((info.notAfter - loop.wallNow()) / 1h), 24 * 365, 1);
  EXPECT_EQ(publicKeyOf(joined->privateKeyPem).ok(), true);

  auto request = nodeCertificateRequest("a");
  request.expiration = 2h;
  auto renewed = ask(kNode, request);
  ASSERT_TRUE(renewed.ok()) << renewed.error().message();
  EXPECT_LE(inspectCertificate(renewed->certificatePem)->notAfter - loop.wallNow(), 2h);
  EXPECT_NE(renewed->privateKeyPem, joined->privateKeyPem);
  std::set<std::string> messages;
  for (const auto& one : all()) {
    const auto* approved = condition(one->root(), "Approved");
    EXPECT_EQ(text(*approved, "reason"), "AutoApproved");
    messages.emplace(text(*approved, "message"));
  }
  EXPECT_EQ(messages,
            (std::set<std::string>{"Auto approving kubelet client certificate after SubjectAccessReview.",
                                   "Auto approving self kubelet client certificate after SubjectAccessReview."}));
}

TEST_F(CertificatesTest, NobodyElseBecomesANode) {
  auto refused = ask(kUser, nodeCertificateRequest("a"));
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(refused.error().is(Code::kDeadlineExceeded));
  EXPECT_THAT(refused.error().message(), HasSubstr("is still not approved (kubectl certificate approve)"));
  // A node asks for itself alone.
  auto other = ask(kNode, nodeCertificateRequest("b"));
  EXPECT_TRUE(other.error().is(Code::kPermissionDenied));
  EXPECT_THAT(other.error().message(), HasSubstr("can only create a node CSR with CN=system:node:a"));
  // Nor is anything but a node's certificate approved for a bootstrapper.
  auto request = nodeCertificateRequest("a");
  request.organizations = {"system:nodes", "system:masters"};
  EXPECT_TRUE(ask(kBootstrapper, request).error().is(Code::kDeadlineExceeded));
  request = nodeCertificateRequest("a");
  request.signer = signers::kClient;
  EXPECT_TRUE(ask(kBootstrapper, request).error().is(Code::kDeadlineExceeded));
}

TEST_F(CertificatesTest, ARequestIsApprovedOnceItsAskerMay) {
  ASSERT_TRUE(
      create(kUser, "early",
             {{"signerName", signers::kNodeClient},
              {"usages", kClientUsages},
              {"request", toBase64(createCertificateRequest(generatePrivateKey(), {.commonName = "system:node:n",
                                                                                   .organizations = {"system:nodes"}})
                                       .value())}})
          .ok());
  loop.advance(1min);
  EXPECT_FALSE(condition(get("early")->root(), "Approved"));
  json::object binding{
      {"metadata", json::object{{"name", "people-join"}}},
      {"roleRef", json::object{{"apiGroup", "rbac.authorization.k8s.io"},
                               {"kind", "ClusterRole"},
                               {"name", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}}},
      {"subjects", json::array{{{"apiGroup", "rbac.authorization.k8s.io"}, {"kind", "Group"}, {"name", "people"}}}}};
  ASSERT_TRUE(runOn(loop, admin->create(kinds::kClusterRoleBindings, "", std::move(binding))).ok());
  loop.advance(1s);
  EXPECT_EQ(certificateOf("early").commonName, "system:node:n");
}

TEST_F(CertificatesTest, PeopleDecideTheRestAndAnAskerHearsWhy) {
  CertificateRequest request;
  request.signer = signers::kClient;
  request.commonName = "jane";
  request.usages = {"client auth"};
  Result<Identity> answer = Error(Code::kInternal, "none");
  auto client = as(kUser);
  auto asking = [](Loop* loop, Client* client, CertificateRequest request, Result<Identity>* answer) -> Task<> {
    *answer = co_await requestCertificate(*loop, *client, std::move(request), 1h);
  };
  spawn(loop, asking(&loop, &client, request, &answer));
  loop.advance(5min);
  ASSERT_EQ(all().size(), 1u);
  ASSERT_TRUE(decide(kUser, std::string(all()[0]->name()), "Approved").error().is(Code::kPermissionDenied));
  ASSERT_TRUE(decide(apiserver::systemCaller(), std::string(all()[0]->name()), "Approved").ok());
  ASSERT_TRUE(answer.ok()) << answer.error().message();
  EXPECT_EQ(inspectCertificate(answer->certificatePem)->commonName, "jane");
  ASSERT_TRUE(
      runOn(loop, admin->remove(kinds::kCertificateSigningRequests, "", std::string(all()[0]->name()), {})).ok());

  spawn(loop, asking(&loop, &client, request, &answer));
  loop.advance(5min);
  ASSERT_TRUE(decide(apiserver::systemCaller(), std::string(all()[0]->name()), "Denied").ok());
  EXPECT_TRUE(answer.error().is(Code::kFailedPrecondition));
  EXPECT_THAT(answer.error().message(), HasSubstr("was denied: Because: of it"));

  spawn(loop, asking(&loop, &client, request, &answer));
  loop.advance(5min);
  for (const auto& one : all()) {
    if (condition(one->root(), "Denied")) continue;
    ASSERT_TRUE(runOn(loop, admin->remove(kinds::kCertificateSigningRequests, "", std::string(one->name()), {})).ok());
  }
  loop.advance(1s);
  EXPECT_THAT(answer.error().message(), HasSubstr("was removed"));
}

TEST_F(CertificatesTest, SignersRefuseWhatIsNotTheirs) {
  auto why = [&](const std::string& name, std::string_view signer, CertificateSpec names, json::array usages) {
    EXPECT_TRUE(create(kUser, name,
                       {{"signerName", signer},
                        {"usages", std::move(usages)},
                        {"request", toBase64(createCertificateRequest(generatePrivateKey(), names).value())}})
                    .ok());
    EXPECT_TRUE(decide(apiserver::systemCaller(), name, "Approved").ok());
    const auto* failed = condition(get(name)->root(), "Failed");
    if (!failed) return text(get(name)->root(), {"status", "certificate"}).empty() ? "waits" : "signed";
    EXPECT_EQ(text(*failed, "reason"), "SignerValidationFailure");
    static std::string message;
    message = text(*failed, "message");
    return message.c_str();
  };
  const json::array server{"digital signature", "key encipherment", "server auth"};
  CertificateSpec node{.commonName = "system:node:a", .organizations = {"system:nodes"}};
  CertificateSpec named = node;
  named.dnsNames = {"a.example"};
  EXPECT_STREQ(why("a", signers::kNodeServing, named, server), "signed");
  EXPECT_STREQ(why("b", signers::kNodeServing, node, server), "DNS or IP subjectAltName is required");
  EXPECT_STREQ(why("c", signers::kNodeClient, named, kClientUsages), "DNS subjectAltNames are not allowed");
  EXPECT_STREQ(why("d", signers::kNodeClient, node, server),
               "usages did not match [client auth digital signature key encipherment]");
  EXPECT_STREQ(why("e", signers::kNodeClient, {.commonName = "a", .organizations = {"system:nodes"}}, kClientUsages),
               "subject common name does not begin with system:node:");
  EXPECT_STREQ(why("f", signers::kNodeClient, {.commonName = "system:node:a"}, kClientUsages),
               "subject organization is not system:nodes");
  EXPECT_STREQ(why("g", signers::kClient, node, server), "invalid usage for client certificate: server auth");
  EXPECT_STREQ(why("h", signers::kClient, node, {"digital signature"}),
               "missing required usage for client certificate: client auth");
  EXPECT_STREQ(why("i", "example.com/other", node, kClientUsages), "waits");
}

TEST_F(CertificatesTest, WhoAskedIsTheServersWordAndWhatIsAskedStays) {
  auto spec = clientSpec();
  spec["username"] = "system:admin";
  spec["groups"] = json::array{"system:masters"};
  auto made = create(kUser, "mine", spec);
  ASSERT_TRUE(made.ok()) << made.error().message();
  const auto& asked = client::object((*made)->root(), {"spec"});
  EXPECT_EQ(text(asked, "username"), "jane");
  EXPECT_EQ(text(asked, "uid"), "u1");
  EXPECT_EQ(strings(array(asked, {"groups"})), kUser.groups);
  EXPECT_EQ(strings(array(asked, {"extra", "example.com/team"})), (std::vector<std::string>{"x", "y"}));
  json::object change{{"spec", json::object{{"username", "root"}, {"signerName", "a.b/c"}}},
                      {"status", json::object{{"certificate", "eA=="}}},
                      {"metadata", json::object{{"labels", json::object{{"a", "b"}}}}}};
  auto changed = runOn(
      loop, admin->patch(kinds::kCertificateSigningRequests, "", "mine", "", PatchType::kMerge, std::move(change)));
  ASSERT_TRUE(changed.ok()) << changed.error().message();
  EXPECT_EQ(client::object((*changed)->root(), {"spec"}), asked);
  EXPECT_EQ((*changed)->label("a"), "b");
  EXPECT_EQ(text((*changed)->root(), {"status", "certificate"}), "");
}

TEST_F(CertificatesTest, MalformedRequestsAreRefusedAtOnce) {
  auto why = [&](std::string_view field, json::value value) {
    auto spec = clientSpec();
    spec[field] = std::move(value);
    auto made = create(kUser, "bad", std::move(spec));
    if (made.ok()) return std::string("it was taken");
    EXPECT_TRUE(made.error().is(Code::kInvalid) || made.error().is(Code::kPermissionDenied));
    return made.error().message();
  };
  const std::string prefix = "CertificateSigningRequest.certificates.k8s.io \"bad\" is invalid: ";
  EXPECT_EQ(why("request", "eA=="),
            prefix + "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST");
  EXPECT_EQ(why("usages", json::array()), prefix + "spec.usages: Required value");
  EXPECT_THAT(why("usages", json::array{"client auth", "fly"}),
              HasSubstr("spec.usages[1]: Unsupported value: \"fly\": supported"));
  EXPECT_EQ(why("usages", json::array{"any", "any"}), prefix + "spec.usages[1]: Duplicate value: \"any\"");
  EXPECT_EQ(why("expirationSeconds", 599),
            prefix +
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 "
                "minutes)");
  EXPECT_EQ(why("signerName", "nobody"),
            prefix +
                "spec.signerName: Invalid value: \"nobody\": must be a fully qualified domain and path of the form "
                "'example.com/signer-name'");
  EXPECT_THAT(why("signerName", "com/x"), HasSubstr("should be a domain with at least two segments separated by dots"));
  EXPECT_THAT(why("signerName", "a_b.com/x"), HasSubstr("validating label \"a_b\": a lowercase RFC 1123 label"));
  EXPECT_THAT(why("signerName", "kubernetes.io/legacy-unknown"), HasSubstr("the legacy signerName is not allowed"));
  auto root =
      createCertificateRequest(generatePrivateKey(), {.commonName = "jane", .organizations = {"system:masters"}});
  EXPECT_EQ(why("request", json::value(toBase64(*root))),
            "certificatesigningrequests.certificates.k8s.io \"bad\" is forbidden: use of "
            "kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed");
}

TEST_F(CertificatesTest, ADecisionIsNotTakenBack) {
  ASSERT_TRUE(create(kUser, "x", clientSpec()).ok());
  auto update = [&](std::string_view subresource, json::object status) {
    json::object document = get("x")->root();
    document["status"] = std::move(status);
    auto done = runOn(loop, admin->update(kinds::kCertificateSigningRequests, "", "x", std::string(subresource),
                                          std::move(document)));
    return done.ok() ? std::string() : done.error().message();
  };
  auto with = [](std::initializer_list<std::string_view> types, std::string_view status = "True") {
    json::array conditions;
    for (auto type : types) conditions.push_back({{"type", type}, {"status", status}});
    return json::object{{"conditions", std::move(conditions)}};
  };
  EXPECT_THAT(update("status", with({"Approved"})),
              HasSubstr("status.conditions: Forbidden: updates may not add a condition of type \"Approved\""));
  EXPECT_THAT(update("approval", with({"Approved", "Denied"})),
              HasSubstr("Approved and Denied conditions are mutually exclusive"));
  EXPECT_THAT(update("approval", with({"Approved"}, "False")),
              HasSubstr("status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""));
  runOn(loop, controller->stop());
  startController(std::nullopt);  // nothing is signed meanwhile
  const auto before = loop.wallNow();
  EXPECT_EQ(update("approval", with({"Approved"})), "");
  const auto approved = *condition(get("x")->root(), "Approved");
  EXPECT_GE(*client::time(approved, {"lastUpdateTime"}), before - 1s);
  EXPECT_TRUE(client::time(approved, {"lastTransitionTime"}));
  EXPECT_THAT(update("approval", {}), HasSubstr("updates may not remove a condition of type \"Approved\""));
  auto bad = with({"Approved"});
  bad["certificate"] = toBase64("nonsense");
  EXPECT_THAT(update("status", bad),
              HasSubstr("status.certificate: Invalid value: \"<certificate data>\": must contain "
                        "at least one CERTIFICATE PEM block"));
  bad["certificate"] = toBase64(authority.certificatePem);
  EXPECT_EQ(update("status", bad), "");
  EXPECT_EQ(*condition(get("x")->root(), "Approved"), approved);  // a signer does not touch it
  EXPECT_THAT(update("status", with({"Approved"})), HasSubstr("updates may not modify existing certificate content"));
}

TEST_F(CertificatesTest, OldRequestsGo) {
  ASSERT_TRUE(create(kUser, "pending", clientSpec()).ok());
  ASSERT_TRUE(create(kUser, "denied", clientSpec()).ok());
  ASSERT_TRUE(create(kUser, "issued", clientSpec()).ok());
  auto brief = clientSpec();
  brief["expirationSeconds"] = 600;
  ASSERT_TRUE(create(kUser, "brief", brief).ok());
  ASSERT_TRUE(decide(apiserver::systemCaller(), "denied", "Denied").ok());
  ASSERT_TRUE(decide(apiserver::systemCaller(), "issued", "Approved").ok());
  ASSERT_TRUE(decide(apiserver::systemCaller(), "brief", "Approved").ok());
  EXPECT_LE(certificateOf("brief").notAfter, loop.wallNow() + 600s);
  loop.advance(11min);
  EXPECT_FALSE(get("brief"));  // its certificate has ended
  loop.advance(48min);
  EXPECT_TRUE(get("denied") && get("issued"));
  // Whoever takes over goes on.
  runOn(loop, controller->stop());
  startController(authority);
  loop.advance(2min);
  EXPECT_FALSE(get("denied") || get("issued"));
  loop.advance(22h);
  EXPECT_TRUE(get("pending"));
  loop.advance(2h);
  EXPECT_FALSE(get("pending"));
}

}  // namespace
}  // namespace dhow::controllers
