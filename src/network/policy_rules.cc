// The fixed part of the policies' table.
#include "policy_elements.h"

namespace dhow::policies {

namespace {

constexpr int kFilterPriority = 0;
constexpr uint16_t kDnsPort = 53;
constexpr const char* kForward = "forward";
constexpr const char* kInput = "input";

struct Direction {
  const char* chain;
  const char* classes;
  NftRule& (NftRule::*own)(int);    // loads the address of the pod here
  NftRule& (NftRule::*other)(int);  // and of its peer
};
constexpr Direction kDirections[] = {
    {"egress", kEgress, &NftRule::sourceAddress, &NftRule::destinationAddress},
    {"ingress", kIngress, &NftRule::destinationAddress, &NftRule::sourceAddress},
};

// The register of each part of a key. Addresses take one or four.
constexpr int kAddress = 1;
struct Registers {
  int classNumber, peer, range, port, lookup;
};
Registers registersOf(IpFamily family) {
  const int first = kAddress + addressRegisters(family);
  return {first, first + 1, first + 2, first + 3, first + 4};
}

enum class Ports { kAll, kOne, kRange };
struct Question {
  const char* peers;  // "": everyone
  Ports ports;
};
// What most rules say first: one port for some pods. The first that is answered ends it.
constexpr Question kQuestions[] = {{kPods, Ports::kOne},   {"", Ports::kOne},      {kPods, Ports::kAll},
                                   {"", Ports::kAll},      {kBlocks, Ports::kOne}, {kBlocks, Ports::kAll},
                                   {kPods, Ports::kRange}, {"", Ports::kRange},    {kBlocks, Ports::kRange}};

void askAll(NftBatch& batch, const Direction& direction) {
  const std::string zero = NftKey().number(0);
  const auto [kClass, kPeer, kRange, kPort, kLookup] = registersOf(batch.family());
  for (const auto& [peers, ports] : kQuestions) {
    NftRule rule(batch.family());
    (rule.*direction.own)(kAddress).map(direction.classes, kAddress, kClass);
    if (peers == std::string_view(kPods)) {
      (rule.*direction.other)(kAddress).map(kPods, kAddress, kPeer);
    } else if (peers == std::string_view(kBlocks)) {
      (rule.constant(kLookup, zero).*direction.other)(kLookup + 1).map(kBlocks, kLookup, kPeer);
    } else {
      rule.constant(kPeer, zero);
    }
    switch (ports) {
      case Ports::kAll: rule.constant(kRange, zero).in(kAllowed, kClass); break;
      case Ports::kOne: rule.protocol(kRange).destinationPort(kPort).in(kAllowedPorts, kClass); break;
      case Ports::kRange:
        rule.protocol(kLookup).destinationPort(kLookup + 1).map(kRanges, kLookup, kRange).in(kAllowed, kClass);
        break;
    }
    batch.addRule(direction.chain, rule.leave());
  }
}

// A batch changes all hash sets at once, but for whoever looks next: the kernel asks for the generation at each lookup,
// not once for each packet. A packet that is asked while a batch is committed gives some answers by the sets before it
// and some by those after it, and may be allowed by both and find neither. So who found nothing is asked once more: if
// the batch came during the first turn, the second one knows only what is new. And who is not isolated any more, or
// became so on his way to himself, is not dropped either. What is allowed at once pays for none of this.
void buildJudgement(NftBatch& batch, const Direction& direction) {
  askAll(batch, direction);
  NftRule self(batch.family());
  self.sourceAddress(kAddress).destinationAddress(kAddress + addressRegisters(batch.family())).in(kSelf, kAddress);
  batch.addRule(direction.chain, self.leave());
  askAll(batch, direction);
  NftRule drop(batch.family());
  (drop.*direction.own)(kAddress).map(direction.classes, kAddress, registersOf(batch.family()).classNumber);
  batch.addRule(direction.chain, drop.drop());
}

void judge(NftBatch& batch, const char* hook, const Direction& direction) {
  NftRule rule(batch.family());
  (rule.*direction.own)(kAddress)
      .map(direction.classes, kAddress, registersOf(batch.family()).classNumber)
      .jump(direction.chain);
  batch.addRule(hook, rule);
}

}  // namespace

void buildSkeleton(NftBatch& batch) {
  batch.addTable();
  for (const Direction& direction : kDirections)
    batch.addSet({.name = direction.classes, .fields = {kNftAddress}, .data = {kNftNumber}});
  batch.addSet({.name = kPods, .fields = {kNftAddress}, .data = {kNftNumber}});
  batch.addSet({.name = kBlocks, .fields = {kNftNumber, kNftAddress}, .data = {kNftNumber}, .intervals = true});
  batch.addSet({.name = kRanges, .fields = {kNftProtocol, kNftPort}, .data = {kNftNumber}, .intervals = true});
  batch.addSet({.name = kAllowed, .fields = {kNftNumber, kNftNumber, kNftNumber}, .data = {}});
  batch.addSet({.name = kAllowedPorts, .fields = {kNftNumber, kNftNumber, kNftProtocol, kNftPort}, .data = {}});
  batch.addSet({.name = kSelf, .fields = {kNftAddress, kNftAddress}, .data = {}});
  batch.addHook(kForward, "filter", NftHook::kForward, kFilterPriority);
  batch.addHook(kInput, "filter", NftHook::kInput, kFilterPriority);
  for (const Direction& direction : kDirections) batch.addChain(direction.chain);
}

void buildRules(NftBatch& batch, const PolicyTableOptions& options) {
  for (const char* hook : {kForward, kInput}) {
    NftRule known(batch.family());
    batch.addRule(hook, known.knownConnection().accept());
  }
  if (batch.family() == IpFamily::kV6) {
    NftRule discovery(IpFamily::kV6);  // pods ask for their gateway
    batch.addRule(kInput, discovery.icmpV6(kFirstDiscovery, kRedirect).accept());
  }
  for (const IpAddress& address : options.dns) {
    if (!address.is(batch.family())) continue;
    for (Protocol protocol : {Protocol::kUdp, Protocol::kTcp}) {
      NftRule question(batch.family());
      question.protocolIs(protocol).destinationIn(IpPrefix::host(address)).destinationPort(1).portIs(1, kDnsPort);
      batch.addRule(kInput, question.accept());
    }
  }
  judge(batch, kInput, kDirections[0]);
  for (const Direction& direction : kDirections) {
    judge(batch, kForward, direction);
    buildJudgement(batch, direction);
  }
}

void clearSkeleton(NftBatch& batch) {
  for (const char* chain : {kForward, kInput, kDirections[0].chain, kDirections[1].chain}) batch.flushChain(chain);
  for (const char* set : {kIngress, kEgress, kPods, kBlocks, kRanges, kAllowed, kAllowedPorts, kSelf})
    batch.flushSet(set);
}

}  // namespace dhow::policies
