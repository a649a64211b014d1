#include "service_elements.h"

namespace dhow::services {

namespace {

constexpr int kRawPriority = -300, kFirewallPriority = -110, kDestinationNat = -100, kSourceNat = 100;
constexpr uint32_t kMasqueradeMark = 0x4000;  // as kube-proxy's

IpPrefix loopback(IpFamily family) {
  return family == IpFamily::kV4 ? IpPrefix{IpAddress::v4(0x7f000000), 8} : IpPrefix{IpAddress::v6({}).plus(1), 128};
}

// The register behind a frontend that stands in 1 and those that follow.
int behindFrontend(IpFamily family) {
  return 3 + addressRegisters(family);
}
NftRule& loadFrontend(NftRule& rule, IpFamily family) {
  return rule.destinationAddress(1)
      .protocol(1 + addressRegisters(family))
      .destinationPort(2 + addressRegisters(family));
}
NftRule& dispatch(NftRule& rule, IpFamily family, const char* set) {
  const int to = behindFrontend(family);
  return loadFrontend(rule, family).map(set, 1, to).verdictMap(kClasses, to);
}
NftRule& loadPort(NftRule& rule) {
  return rule.protocol(1).destinationPort(2);
}

void buildSets(NftBatch& batch) {
  const std::vector<uint8_t> frontend = {kNftAddress, kNftProtocol, kNftPort};
  const std::vector<uint8_t> port = {kNftProtocol, kNftPort};
  const std::vector<uint8_t> endpoint = {kNftAddress, kNftPort};
  const std::vector<uint8_t> pickerClass = {kNftNumber, kNftNumber};
  for (auto* name : {kFrontends, kFrontendsInside}) {
    batch.addSet({.name = name, .fields = frontend, .data = pickerClass});
  }
  for (auto* name : {kNodePorts, kNodePortsInside}) {
    batch.addSet({.name = name, .fields = port, .data = pickerClass});
  }
  batch.addSet({.name = kClasses, .fields = pickerClass, .data = {}, .verdicts = true});
  for (auto* name : {kRefused, kDropped}) batch.addSet({.name = name, .fields = frontend, .data = {}});
  for (auto* name : {kRefusedNodePorts, kDroppedNodePorts}) batch.addSet({.name = name, .fields = port, .data = {}});
  batch.addSet({.name = kEndpoints, .fields = {kNftAddress, kNftProtocol, kNftPort, kNftNumber}, .data = endpoint});
  batch.addSet({.name = kAffinity,
                .fields = {kNftAddress, kNftAddress, kNftProtocol, kNftPort},
                .data = endpoint,
                .dynamic = true});
  batch.addSet({.name = kMembers, .fields = {kNftAddress, kNftProtocol, kNftPort, kNftAddress, kNftPort}, .data = {}});
  batch.addSet({.name = kHairpin, .fields = {kNftAddress, kNftAddress}, .data = {}});
  batch.addSet({.name = kRestricted, .fields = frontend, .data = {}});
  batch.addSet(
      {.name = kAllowed, .fields = {kNftAddress, kNftProtocol, kNftPort, kNftAddress}, .data = {}, .intervals = true});
}

void dispatchNodePorts(NftBatch& batch, const std::string& chain, const ServiceProxyOptions& options, const char* set,
                       const IpPrefix* source) {
  auto add = [&](const IpPrefix* destination) {
    if (destination != nullptr && !destination->address.is(batch.family())) return;
    NftRule rule(batch.family());
    if (source != nullptr) rule.sourceIn(*source);
    rule.destinationIsLocal().destinationIn(loopback(batch.family()), true);
    if (destination != nullptr) rule.destinationIn(*destination);
    loadPort(rule).map(set, 1, 4).verdictMap(kClasses, 4);
    batch.addRule(chain, rule);
  };
  if (options.nodePortAddresses.empty()) add(nullptr);
  for (auto& prefix : options.nodePortAddresses) add(&prefix);
}

void buildDispatch(NftBatch& batch, const ServiceProxyOptions& options) {
  const IpFamily family = batch.family();
  for (auto& range : options.podRanges) {
    if (!range.address.is(family)) continue;
    NftRule inside(family);
    dispatch(inside.sourceIn(range), family, kFrontendsInside);
    batch.addRule("prerouting", inside);
    dispatchNodePorts(batch, "prerouting", options, kNodePortsInside, &range);
  }
  NftRule inside(family);
  dispatch(inside, family, kFrontendsInside);
  batch.addRule("output", inside);
  dispatchNodePorts(batch, "output", options, kNodePortsInside, nullptr);
  for (auto* hook : {"prerouting", "output"}) {
    NftRule jump(family);
    jump.jump("dispatch");
    batch.addRule(hook, jump);
  }
  NftRule frontends(family);
  dispatch(frontends, family, kFrontends);
  batch.addRule("dispatch", frontends);
  dispatchNodePorts(batch, "dispatch", options, kNodePorts, nullptr);
}

void buildMasquerade(NftBatch& batch, const ServiceProxyOptions& options) {
  const IpFamily family = batch.family();
  for (auto& range : options.podRanges) {
    if (!range.address.is(family)) continue;
    NftRule pod(family);
    pod.sourceIn(range).leave();
    batch.addRule("mark-for-masquerade", pod);
  }
  NftRule mark(family);
  mark.setMarkBit(kMasqueradeMark);
  batch.addRule("mark-for-masquerade", mark);
  NftRule marked(family);
  marked.markBit(kMasqueradeMark).clearMarkBit(kMasqueradeMark).masquerade();
  batch.addRule("postrouting", marked);
  NftRule hairpin(family);
  hairpin.destinationTranslated().sourceAddress(1).destinationAddress(1 + addressRegisters(family)).in(kHairpin, 1);
  hairpin.masquerade();
  batch.addRule("postrouting", hairpin);
}

void buildRefusal(NftBatch& batch, const ServiceProxyOptions& options) {
  const IpFamily family = batch.family();
  NftRule tcp(family), other(family);
  tcp.protocolIs(Protocol::kTcp).rejectTcp();
  other.reject();
  batch.addRule(kReject, tcp);
  batch.addRule(kReject, other);
  for (bool drop : {true, false}) {
    NftRule frontends(family), nodePorts(family);
    loadFrontend(frontends, family).in(drop ? kDropped : kRefused, 1);
    nodePorts.destinationIsLocal().destinationIn(loopback(family), true);
    loadPort(nodePorts).in(drop ? kDroppedNodePorts : kRefusedNodePorts, 1);
    for (auto* rule : {&frontends, &nodePorts}) {
      if (drop) {
        rule->drop();
      } else {
        rule->go(kReject);
      }
      batch.addRule("refuse", *rule);
    }
  }
  for (const IpPrefix& range : options.serviceRanges) {
    if (!range.address.is(family)) continue;
    NftRule unknown(family);
    unknown.destinationIn(range).destinationIsLocal(true).go(kReject);
    batch.addRule("refuse", unknown);
  }
  for (auto* hook : {"filter-input", "filter-forward", "filter-output"}) {
    NftRule rule(family);
    rule.newConnection().jump("refuse");
    batch.addRule(hook, rule);
  }
  NftRule firewall(family);
  loadFrontend(firewall, family).in(kRestricted, 1).sourceAddress(behindFrontend(family)).in(kAllowed, 1, true).drop();
  batch.addRule("firewall", firewall);
}

// A question and its answer pass both hooks when both ends are here.
void buildUntracked(NftBatch& batch, const ServiceProxyOptions& options) {
  constexpr uint16_t kDns = 53;
  const bool any = std::any_of(options.untrackedDns.begin(), options.untrackedDns.end(),
                               [&](const IpAddress& address) { return address.is(batch.family()); });
  if (!any) return;
  batch.addHook("raw-prerouting", "filter", NftHook::kPrerouting, kRawPriority);
  batch.addHook("raw-output", "filter", NftHook::kOutput, kRawPriority);
  for (auto& address : options.untrackedDns) {
    if (!address.is(batch.family())) continue;
    for (auto* chain : {"raw-prerouting", "raw-output"}) {
      NftRule question(batch.family()), answer(batch.family());
      question.protocolIs(Protocol::kUdp).destinationIn(IpPrefix::host(address)).destinationPort(1).portIs(1, kDns);
      answer.protocolIs(Protocol::kUdp).sourceIn(IpPrefix::host(address)).sourcePort(1).portIs(1, kDns);
      batch.addRule(chain, question.noTrack());
      batch.addRule(chain, answer.noTrack());
    }
  }
}

}  // namespace

void buildSkeleton(NftBatch& batch, const ServiceProxyOptions& options) {
  batch.addTable();
  batch.deleteTable();
  batch.addTable();
  buildSets(batch);
  batch.addHook("firewall", "filter", NftHook::kPrerouting, kFirewallPriority);
  batch.addHook("prerouting", "nat", NftHook::kPrerouting, kDestinationNat);
  batch.addHook("output", "nat", NftHook::kOutput, kDestinationNat);
  batch.addHook("postrouting", "nat", NftHook::kPostrouting, kSourceNat);
  batch.addHook("filter-input", "filter", NftHook::kInput, 0);
  batch.addHook("filter-forward", "filter", NftHook::kForward, 0);
  batch.addHook("filter-output", "filter", NftHook::kOutput, 0);
  for (auto* chain : {"dispatch", "mark-for-masquerade", "refuse", kReject}) batch.addChain(chain);
  buildDispatch(batch, options);
  buildMasquerade(batch, options);
  buildRefusal(batch, options);
  buildUntracked(batch, options);
}

}  // namespace dhow::services
