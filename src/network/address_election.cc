#include "network/address_election.h"

#include <algorithm>

namespace dhow {

void AddressElection::setWanted(Wanted wanted, TimePoint now) {
  if (wanted_.empty() && !wanted.empty()) listensUntil_ = now + options_.silence;
  wanted_ = std::move(wanted);
}

bool AddressElection::heard(const AnnounceBeat& beat, TimePoint now) {
  constexpr size_t kMostPeers = 4096, kMostClaims = 65536;
  if (beat.node == options_.self || beat.node.empty()) return false;
  if (beat.leaving) return peers_.erase(beat.node) > 0;
  const bool known = peers_.contains(beat.node);
  if (!known && peers_.size() >= kMostPeers) return false;
  Peer& peer = peers_[beat.node];
  bool changed = !known || peer.health != beat.health;
  peer.health = beat.health;
  peer.heard = now;
  if (!beat.more && !peer.inParts) {
    const std::set<IpAddress> told(beat.held.begin(), beat.held.end());
    changed |= std::erase_if(peer.claims, [&](const auto& claim) { return !told.contains(claim.first); }) > 0;
  }
  peer.inParts = beat.more;
  for (const IpAddress& address : beat.held) {
    if (peer.claims.size() >= kMostClaims) break;
    changed |= peer.claims.insert_or_assign(address, now).second;
  }
  return changed;
}

// FNV-1a and a final mix, as short and similar texts must not give similar ranks.
uint64_t AddressElection::rank(const IpAddress& address, const std::string& node) const {
  uint64_t hash = 0xcbf29ce484222325;
  for (std::string_view part : {address.bytes(), std::string_view(node)}) {
    for (char c : part) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  hash = (hash ^ hash >> 33) * 0xff51afd7ed558ccd;
  hash = (hash ^ hash >> 33) * 0xc4ceb9fe1a85ec53;
  return hash ^ hash >> 33;
}

std::vector<std::string> AddressElection::order(const IpAddress& address, const Candidates& candidates) const {
  struct Able {
    NodeHealth health;
    uint64_t rank;
    const std::string* node;
  };
  std::vector<Able> able;
  auto consider = [&](const std::string& node, NodeHealth health) {
    if (candidates.any || candidates.nodes.contains(node)) able.push_back({health, rank(address, node), &node});
  };
  consider(options_.self, health_);
  for (const auto& [node, peer] : peers_) consider(node, peer.health);
  const bool anyWell =
      std::any_of(able.begin(), able.end(), [](auto& node) { return node.health == NodeHealth::kWell; });
  if (anyWell) std::erase_if(able, [](auto& node) { return node.health == NodeHealth::kCutOff; });
  std::sort(able.begin(), able.end(), [](auto& a, auto& b) {
    if (a.health != b.health) return a.health < b.health;
    return a.rank != b.rank ? a.rank > b.rank : *a.node < *b.node;
  });
  std::vector<std::string> out;
  for (const Able& node : able) out.push_back(*node.node);
  return out;
}

AddressElection::Decision AddressElection::decide(TimePoint now) {
  Decision out;
  std::erase_if(peers_, [&](const auto& peer) { return now - peer.second.heard >= options_.silence; });
  for (auto& [node, peer] : peers_)
    std::erase_if(peer.claims, [&](const auto& claim) { return now - claim.second >= options_.silence; });
  auto giveUp = [&](const IpAddress& address) {
    held_.erase(address);
    out.givenUp.push_back(address);
  };
  for (const IpAddress& address : std::set<IpAddress>(held_)) {
    if (!wanted_.contains(address)) giveUp(address);
  }
  std::erase_if(unheld_, [&](const auto& entry) { return !wanted_.contains(entry.first); });
  for (const auto& [address, candidates] : wanted_) {
    const std::vector<std::string> able = order(address, candidates);
    const auto self = std::find(able.begin(), able.end(), options_.self);
    const bool mine = held_.contains(address);
    // Of those that hold it and may, others than this node.
    auto other = std::find_if(able.begin(), able.end(), [&](const std::string& node) {
      auto peer = peers_.find(node);
      return peer != peers_.end() && peer->second.claims.contains(address);
    });
    if (mine) {
      if (self == able.end() || (other != able.end() && other < self)) {
        giveUp(address);
      } else if (other != able.end()) {
        out.again.push_back(address);
      }
      continue;
    }
    if (other != able.end() || self == able.end()) {
      unheld_.erase(address);
      continue;
    }
    const TimePoint since = unheld_.try_emplace(address, std::max(now, listensUntil_)).first->second;
    if (now < listensUntil_ || now - since < options_.silence * (self - able.begin())) continue;
    held_.insert(address);
    unheld_.erase(address);
    out.taken.push_back(address);
  }
  return out;
}

TimePoint AddressElection::next(TimePoint now) const {
  TimePoint out = TimePoint::max();
  if (wanted_.empty()) return out;
  if (now < listensUntil_) out = listensUntil_;
  for (const auto& [node, peer] : peers_) {
    out = std::min(out, peer.heard + options_.silence);
  }
  for (const auto& [address, since] : unheld_) {
    for (TimePoint at = since + options_.silence;; at += options_.silence) {
      if (at <= now) continue;
      out = std::min(out, at);
      break;
    }
  }
  return out;
}

AnnounceBeat AddressElection::beat() const {
  return {
      .node = options_.self, .health = health_, .leaving = false, .more = false, .held = {held_.begin(), held_.end()}};
}

}  // namespace dhow
