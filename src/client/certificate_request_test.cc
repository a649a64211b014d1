#include "client/certificate_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/strings.h"
#include "client/fake_client.h"
#include "client/fields.h"

namespace dhow::client {
namespace {

using namespace std::chrono_literals;
using object::resources::kCertificateSigningRequests;
using testing::HasSubstr;

struct CertificateRequestTest : testing::Test {
  void ask(Duration patience = 10min) { spawn(loop, run(this, patience)); }
  static Task<> run(CertificateRequestTest* self, Duration patience) {
    auto request = nodeCertificateRequest("a");
    request.expiration = 2h;
    self->answer = co_await requestCertificate(self->loop, self->api, std::move(request), patience);
  }
  // Signs what is asked for, as the cluster does.
  void sign() {
    auto authority = createAuthority("ca", loop.wallNow(), 24h).value();
    auto request = api.all(kCertificateSigningRequests).at(0);
    auto pem = fromBase64(text(request->root(), {"spec", "request"})).value();
    auto certificate =
        signCertificateRequest(authority, pem, strings(array(request->root(), {"spec", "usages"})), loop.wallNow(), 1h);
    api.change(kCertificateSigningRequests, "", request->name(), [&](json::object& document) {
      objectAt(document, "status")["certificate"] = toBase64(certificate.value());
    });
  }

  SimLoop loop;
  FakeClient api{loop};
  std::optional<Result<Identity>> answer;
};

TEST_F(CertificateRequestTest, GivesTheKeyAndItsCertificate) {
  ask();
  loop.advance(1s);
  ASSERT_EQ(api.all(kCertificateSigningRequests).size(), 1u);
  const auto& spec = object(api.all(kCertificateSigningRequests)[0]->root(), {"spec"});
  EXPECT_EQ(text(spec, "signerName"), "kubernetes.io/kube-apiserver-client-kubelet");
  EXPECT_EQ(number(spec, {"expirationSeconds"}), 7200);
  EXPECT_FALSE(answer);
  sign();
  loop.advance(1s);
  ASSERT_TRUE(answer && answer->ok());
  EXPECT_EQ(inspectCertificate((**answer).certificatePem)->commonName, "system:node:a");
}

TEST_F(CertificateRequestTest, OutlivesServersThatAreAwayAndWatchesThatEnd) {
  api.inject = [](const FakeClient::Action&) { return std::optional(Error(Code::kUnavailable, "nobody answers")); };
  ask();
  loop.advance(1min);
  api.inject = nullptr;
  loop.advance(10s);
  EXPECT_EQ(api.all(kCertificateSigningRequests).size(), 1u);
  api.breakWatches();
  loop.advance(10s);
  api.expireWatches();
  api.injectRead = [](std::string_view, const Resource&) { return std::optional(Error(Code::kUnavailable, "away")); };
  loop.advance(10s);
  sign();
  loop.advance(10s);
  api.injectRead = nullptr;
  loop.advance(10s);
  ASSERT_TRUE(answer);
  EXPECT_TRUE(answer->ok()) << answer->error().message();
  EXPECT_EQ(api.all(kCertificateSigningRequests).size(), 1u);
}

TEST_F(CertificateRequestTest, GivesUpInTimeAndTellsWhatIsMissing) {
  ask(30s);
  loop.advance(31s);
  ASSERT_TRUE(answer && !answer->ok());
  EXPECT_TRUE(answer->error().is(Code::kDeadlineExceeded));
  EXPECT_THAT(answer->error().message(), HasSubstr("is still not approved"));
  EXPECT_EQ(api.openWatches(), 0u);
  answer.reset();
  api.inject = [](const FakeClient::Action&) { return std::optional(Error(Code::kPermissionDenied, "no")); };
  ask(30s);
  loop.advance(1s);
  ASSERT_TRUE(answer && !answer->ok());
  EXPECT_TRUE(answer->error().is(Code::kPermissionDenied));
}

}  // namespace
}  // namespace dhow::client
