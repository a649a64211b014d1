// libFuzzer entry for what clients and upstream resolvers send to the DNS server, and neighbours on a segment. The
// first byte chooses which.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "dns_answer.h"
#include "neighbour_wire.h"

using namespace dhow;
using namespace dhow::dns;

namespace {

ClusterDns& cluster() {
  static ClusterDns* made = [] {
    auto* dns = new ClusterDns({.domain = "cluster.local", .reverseRanges = {IpPrefix::parse("10.96.0.0/16").value()}});
    const auto address = IpAddress::parse("10.96.0.10").value();
    dns->set({.ns = "kube-system",
              .name = "kube-dns",
              .clusterIps = {address},
              .ports = {{"dns", Protocol::kUdp, 53}, {"dns-tcp", Protocol::kTcp, 53}}});
    dns->set({.ns = "d",
              .name = "db",
              .ports = {{"sql", Protocol::kTcp, 5432}},
              .endpoints = {{IpAddress::parse("10.244.1.5").value(), "db-0", {{"sql", Protocol::kTcp, 5432}}}}});
    dns->set({.ns = "d", .name = "ext", .externalName = "example.com"});
    dns->setNamespaces({"d", "kube-system"});
    dns->setClientNamespace(address, "d");
    return dns;
  }();
  return *made;
}

// Whatever is sent can be read by a resolver.
void checkReply(const std::string& reply) {
  CHECK(reply.size() >= kHeaderSize && reply.size() <= kTcpMost, "a reply of {} bytes", reply.size());
}

void ask(std::string_view message, bool tcp) {
  auto outcome = answerFrom(cluster(), message, IpAddress::parse("10.96.0.10").value(), tcp);
  if (outcome.kind == Outcome::Kind::kReply) checkReply(outcome.reply);
  if (outcome.kind != Outcome::Kind::kForward) return;
  checkReply(replyFrom(outcome, nullptr, tcp));
  std::string echoed(message);
  checkReply(replyFrom(outcome, &echoed, tcp));
}

// An upstream's answer to a question of ours, with and without records of our own before it.
void hear(std::string said, bool tcp) {
  for (const char* name : {"a.example", "ext.d.svc.cluster.local"}) {
    auto question = writeQuery(7, makeQuestion(name, kDnsA), {});
    auto outcome = answerFrom(cluster(), question, IpAddress::parse("10.96.0.10").value(), tcp);
    CHECK(outcome.kind == Outcome::Kind::kForward, "{} is not forwarded", name);
    checkReply(replyFrom(outcome, &said, tcp));
  }
  auto parsed = readUpstream(said);
  if (!parsed) return;
  for (size_t at : parsed->ttlOffsets) CHECK(at + 4 <= said.size(), "a time to live lies outside");
  age(said, parsed->ttlOffsets, 10);
}

// What nodes and strangers say on a segment.
void neighbours(std::string_view packet) {
  const neighbour::Mac own{2, 0, 0, 0, 0, 1};
  if (auto question = neighbour::readArp(packet)) (void)neighbour::arpReply(*question, own);
  if (auto question = neighbour::readSolicitation(packet))
    (void)neighbour::advertisement(question->target, own, &*question);
  auto beat = neighbour::readBeat(packet);
  if (!beat) return;
  CHECK(neighbour::readBeat(neighbour::writeBeat(*beat)) == beat, "a beat that was read is not written the same");
  AddressElection election({.self = "self"});
  election.setWanted({{IpAddress::parse("192.0.2.1").value(), {}}}, TimePoint{});
  election.heard(*beat, TimePoint{});
  (void)election.decide(TimePoint{} + std::chrono::seconds(1));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0: ask(bytes, false); break;
    case 1: ask(bytes, true); break;
    case 2: hear(std::string(bytes), data[0] & 8); break;
    case 3: neighbours(bytes); break;
    default:
      (void)DnsUpstream::parse(bytes);
      (void)IpAddress::parse(bytes).ok();
      (void)IpPrefix::parse(bytes).ok();
      (void)parseProtocol(bytes).ok();
      (void)parseNameservers(bytes);
  }
  return 0;
}
