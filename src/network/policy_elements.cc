#include "policy_elements.h"

#include <algorithm>

namespace dhow::policies {

namespace {

constexpr uint32_t kEveryone = 0, kEverything = 0;

// Empty below the first address.
IpAddress before(const IpAddress& address) {
  std::string bytes(address.bytes());
  for (size_t i = bytes.size(); i-- > 0;) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    bytes[i] = static_cast<char>(byte - 1);
    if (byte != 0) return IpAddress::fromBytes(bytes);
  }
  return {};
}

bool inside(const Piece& piece, const PolicyBlock& block) {
  const Piece whole{block.cidr.network(), block.cidr.last()};
  if (piece.first.bits() != whole.first.bits() || piece.first < whole.first || whole.last < piece.last) return false;
  return std::none_of(block.except.begin(), block.except.end(),
                      [&](const IpPrefix& hole) { return piece.first <= hole.last() && hole.network() <= piece.last; });
}

// What a class may do with one kind of peer.
struct Reach {
  bool everything = false;
  std::set<PortRange> ranges;
  void add(const PolicyRule& rule) {
    everything |= rule.everyPort;
    add(rule.ports);
  }
  void add(const std::vector<PortRange>& more) { ranges.insert(more.begin(), more.end()); }
};

void addReach(uint32_t number, uint32_t peer, const Reach& reach, const Numbers<PortRange>& ranges, Elements& out) {
  auto allow = [&](uint32_t range) { addElement(out, kAllowed, NftKey().number(number).number(peer).number(range)); };
  if (reach.everything) {
    allow(kEverything);
    return;
  }
  for (const PortRange& wanted : reach.ranges) {
    if (wanted.first == wanted.last) {
      NftKey key = NftKey().number(number).number(peer).protocol(wanted.protocol).port(wanted.first);
      addElement(out, kAllowedPorts, key);
      continue;
    }
    const PortRange from{wanted.protocol, wanted.first, wanted.first};
    for (auto it = ranges.lower_bound(from); it != ranges.end() && it->first.protocol == wanted.protocol; ++it) {
      if (it->first.first > wanted.last) break;
      if (wanted.contains(it->first)) allow(it->second);
    }
  }
}

}  // namespace

std::vector<Piece> piecesOf(const std::vector<const std::vector<PolicyRule>*>& all) {
  std::set<PolicyBlock> blocks;
  std::set<IpAddress> starts;  // of pieces; one that begins after the last address begins with the first
  auto cut = [&](const IpPrefix& prefix) {
    starts.insert(prefix.network());
    starts.insert(prefix.last().plus(1));
  };
  for (const auto* rules : all) {
    for (const PolicyRule& rule : *rules) {
      for (const PolicyBlock& block : rule.blocks) {
        if (!blocks.insert(block).second) continue;
        cut(block.cidr);
        for (const IpPrefix& hole : block.except) cut(hole);
      }
    }
  }
  std::vector<Piece> out;
  for (auto it = starts.begin(); it != starts.end(); ++it) {
    auto next = std::next(it);
    const bool ends = next == starts.end() || next->bits() != it->bits();
    const Piece piece{*it, ends ? IpPrefix{*it, 0}.last() : before(*next)};
    if (std::any_of(blocks.begin(), blocks.end(), [&](const PolicyBlock& block) { return inside(piece, block); }))
      out.push_back(piece);
  }
  return out;
}

std::vector<PortRange> rangesOf(const std::vector<const std::vector<PolicyRule>*>& all) {
  std::set<PortRange> ranges;
  std::map<Protocol, std::set<uint32_t>> starts;
  for (const auto* rules : all) {
    for (const PolicyRule& rule : *rules) {
      for (const PortRange& range : rule.ports) {
        if (range.first == range.last || !ranges.insert(range).second) continue;
        starts[range.protocol].insert(range.first);
        starts[range.protocol].insert(range.last + 1U);
      }
    }
  }
  std::vector<PortRange> out;
  for (auto& [protocol, cuts] : starts) {
    for (auto it = cuts.begin(); std::next(it) != cuts.end(); ++it) {
      const PortRange piece{protocol, static_cast<uint16_t>(*it), static_cast<uint16_t>(*std::next(it) - 1)};
      if (std::any_of(ranges.begin(), ranges.end(), [&](const PortRange& range) { return range.contains(piece); }))
        out.push_back(piece);
    }
  }
  return out;
}

void addElement(Elements& out, const char* set, const std::string& key, const std::string& data,
                const std::string& keyEnd) {
  out[set].emplace(key + keyEnd, NftBatch::Element{.key = key, .keyEnd = keyEnd, .data = data, .verdict = ""});
}

void addAllowed(const Vocabulary& vocabulary, Elements& out) {
  for (const auto& [rules, number] : vocabulary.classes) {
    Reach everyone;
    for (const PolicyRule& rule : rules) {
      if (rule.everyone) everyone.add(rule);
    }
    addReach(number, kEveryone, everyone, vocabulary.ranges, out);
    if (everyone.everything) continue;
    for (const auto& [pod, identity] : vocabulary.identities) {
      Reach reach;
      for (const PolicyRule& rule : rules) {
        if (!matchesPod(rule, pod)) continue;
        if (!rule.everyone) reach.add(rule);
        reach.add(namedRanges(rule, pod.ports));
      }
      addReach(number, identity, reach, vocabulary.ranges, out);
    }
    for (const auto& [piece, place] : vocabulary.pieces) {
      Reach reach;
      for (const PolicyRule& rule : rules) {
        if (std::any_of(rule.blocks.begin(), rule.blocks.end(),
                        [&](const PolicyBlock& block) { return inside(piece, block); }))
          reach.add(rule);
      }
      addReach(number, place, reach, vocabulary.ranges, out);
    }
  }
}

}  // namespace dhow::policies
