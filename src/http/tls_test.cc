#include "http/tls.h"

#include "base/files.h"
#include "base/pki.h"
#include "http/tls_files.h"
#include "test_util.h"

namespace dhow::http {
namespace {

using namespace testing;

WallTime now() {
  return std::chrono::system_clock::now();
}

struct Authority {
  Authority() : identity(*createAuthority("test authority", now(), std::chrono::hours(24))) {}
  KeyPair issue(std::string name, std::vector<std::string> organizations = {}, bool server = true) const {
    CertificateSpec spec;
    spec.commonName = std::move(name);
    spec.organizations = std::move(organizations);
    if (server) spec.dnsNames = {"localhost"};
    if (server) spec.ipAddresses = {"127.0.0.1"};
    spec.server = server;
    spec.client = !server;
    spec.notBefore = now();
    auto issued = issueCertificate(identity, spec);
    return {issued->certificatePem, issued->privateKeyPem};
  }
  Identity identity;
};

struct Secured {
  explicit Secured(bool http2 = true)
      : tls(*TlsServer::create(
            {.keyPair = authority.issue("server"), .clientCaPem = authority.identity.certificatePem, .http2 = http2})),
        fixture({.tls = tls}),
        url(fixture.listen("https")) {}
  std::shared_ptr<TlsClient> client(std::optional<KeyPair> pair = {}) {
    return *TlsClient::create({.caPem = authority.identity.certificatePem, .keyPair = std::move(pair)});
  }
  Result<Response> fetch(Client& client, std::string path) { return runOn(fixture.loop, client.fetch(url + path, {})); }
  Authority authority;
  std::shared_ptr<TlsServer> tls;
  Fixture fixture;
  std::string url;
};

TEST(Tls, NegotiatesHttp2AndTellsWhoTheClientIs) {
  Secured s;
  Client client(s.fixture.loop, {.tls = s.client(s.authority.issue("alice", {"admins", "staff"}, false))});
  auto response = s.fetch(client, "/a");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body, "hello /a over 2");
  auto& peer = s.fixture.counters->lastPeer;
  EXPECT_TRUE(peer.tls);
  EXPECT_EQ(peer.certificateCommonName, "alice");
  EXPECT_EQ(peer.certificateOrganizations, (std::vector<std::string>{"admins", "staff"}));
  EXPECT_TRUE(peer.address.starts_with("127.0.0.1:"));
}

TEST(Tls, AClientWithoutCertificateIsAnonymous) {
  Secured s;
  Client client(s.fixture.loop, {.tls = s.client(), .http2 = false});
  auto response = s.fetch(client, "/a");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body, "hello /a over 1.1");
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "");
}

TEST(Tls, AClientOfAnotherAuthorityIsAnonymous) {
  Secured s;
  Authority other;
  auto tls = s.client(other.issue("mallory", {"admins"}, false));
  // The second connection resumes the first one's session.
  for (int i = 0; i < 2; ++i) {
    Client client(s.fixture.loop, {.tls = tls, .http2 = false});
    ASSERT_TRUE(s.fetch(client, "/a").ok());
    EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "");
    EXPECT_TRUE(s.fixture.counters->lastPeer.certificateOrganizations.empty());
  }
}

TEST(Tls, ResumedSessionsKeepTheClientsName) {
  Secured s;
  auto tls = s.client(s.authority.issue("alice", {"admins"}, false));
  for (int i = 0; i < 3; ++i) {
    Client client(s.fixture.loop, {.tls = tls, .http2 = false});
    ASSERT_TRUE(s.fetch(client, "/a").ok());
    EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "alice");
    EXPECT_EQ(s.fixture.counters->lastPeer.certificateOrganizations.size(), 1u);
  }
}

TEST(Tls, VerifiesTheServersNameAndAuthority) {
  Secured s;
  Client byName(s.fixture.loop, {.tls = s.client()});
  auto port = portOf(s.url);
  EXPECT_TRUE(runOn(s.fixture.loop, byName.fetch(fmt::format("https://localhost:{}/a", port), {})).ok());
  auto wrong = runOn(s.fixture.loop, byName.fetch(fmt::format("https://127.0.0.2:{}/a", port), {}));
  EXPECT_FALSE(wrong.ok());
  Authority other;
  Client stranger(s.fixture.loop, {.tls = *TlsClient::create({.caPem = other.identity.certificatePem})});
  auto untrusted = s.fetch(stranger, "/a");
  ASSERT_FALSE(untrusted.ok());
  EXPECT_EQ(untrusted.error().code(), Code::kUnauthenticated) << untrusted.error().message();
  Client trusting(s.fixture.loop,
                  {.tls = *TlsClient::create({.caPem = other.identity.certificatePem, .insecureSkipVerify = true})});
  EXPECT_TRUE(s.fetch(trusting, "/a").ok());
}

TEST(Tls, NewHandshakesTakeTheReplacedCertificate) {
  Secured s;
  Client before(s.fixture.loop, {.tls = s.client()});
  ASSERT_TRUE(s.fetch(before, "/a").ok());
  Authority next;
  EXPECT_FALSE(s.tls->replace({"nonsense", "nonsense"}).ok());
  ASSERT_TRUE(s.tls->replace(next.issue("server")).ok());
  EXPECT_TRUE(s.fetch(before, "/a").ok()) << "a living connection goes on";
  Client stale(s.fixture.loop, {.tls = s.client()});
  EXPECT_FALSE(s.fetch(stale, "/a").ok());
  Client fresh(s.fixture.loop, {.tls = *TlsClient::create({.caPem = next.identity.certificatePem})});
  EXPECT_TRUE(s.fetch(fresh, "/a").ok());
}

TEST(Tls, AClientsNewHandshakesTakeItsReplacedCertificate) {
  Secured s;
  auto tls = s.client(s.authority.issue("before", {}, false));
  Client living(s.fixture.loop, {.tls = tls});
  ASSERT_TRUE(s.fetch(living, "/a").ok());
  auto after = s.authority.issue("after", {}, false);
  EXPECT_FALSE(tls->replace({after.certificatePem, s.authority.issue("other").privateKeyPem}).ok());
  ASSERT_TRUE(tls->replace(after).ok());
  ASSERT_TRUE(s.fetch(living, "/a").ok());
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "before") << "a living connection goes on";
  // The old identity's session is not resumed, the new one's is.
  for (int i = 0; i < 2; ++i) {
    Client fresh(s.fixture.loop, {.tls = tls, .http2 = false});
    ASSERT_TRUE(s.fetch(fresh, "/a").ok());
    EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "after");
  }
}

TEST(Tls, AuthoritiesAreReplacedOnBothSides) {
  Secured s;
  Authority next;
  auto tls = s.client(s.authority.issue("old", {}, false));
  auto nameOf = [&](std::shared_ptr<TlsClient> tls) {
    Client client(s.fixture.loop, {.tls = std::move(tls), .http2 = false});
    return s.fetch(client, "/a").ok() ? s.fixture.counters->lastPeer.certificateCommonName : "refused";
  };
  EXPECT_EQ(nameOf(tls), "old");
  EXPECT_FALSE(s.tls->replaceClientCa("nonsense").ok());
  ASSERT_TRUE(s.tls->replaceClientCa(next.identity.certificatePem).ok());
  EXPECT_EQ(nameOf(tls), "") << "the server no longer knows who this is";
  ASSERT_TRUE(tls->replace(next.issue("new", {}, false)).ok());
  EXPECT_EQ(nameOf(tls), "new");
  ASSERT_TRUE(s.tls->replace(next.issue("server")).ok());
  EXPECT_EQ(nameOf(tls), "refused") << "the client does not know the server's new authority";
  ASSERT_TRUE(tls->replaceCa(s.authority.identity.certificatePem + next.identity.certificatePem).ok());
  EXPECT_EQ(nameOf(tls), "new");
}

TEST(Tls, ShortLivedIdentitiesGoOnOnLivingConnectionsAndEndForNewOnes) {
  Secured s;
  auto brief = [&](std::string name, bool server) {
    CertificateSpec spec;
    spec.commonName = std::move(name);
    spec.ipAddresses = {"127.0.0.1"};
    spec.server = server;
    spec.client = !server;
    spec.notBefore = now();
    spec.validity = std::chrono::seconds(2);
    auto issued = issueCertificate(s.authority.identity, spec);
    return KeyPair{issued->certificatePem, issued->privateKeyPem};
  };
  ASSERT_TRUE(s.tls->replace(brief("server", true)).ok());
  auto tls = s.client(brief("alice", false));
  Client living(s.fixture.loop, {.tls = tls});
  ASSERT_TRUE(s.fetch(living, "/a").ok());
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "alice");
  runOn(s.fixture.loop, s.fixture.loop.sleep(std::chrono::seconds(3)));
  ASSERT_TRUE(s.fetch(living, "/a").ok());
  Client late(s.fixture.loop, {.tls = s.client()});
  EXPECT_EQ(s.fetch(late, "/a").error().code(), Code::kUnauthenticated);
  ASSERT_TRUE(s.tls->replace(s.authority.issue("server")).ok());
  // The client's certificate has ended, too: it has no name until it takes a new one.
  Client expired(s.fixture.loop, {.tls = tls});
  ASSERT_TRUE(s.fetch(expired, "/a").ok());
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "");
  ASSERT_TRUE(tls->replace(s.authority.issue("alice", {}, false)).ok());
  Client renewed(s.fixture.loop, {.tls = tls});
  ASSERT_TRUE(s.fetch(renewed, "/a").ok());
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "alice");
}

TEST(Tls, CarriesLargeBodiesBothWays) {
  Secured s;
  std::string large(10 << 20, 'b');
  for (bool http2 : {true, false}) {
    Client client(s.fixture.loop, {.tls = s.client(), .http2 = http2});
    Request request;
    request.method = "PUT";
    request.body = bodyOf(large);
    auto response = runOn(s.fixture.loop, client.fetch(s.url + "/stream", std::move(request)));
    ASSERT_TRUE(response.ok()) << response.error().message();
    EXPECT_TRUE(response->body == large);
  }
}

TEST(Tls, GarbageInsteadOfAHandshakeEndsTheConnection) {
  Secured s;
  auto port = portOf(s.url);
  for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
                                   std::string("\x16\x03\x01\xff\xff", 5), std::string(100, '\0')}) {
    runOn(s.fixture.loop, talk(s.fixture.loop, port, bytes));
  }
  EXPECT_EQ(s.fixture.counters->handled, 0);
}

Task<std::string> upgradeEcho(Client& client, std::string url) {
  Request request;
  request.headers.add("Upgrade", "tcp");
  auto upgraded = co_await client.upgrade(std::move(url), std::move(request));
  if (!upgraded.ok()) co_return upgraded.error().message();
  auto written = co_await upgraded->stream->write("ping");
  if (!written.ok()) co_return "not written";
  co_await upgraded->stream->shutdownWrite();
  auto text = co_await readToEnd(*upgraded->stream);
  co_return text;
}

TEST(Tls, AnUpgradedStreamHalfCloses) {
  Secured s;
  Client client(s.fixture.loop, {.tls = s.client()});
  EXPECT_EQ(runOn(s.fixture.loop, upgradeEcho(client, s.url + "/hijack")), "ping<end>");
}

TEST(Curl, SpeaksTlsWithClientCertificates) {
  if (!have("curl")) GTEST_SKIP() << "curl is not installed";
  Secured s;
  BlockingPool pool(1);
  auto put = [&](std::string name, const std::string& text) {
    auto path = s.fixture.dir / name;
    FILE* file = ::fopen(path.c_str(), "w");
    ::fwrite(text.data(), 1, text.size(), file);
    ::fclose(file);
    return path;
  };
  auto alice = s.authority.issue("alice", {"admins"}, false);
  auto flags = fmt::format("--cacert {} --cert {} --key {}", put("ca.pem", s.authority.identity.certificatePem),
                           put("a.pem", alice.certificatePem), put("a.key", alice.privateKeyPem));
  auto run = [&](std::string command) {
    return std::string(trim(runOn(s.fixture.loop, runBeside(s.fixture.loop, pool, command)).out));
  };
  EXPECT_EQ(run(fmt::format("curl -sS --http2 {} {}/a", flags, s.url)), "hello /a over 2");
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "alice");
  EXPECT_EQ(run(fmt::format("curl -sS --http1.1 {} {}/a", flags, s.url)), "hello /a over 1.1");
  EXPECT_EQ(run(fmt::format("curl -sS --http2 {} '{}/large?size=5000000' | wc -c", flags, s.url)), "5000000");
}

TEST(TlsFiles, GiveAClientThatShowsTheirCertificate) {
  Secured s;
  const std::string authority = s.fixture.dir / "ca.pem", both = s.fixture.dir / "alice.pem";
  auto alice = s.authority.issue("alice", {}, false);
  ASSERT_TRUE(writeFile(authority, s.authority.identity.certificatePem).ok());
  ASSERT_TRUE(writeFile(both, alice.certificatePem + alice.privateKeyPem).ok());
  auto tls = loadTlsClient({authority, both, both}, false);
  ASSERT_TRUE(tls.ok()) << tls.error().message();
  Client client(s.fixture.loop, {.tls = *tls});
  auto response = s.fetch(client, "/a");
  ASSERT_TRUE(response.ok()) << response.error().message();
  EXPECT_EQ(response->body, "hello /a over 1.1");
  EXPECT_EQ(s.fixture.counters->lastPeer.certificateCommonName, "alice");
  EXPECT_EQ(loadTlsClient({authority, both, s.fixture.dir / "none.key"}).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace dhow::http
