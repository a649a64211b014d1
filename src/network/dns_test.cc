#include "network/dns.h"

#include <future>
#include <random>

#include "base/process.h"
#include "dns_answer.h"
#include "testing.h"

namespace dhow {
namespace {

IpAddress ip(const std::string& text) {
  return IpAddress::parse(text).value();
}
IpPrefix prefix(const char* text) {
  return IpPrefix::parse(text).value();
}

std::string wireQuery(const std::string& name, uint16_t type, bool edns = false) {
  dns::Query like;
  like.edns = edns;
  return dns::writeQuery(4711, dns::makeQuestion(name, type), like);
}

// "10.96.0.10", "srv 53 dns.kube-system...", or the reply's code when it is none of success.
std::vector<std::string> texts(const std::optional<dns::Upstream>& reply) {
  if (!reply) return {"malformed"};
  std::vector<std::string> out;
  if (reply->code != 0) out.push_back(fmt::format("code {}", reply->code));
  for (auto& r : reply->answers) {
    if (!r.address.empty())
      out.push_back(r.address.str());
    else if (r.type == kDnsTxt)
      out.push_back(r.text);
    else if (r.type == kDnsSrv)
      out.push_back(fmt::format("{} {}", r.port, r.target));
    else
      out.push_back(r.target);
  }
  std::sort(out.begin(), out.end());
  return out;
}
using Texts = std::vector<std::string>;

ClusterDns::Options options() {
  return {.domain = "cluster.local", .reverseRanges = {prefix("10.96.0.0/16"), prefix("10.244.0.0/16")}};
}
void fill(ClusterDns& cluster) {
  cluster.set({.ns = "kube-system",
               .name = "kube-dns",
               .clusterIps = {ip("10.96.0.10")},
               .ports = {{"dns", Protocol::kUdp, 53}, {"dns-tcp", Protocol::kTcp, 53}, {"", Protocol::kTcp, 9}}});
  cluster.set({.ns = "default",
               .name = "db",
               .ports = {{"sql", Protocol::kTcp, 5432}},
               .endpoints = {{ip("10.244.1.5"), "db-0", {{"sql", Protocol::kTcp, 5432}}},
                             {ip("10.244.2.6"), "", {{"sql", Protocol::kTcp, 5433}}}}});
  cluster.set({.ns = "default", .name = "ext", .externalName = "Example.COM."});
  cluster.set({.ns = "default", .name = "alias", .externalName = "kube-dns.kube-system.svc.cluster.local"});
  cluster.set({.ns = "default", .name = "empty"});
  cluster.setNamespaces({"default", "kube-system"});
  cluster.setClientNamespace(ip("10.244.1.9"), "default");
}

class ClusterDnsTest : public testing::Test {
 protected:
  ClusterDnsTest() : cluster_(options()) { fill(cluster_); }
  Texts ask(const std::string& name, uint16_t type = kDnsA, const std::string& client = "10.244.1.1") {
    auto outcome = dns::answerFrom(cluster_, wireQuery(name, type), ip(client), false);
    if (outcome.kind == dns::Outcome::Kind::kForward) return {"forward " + outcome.name};
    return texts(dns::readUpstream(outcome.reply));
  }
  ClusterDns cluster_;
};

TEST_F(ClusterDnsTest, AnswersAsTheSpecificationSays) {
  EXPECT_EQ(Texts{"1.1.0"}, ask("dns-version.cluster.local", kDnsTxt));
  EXPECT_EQ(Texts{"10.96.0.10"}, ask("kube-dns.kube-system.svc.cluster.local"));
  EXPECT_EQ(Texts{"10.96.0.10"}, ask("KUBE-dns.Kube-System.SVC.cluster.local")) << "any case";
  EXPECT_EQ(Texts{}, ask("kube-dns.kube-system.svc.cluster.local", kDnsAaaa)) << "the name exists, the type does not";
  EXPECT_EQ(Texts{"53 kube-dns.kube-system.svc.cluster.local"},
            ask("_dns._udp.kube-dns.kube-system.svc.cluster.local", kDnsSrv));
  EXPECT_EQ(Texts{"code 3"}, ask("_dns._tcp.kube-dns.kube-system.svc.cluster.local", kDnsSrv));
  EXPECT_EQ(Texts{"kube-dns.kube-system.svc.cluster.local"}, ask("10.0.96.10.in-addr.arpa", kDnsPtr));
  EXPECT_EQ(Texts{"code 3"}, ask("no.default.svc.cluster.local"));
  EXPECT_EQ(Texts{}, ask("kube-system.svc.cluster.local")) << "an empty non-terminal";
  EXPECT_EQ(Texts{"code 3"}, ask("kube-dns.default.svc.cluster.local"));
}

TEST_F(ClusterDnsTest, HeadlessServicesNameTheirEndpoints) {
  EXPECT_EQ((Texts{"10.244.1.5", "10.244.2.6"}), ask("db.default.svc.cluster.local"));
  EXPECT_EQ(Texts{"10.244.1.5"}, ask("db-0.db.default.svc.cluster.local"));
  EXPECT_EQ(Texts{"10.244.2.6"}, ask("10-244-2-6.db.default.svc.cluster.local"));
  EXPECT_EQ((Texts{"5432 db-0.db.default.svc.cluster.local", "5433 10-244-2-6.db.default.svc.cluster.local"}),
            ask("_sql._tcp.db.default.svc.cluster.local", kDnsSrv));
  EXPECT_EQ(Texts{"db-0.db.default.svc.cluster.local"}, ask("5.1.244.10.in-addr.arpa", kDnsPtr));
  EXPECT_EQ(Texts{"code 3"}, ask("6.2.244.10.in-addr.arpa", kDnsPtr)) << "no host name, no PTR";
  EXPECT_EQ(Texts{"code 3"}, ask("empty.default.svc.cluster.local"));
  cluster_.remove("default", "db");
  EXPECT_EQ(Texts{"code 3"}, ask("db-0.db.default.svc.cluster.local"));
  EXPECT_EQ(Texts{"code 3"}, ask("_tcp.db.default.svc.cluster.local"));
}

TEST_F(ClusterDnsTest, PodsExternalNamesAndStrangers) {
  EXPECT_EQ(Texts{"10.244.3.4"}, ask("10-244-3-4.default.pod.cluster.local"));
  EXPECT_EQ(Texts{"code 3"}, ask("10-244-3-4.nowhere.pod.cluster.local"));
  EXPECT_EQ(Texts{"code 3"}, ask("10-244-3-400.default.pod.cluster.local"));
  EXPECT_EQ(Texts{"forward example.com"}, ask("ext.default.svc.cluster.local"));
  EXPECT_EQ((Texts{"10.96.0.10", "kube-dns.kube-system.svc.cluster.local"}), ask("alias.default.svc.cluster.local"));
  EXPECT_EQ(Texts{"forward example.org"}, ask("example.org"));
  EXPECT_EQ(Texts{"forward 8.8.8.8.in-addr.arpa"}, ask("8.8.8.8.in-addr.arpa", kDnsPtr));
  EXPECT_EQ(Texts{"forward notcluster.local"}, ask("notcluster.local"));
}

TEST_F(ClusterDnsTest, TheSearchPathIsWalkedForTheClient) {
  const std::string pod = "10.244.1.9";
  EXPECT_EQ(Texts{"forward example.org"}, ask("example.org.default.svc.cluster.local", kDnsA, pod));
  EXPECT_EQ((Texts{"10.96.0.10", "kube-dns.kube-system.svc.cluster.local"}),
            ask("kube-dns.kube-system.default.svc.cluster.local", kDnsA, pod));
  EXPECT_EQ(Texts{"code 3"}, ask("single.default.svc.cluster.local", kDnsA, pod));
  EXPECT_EQ(Texts{"code 3"}, ask("example.org.default.svc.cluster.local", kDnsA, "10.244.1.8")) << "an unknown client";
}

TEST_F(ClusterDnsTest, NegativeAnswersCarryTheSoaAndLongOnesAreCut) {
  auto outcome = dns::answerFrom(cluster_, wireQuery("no.default.svc.cluster.local", kDnsA), ip("10.0.0.1"), false);
  EXPECT_EQ(5u, dns::readUpstream(outcome.reply)->leastTtl);
  EXPECT_EQ(1, outcome.reply[9]) << "one authority record";
  ClusterDns::Service big{.ns = "default", .name = "big"};
  for (uint64_t i = 0; i < 100; i++) big.endpoints.push_back({ip("10.244.9.0").plus(i), "", {}});
  cluster_.set(big);
  auto query = wireQuery("big.default.svc.cluster.local", kDnsA, true);
  auto cut = dns::answerFrom(cluster_, query, ip("10.0.0.1"), false).reply;
  EXPECT_LE(cut.size(), 1232u);
  EXPECT_TRUE(dns::readUpstream(cut)->truncated);
  auto plain =
      dns::answerFrom(cluster_, wireQuery("big.default.svc.cluster.local", kDnsA), ip("10.0.0.1"), false).reply;
  EXPECT_LE(plain.size(), 512u);
  auto whole = dns::readUpstream(dns::answerFrom(cluster_, query, ip("10.0.0.1"), true).reply);
  EXPECT_FALSE(whole->truncated);
  EXPECT_EQ(100u, whole->answers.size());
}

TEST_F(ClusterDnsTest, BothFamiliesStandSideBySide) {
  ClusterDns both({.domain = "cluster.local", .reverseRanges = {prefix("fd00:10::/112")}});
  both.set({.ns = "default",
            .name = "web",
            .clusterIps = {ip("10.96.3.4"), ip("fd00:10::4")},
            .ports = {{"http", Protocol::kTcp, 80}}});
  both.set(
      {.ns = "default",
       .name = "db",
       .endpoints = {{ip("fd00:20::5"), "db-0", {}}, {ip("fd00:20::5"), "db-0", {}}, {ip("10.244.1.5"), "db-0", {}}}});
  auto ask = [&](const char* name, uint16_t type) {
    auto outcome = dns::answerFrom(both, wireQuery(name, type), ip("10.244.1.1"), false);
    if (outcome.kind == dns::Outcome::Kind::kForward) return Texts{"forward"};
    return texts(dns::readUpstream(outcome.reply));
  };
  EXPECT_EQ(Texts{"10.96.3.4"}, ask("web.default.svc.cluster.local", kDnsA));
  EXPECT_EQ(Texts{"fd00:10::4"}, ask("web.default.svc.cluster.local", kDnsAaaa));
  const std::string zeros = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.";
  const std::string reverse = zeros.substr(0, 2 * 23) + "0.1.0.0.0.0.d.f.ip6.arpa";
  EXPECT_EQ(Texts{"web.default.svc.cluster.local"}, ask(("4." + reverse).c_str(), kDnsPtr));
  EXPECT_EQ(Texts{"code 3"}, ask(("5." + reverse).c_str(), kDnsPtr)) << "in the range, and nobody's";
  EXPECT_EQ(Texts{"forward"}, ask("1.ip6.arpa", kDnsPtr));
  EXPECT_EQ(Texts{"fd00:20::5"}, ask("db-0.db.default.svc.cluster.local", kDnsAaaa)) << "told once";
  EXPECT_EQ(Texts{"10.244.1.5"}, ask("db-0.db.default.svc.cluster.local", kDnsA));
  EXPECT_EQ(Texts{"fd00:20::5"}, ask("fd00-20--5.default.pod.cluster.local", kDnsAaaa));
}

TEST_F(ClusterDnsTest, AnswersNamesAsTheyWereSpelled) {
  auto reply = dns::answerFrom(cluster_, wireQuery("DB.default.SVC.cluster.local", kDnsA), ip("10.0.0.1"), false).reply;
  EXPECT_EQ(12u + 34u + 2u * 16u, reply.size()) << "the answers' names are pointers to the question's";
  EXPECT_EQ((Texts{"10.244.1.5", "10.244.2.6"}), texts(dns::readUpstream(reply)));
}

TEST_F(ClusterDnsTest, RefusesVersionsOfEdnsThatItDoesNotKnow) {
  auto query = wireQuery("db.default.svc.cluster.local", kDnsA, true);
  query[query.size() - 5] = 1;
  auto reply = dns::answerFrom(cluster_, query, ip("10.0.0.1"), false).reply;
  EXPECT_EQ(0, reply[3] & 0xf);
  EXPECT_EQ(1, reply[reply.size() - 6]) << "16: BADVERS, its upper bits";
}

TEST(DnsUpstreamTest, IsReadAsPeopleWriteIt) {
  EXPECT_EQ("192.0.2.1:53", DnsUpstream::parse("192.0.2.1")->str());
  EXPECT_EQ("192.0.2.1:5353", DnsUpstream::parse("192.0.2.1:5353")->str());
  EXPECT_EQ("[2001:db8::1]:53", DnsUpstream::parse("2001:db8::1")->str());
  EXPECT_EQ("[2001:db8::1]:5353", DnsUpstream::parse("[2001:db8::1]:5353")->str());
  for (const char* bad : {"", "dns.example", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:70000", "[192.0.2.1]:53", ":53"})
    EXPECT_FALSE(DnsUpstream::parse(bad)) << bad;
}

TEST_F(ClusterDnsTest, GarbageIsRefusedOrDropped) {
  std::mt19937 random(7);
  auto seed = wireQuery("kube-dns.kube-system.svc.cluster.local", kDnsSrv, true);
  auto reply = dns::answerFrom(cluster_, wireQuery("_dns._udp.kube-dns.kube-system.svc.cluster.local", kDnsSrv),
                               ip("10.0.0.1"), false)
                   .reply;
  for (int i = 0; i < 50000; i++) {
    std::string message = i % 2 ? seed : reply;
    for (unsigned k = random() % 8; k > 0; k--) message[random() % message.size()] = static_cast<char>(random());
    message.resize(random() % (message.size() + 1));
    dns::answerFrom(cluster_, message, ip("10.0.0.1"), i % 3 == 0);
    dns::readUpstream(message);
  }
  EXPECT_EQ(dns::Outcome::Kind::kDrop, dns::answerFrom(cluster_, "short", ip("10.0.0.1"), false).kind);
  EXPECT_EQ(dns::Outcome::Kind::kDrop, dns::answerFrom(cluster_, reply, ip("10.0.0.1"), false).kind)
      << "no loop of answers";
  std::string loop = seed.substr(0, 12) + std::string("\xc0\x0c\0\1\0\1", 6);
  loop[11] = 0;
  EXPECT_EQ(Texts{"malformed"}, texts(dns::readUpstream(dns::answerFrom(cluster_, loop, ip("10.0.0.1"), false).reply)));
}

TEST(ContainerDnsTest, NamesAreSeenOnSharedNetworksOnly) {
  ContainerDns containers;
  containers.set("front", "c1", ip("172.18.0.2"), {"web", "c1c1c1"});
  containers.set("front", "c2", ip("172.18.0.3"), {"api"});
  containers.set("back", "c2", ip("172.19.0.2"), {"api"});
  containers.set("back", "c3", ip("172.19.0.3"), {"Db"});
  auto ask = [&](const char* name, const char* client, uint16_t type = kDnsA) {
    auto outcome = dns::answerFrom(containers, wireQuery(name, type), ip(client), false);
    if (outcome.kind == dns::Outcome::Kind::kForward) return Texts{"forward"};
    return texts(dns::readUpstream(outcome.reply));
  };
  EXPECT_EQ(Texts{"172.18.0.3"}, ask("api", "172.18.0.2"));
  EXPECT_EQ(Texts{"172.18.0.3"}, ask("api.front", "172.18.0.2"));
  EXPECT_EQ(Texts{"forward"}, ask("db", "172.18.0.2"));
  EXPECT_EQ(Texts{"172.19.0.3"}, ask("db", "172.18.0.3")) << "c2 is on both";
  EXPECT_EQ(Texts{"web.front"}, ask("2.0.18.172.in-addr.arpa", "172.18.0.3", kDnsPtr));
  EXPECT_EQ(Texts{}, ask("web", "172.18.0.3", kDnsAaaa));
  containers.remove("front", "c2");
  EXPECT_EQ(Texts{"forward"}, ask("api", "172.18.0.2"));
}

TEST(ResolvConfTest, GivesTheNameservers) {
  auto servers = parseNameservers(
      "# c\nnameserver 1.1.1.1\nsearch x\nnameserver\tfd00::1 # x\nnameserver bad\nnameserver 2.2.2.2\nnameserver "
      "3.3.3.3\n");
  ASSERT_EQ(3u, servers.size());
  EXPECT_EQ("fd00::1", servers[1].str());
}

// The machine's clock, which a test may put forward.
class AheadLoop final : public Loop {
 public:
  void run() { real_.run(); }
  void stop() { real_.stop(); }
  void putForward(Duration by) { ahead_ += by; }
  boost::asio::any_io_executor executor() override { return real_.executor(); }
  TimePoint now() const override { return real_.now() + ahead_; }
  WallTime wallNow() const override { return real_.wallNow() + ahead_; }
  Timer after(Duration delay, std::function<void()> run) override { return real_.after(delay, std::move(run)); }
  uint64_t random() override { return real_.random(); }

 private:
  RealLoop real_;
  Duration ahead_{0};
};

// A loop on a thread of its own.
struct LoopThread {
  AheadLoop loop;
  Timer keep = loop.after(std::chrono::hours(1), [] {});
  std::thread thread{[this] { loop.run(); }};
  ~LoopThread() {
    loop.stop();
    thread.join();
  }
  template <class F>
  void call(F work) {
    std::promise<void> done;
    loop.post([&] {
      work();
      done.set_value();
    });
    done.get_future().wait();
  }
  void stop(DnsServer& server) {
    std::promise<void> done;
    loop.post([&] { spawn(loop, finish(&server, &done)); });
    done.get_future().wait();
  }
  static Task<> finish(DnsServer* server, std::promise<void>* done) {
    co_await server->stop();
    done->set_value();
  }
};

// Everything but the names of the cluster.
struct World final : DnsSource {
  Answer answer(std::string_view name, uint16_t type, const IpAddress&) const override {
    asked++;
    Answer out;
    out.kind = Answer::Kind::kNoName;
    out.zone = "org";
    if (name != "example.org" && name != "big.org" && name != "example.com" && name != "short.org") return out;
    out.kind = Answer::Kind::kRecords;
    if (type != kDnsA) return out;
    for (uint64_t i = 0; i < (name == "big.org" ? 200u : 1u); i++) {
      out.records.push_back({.name = std::string(name),
                             .type = kDnsA,
                             .ttl = name == "short.org" ? 1u : 60u,
                             .address = ip("203.0.113.1").plus(i)});
    }
    return out;
  }
  mutable std::atomic<int> asked = 0;
};

std::string exchange(uint16_t port, const std::string& query, bool tcp) {
  UniqueFd fd(socket(AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, 0));
  timeval limit{3, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  auto address = socketAddress("127.0.0.1", port);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return "";
  std::string framed =
      tcp ? std::string{static_cast<char>(query.size() >> 8), static_cast<char>(query.size())} + query : query;
  send(fd.get(), framed.data(), framed.size(), MSG_NOSIGNAL);
  std::string buffer(65536, '\0');
  size_t have = 0;
  for (;;) {
    ssize_t n = recv(fd.get(), buffer.data() + have, buffer.size() - have, 0);
    if (n <= 0) return "";
    have += static_cast<size_t>(n);
    if (!tcp) return buffer.substr(0, have);
    size_t size = static_cast<uint8_t>(buffer[0]) << 8 | static_cast<uint8_t>(buffer[1]);
    if (have >= 2 && have >= size + 2) return buffer.substr(2, size);
  }
}

class DnsServerTest : public testing::Test {
 protected:
  DnsServerTest() : cluster_(options()) {
    fill(cluster_);
    cluster_.setClientNamespace(ip("127.0.0.1"), "default");
    thread_.call([&] {
      upstream_ =
          std::make_unique<DnsServer>(thread_.loop, world_, DnsServer::Options{.listen = {{ip("127.0.0.1"), 0}}});
      EXPECT_OK(upstream_->start());
      start({ip("127.0.0.1")});
    });
  }
  void start(const std::vector<IpAddress>& upstreams) {
    DnsForwarding forwarding;
    for (auto& address : upstreams) forwarding.upstreams.push_back({address, upstream_->port()});
    server_ = std::make_unique<DnsServer>(thread_.loop, cluster_,
                                          DnsServer::Options{.listen = {{ip("127.0.0.1"), 0}},
                                                             .forwarding = std::move(forwarding),
                                                             .upstreamTimeout = std::chrono::milliseconds(200)});
    EXPECT_OK(server_->start());
  }
  ~DnsServerTest() override {
    thread_.stop(*server_);
    thread_.stop(*upstream_);
  }
  Texts ask(const std::string& name, bool tcp = false, bool edns = false) {
    return texts(dns::readUpstream(exchange(server_->port(), wireQuery(name, kDnsA, edns), tcp)));
  }
  ClusterDns cluster_;
  World world_;
  LoopThread thread_;
  std::unique_ptr<DnsServer> upstream_, server_;
};

TEST_F(DnsServerTest, AnswersForwardsAndRemembers) {
  for (bool tcp : {false, true}) {
    EXPECT_EQ(Texts{"10.96.0.10"}, ask("kube-dns.kube-system.svc.cluster.local", tcp));
    EXPECT_EQ(Texts{"203.0.113.1"}, ask("example.org", tcp));
    EXPECT_EQ(Texts{"203.0.113.1"}, ask("EXAMPLE.org", tcp));
    EXPECT_EQ(Texts{"code 3"}, ask("no.org", tcp));
  }
  EXPECT_EQ(2, world_.asked) << "the rest came from the cache";
  EXPECT_EQ((Texts{"203.0.113.1", "example.com"}), ask("ext.default.svc.cluster.local"));
  EXPECT_EQ((Texts{"203.0.113.1", "example.org"}), ask("example.org.default.svc.cluster.local"));
  EXPECT_EQ((Texts{"code 3", "no.org"}), ask("no.org.default.svc.cluster.local"));
  auto raw = exchange(server_->port(), wireQuery("ExAmple.org", kDnsA), false);
  EXPECT_NE(raw.npos, raw.find("ExAmple")) << "the question comes back as it was asked";
}

TEST_F(DnsServerTest, AsksTheServersOfTheLongestStubDomain) {
  thread_.call([&] {
    const DnsUpstream here{ip("127.0.0.1"), upstream_->port()}, nowhere{ip("127.0.0.2"), upstream_->port()};
    server_->setForwarding({.upstreams = {nowhere}, .stubDomains = {{"org", {here}}, {"big.org", {nowhere}}}});
  });
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("example.org"));
  EXPECT_EQ(Texts{"code 2"}, ask("example.com"));
  EXPECT_EQ(Texts{"code 2"}, ask("big.org"));
  thread_.call(
      [&] { server_->setForwarding({.upstreams = {{ip("127.0.0.1"), upstream_->port()}}, .stubDomains = {}}); });
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("example.com"));
}

TEST_F(DnsServerTest, RemembersWhichUpstreamAnswersAndGivesOldAnswersWhenNoneDoes) {
  thread_.stop(*server_);
  thread_.call([&] { start({ip("127.0.0.2"), ip("127.0.0.1")}); });
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("short.org"));
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("example.org"));
  thread_.stop(*upstream_);
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("example.org")) << "from the cache";
  thread_.call([&] { thread_.loop.putForward(std::chrono::milliseconds(1100)); });  // the time to live of short.org
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("short.org")) << "stale";
  EXPECT_EQ(Texts{"code 2"}, ask("no.org"));
  const int asked = world_.asked;
  EXPECT_EQ(Texts{"code 2"}, ask("no.org"));
  EXPECT_EQ(asked, world_.asked);
  thread_.call([&] {
    EXPECT_GE(server_->stats().stale, 1u);
    EXPECT_EQ(4u, server_->stats().forwarded) << "what nobody answered is not asked again at once";
  });
}

TEST_F(DnsServerTest, LongAnswersGoOverTcp) {
  auto cut = dns::readUpstream(exchange(server_->port(), wireQuery("big.org", kDnsA), false));
  ASSERT_TRUE(cut.has_value());
  EXPECT_TRUE(cut->truncated);
  EXPECT_EQ(200u, ask("big.org", true).size());
}

// A client that hears nothing asks again after five seconds.
TEST_F(DnsServerTest, ABurstOfQuestionsWaitsForALoopThatIsBusy) {
  SKIP_UNLESS_ROOT();
  constexpr int kQuestions = 2000;
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM, 0));
  const int room = 8 << 20;
  ASSERT_EQ(0, setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room));
  const timeval limit{3, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  auto address = socketAddress("127.0.0.1", server_->port());
  ASSERT_EQ(0, connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  const std::string question = wireQuery("kube-dns.kube-system.svc.cluster.local", kDnsA);
  thread_.call([&] {
    for (int i = 0; i < kQuestions; i++) (void)send(fd.get(), question.data(), question.size(), 0);
  });
  int answers = 0;
  for (char buffer[512]; answers < kQuestions && recv(fd.get(), buffer, sizeof buffer, 0) > 0;) answers++;
  EXPECT_EQ(kQuestions, answers);
}

TEST_F(DnsServerTest, SilentUpstreamsAreAnErrorAndTheNextOneIsAsked) {
  thread_.stop(*server_);
  // 127.0.0.2 has nobody on that port.
  thread_.call([&] { start({ip("127.0.0.2"), ip("127.0.0.1")}); });
  EXPECT_EQ(Texts{"203.0.113.1"}, ask("example.org"));
  thread_.stop(*server_);
  thread_.call([&] { start({ip("127.0.0.2")}); });
  EXPECT_EQ(Texts{"code 2"}, ask("example.org"));
  EXPECT_EQ(Texts{"10.96.0.10"}, ask("kube-dns.kube-system.svc.cluster.local"));
}

TEST_F(DnsServerTest, ReportsHowManyQuestionsItAnswers) {
  auto query = wireQuery("kube-dns.kube-system.svc.cluster.local", kDnsA);
  UniqueFd fd(socket(AF_INET, SOCK_DGRAM, 0));
  auto address = socketAddress("127.0.0.1", server_->port());
  ASSERT_EQ(0, connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  char buffer[512];
  auto start = std::chrono::steady_clock::now();
  constexpr int kTimes = 5000;
  for (int i = 0; i < kTimes; i++) {
    send(fd.get(), query.data(), query.size(), 0);
    ASSERT_GT(recv(fd.get(), buffer, sizeof buffer, 0), 0);
  }
  double micros = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kTimes;
  printf("one question after the other: %.1f us each\n", micros);
}

TEST(DnsInNamespaceTest, BusyboxFindsNames) {
  SKIP_UNLESS_ROOT();
  auto netns = Netns::create();
  ASSERT_OK(netns);
  auto links = NetLinks::openIn(netns->fd());
  ASSERT_OK(links->addAddress(links->find("lo")->index, IpPrefix::host(ip("10.96.0.10"))));
  ClusterDns cluster(options());
  fill(cluster);
  LoopThread thread;
  std::unique_ptr<DnsServer> server;
  thread.call([&] {
    server = std::make_unique<DnsServer>(thread.loop, cluster,
                                         DnsServer::Options{.listen = {{ip("10.96.0.10"), 53, netns->fd()}}});
    EXPECT_OK(server->start());
    auto again = server->listen({ip("10.96.0.10"), 53, netns->fd()});
    EXPECT_TRUE(!again.ok() && again.error().is(Code::kAlreadyExists));
  });
  within(*netns, [&] {
    auto found = runCommand({"busybox", "nslookup", "-type=a", "db.default.svc.cluster.local", "10.96.0.10"});
    if (!found.ok()) GTEST_SKIP() << "no busybox here";
    EXPECT_THAT(found->output, testing::HasSubstr("10.244.1.5"));
    EXPECT_THAT(found->output, testing::HasSubstr("10.244.2.6"));
    auto missing = runCommand({"busybox", "nslookup", "nobody.default.svc.cluster.local", "10.96.0.10"});
    ASSERT_OK(missing);
    EXPECT_NE(0, missing->status.code);
  });
  thread.stop(*server);
}

}  // namespace
}  // namespace dhow
