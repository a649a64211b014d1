#include "network/policy_table.h"

#include <cstring>
#include <mutex>

#include "base/digest.h"
#include "base/log.h"
#include "policy_elements.h"

namespace dhow {

using namespace policies;

namespace {

using BySet = std::map<std::string, std::vector<NftBatch::Element>>;

// Numbers of a process begin so far behind those of the one before that a packet under way never mistakes one.
constexpr uint32_t kNumbersOfAProcess = 1 << 20;

uint32_t numberIn(const std::string& bytes) {
  uint32_t out = 0;
  std::memcpy(&out, bytes.data(), std::min(bytes.size(), sizeof out));
  return out;
}
uint16_t portIn(const std::string& bytes) {
  return static_cast<uint16_t>(static_cast<uint8_t>(bytes[0]) << 8 | static_cast<uint8_t>(bytes[1]));
}

bool ofAllowed(const std::string& set) {
  return set == kAllowed || set == kAllowedPorts;
}

}  // namespace

struct PolicyTable::Rep {
  mutable std::mutex mutex;
  PolicyTableOptions options;
  NetlinkSocket socket;
  enum class Kernel { kUnknown, kNone, kInstalled } kernel = Kernel::kUnknown;

  Subjects subjects;
  std::map<IpAddress, PolicyPeer> peers;
  Vocabulary vocabulary;
  std::map<uint32_t, size_t> uses;  // of identities
  uint32_t lastNumber = numberIn(randomBytes(sizeof lastNumber)) >> 1;
  Elements installed;
  size_t lastChanges = 0;
  bool begun = false;

  template <class T>
  void renumber(Numbers<T>& numbers, const std::vector<T>& now);
  bool setPeers(const Peers& changed);
  bool dropPeer(const IpAddress& address);
  void keepClasses(std::initializer_list<const Subjects*> users);
  Result<> setSubjects(Subjects now, const Peers& changed);
  Elements wanted() const;
  std::pair<std::string, NftBatch::Element> podElement(const IpAddress& address) const;

  Result<> commit(BySet removals, BySet additions);
  void changePods(const Peers& changed, BySet& removals, BySet& additions);
  Result<> change(const Vocabulary& before, const Peers& changed);
  Result<> install(bool anew);
  Result<> adoptNumbers();
  Result<> replace();
  Result<> remove();
};

// Gives numbers to what is new and forgets what is gone.
template <class T>
void PolicyTable::Rep::renumber(Numbers<T>& numbers, const std::vector<T>& now) {
  Numbers<T> out;
  for (const T& thing : now) {
    auto known = numbers.find(thing);
    if (known != numbers.end()) {
      out.emplace(thing, known->second);
    } else if (!out.contains(thing)) {
      out.emplace(thing, ++lastNumber);
    }
  }
  numbers = std::move(out);
}

// Whether an identity went with it.
bool PolicyTable::Rep::dropPeer(const IpAddress& address) {
  auto it = peers.find(address);
  if (it == peers.end()) return false;
  auto identity = vocabulary.identities.find(it->second);
  peers.erase(it);
  if (--uses[identity->second] > 0) return false;
  uses.erase(identity->second);
  vocabulary.identities.erase(identity);
  return true;
}

// Whether identities came or went.
bool PolicyTable::Rep::setPeers(const Peers& changed) {
  bool out = false;
  for (const auto& [address, peer] : changed) {
    auto it = peers.find(address);
    if (peer && it != peers.end() && it->second == *peer) continue;
    // The new one first, so that an identity that stays keeps its number.
    uint32_t number = 0;
    if (peer) {
      auto [identity, fresh] = vocabulary.identities.try_emplace(*peer, 0);
      if (fresh) identity->second = ++lastNumber;
      number = identity->second;
      uses[number]++;
      out |= fresh;
    }
    out |= dropPeer(address);
    if (peer) peers.emplace(address, *peer);
  }
  return out;
}

namespace {

using Rules = std::vector<const std::vector<PolicyRule>*>;

void collectRules(const PolicyTable::Subjects& subjects, Rules& out) {
  for (const auto& [address, subject] : subjects) {
    for (const auto* rules : {&subject.ingress, &subject.egress}) {
      if (*rules) out.push_back(&**rules);
    }
  }
}

}  // namespace

void PolicyTable::Rep::keepClasses(std::initializer_list<const Subjects*> users) {
  Rules rules;
  for (const Subjects* user : users) collectRules(*user, rules);
  std::vector<std::vector<PolicyRule>> all;
  for (const auto* one : rules) all.push_back(*one);
  renumber(vocabulary.classes, all);
}

// The kernel's interval sets change a moment after the others, so that a packet may meet a new class and an old piece.
// Therefore addresses and ports are cut first as the rules before and after need it, which changes nothing for anybody,
// and the classes change when that is done.
Result<> PolicyTable::Rep::setSubjects(Subjects now, const Peers& changed) {
  Subjects former = std::exchange(subjects, std::move(now));
  Vocabulary before;
  before.pieces = vocabulary.pieces;
  before.ranges = vocabulary.ranges;
  Rules rules;
  collectRules(former, rules);
  collectRules(subjects, rules);
  renumber(vocabulary.pieces, piecesOf(rules));
  renumber(vocabulary.ranges, rangesOf(rules));
  if (kernel != Kernel::kInstalled) {
    keepClasses({&subjects});
    return {};
  }
  keepClasses({&former, &subjects});
  Result<> done;
  if (before.pieces != vocabulary.pieces || before.ranges != vocabulary.ranges) {
    std::swap(former, subjects);
    done = change(before, changed);
    std::swap(former, subjects);
  }
  keepClasses({&subjects});
  if (done.ok()) done = change(vocabulary, changed);
  return done;
}

std::pair<std::string, NftBatch::Element> PolicyTable::Rep::podElement(const IpAddress& address) const {
  const std::string key = NftKey().address(address);
  const std::string data = NftKey().number(vocabulary.identities.at(peers.at(address)));
  return {key, {.key = key, .keyEnd = "", .data = data, .verdict = ""}};
}

// All but the pods' identities.
Elements PolicyTable::Rep::wanted() const {
  Elements out;
  for (const auto& [address, subject] : subjects) {
    if (!address.isV4() || !subject.isolated()) continue;
    auto direction = [&](const char* set, const std::optional<std::vector<PolicyRule>>& rules) {
      if (rules) addElement(out, set, NftKey().address(address), NftKey().number(vocabulary.classes.at(*rules)));
    };
    direction(kIngress, subject.ingress);
    direction(kEgress, subject.egress);
    addElement(out, kSelf, NftKey().address(address).address(address));
  }
  for (const auto& [piece, number] : vocabulary.pieces) {
    if (!piece.first.isV4()) continue;
    NftKey from = NftKey().number(0).address(piece.first), to = NftKey().number(0).address(piece.last);
    addElement(out, kBlocks, from, NftKey().number(number), to);
  }
  for (const auto& [range, number] : vocabulary.ranges) {
    NftKey from = NftKey().protocol(range.protocol).port(range.first);
    NftKey to = NftKey().protocol(range.protocol).port(range.last);
    addElement(out, kRanges, from, NftKey().number(number), to);
  }
  addAllowed(vocabulary, out);
  return out;
}

Result<> PolicyTable::Rep::commit(BySet removals, BySet additions) {
  NftBatch batch(options.table);
  size_t changes = 0;
  for (auto& [set, elements] : removals) {
    batch.deleteElements(set, elements);
    changes += elements.size();
  }
  for (auto& [set, elements] : additions) {
    batch.addElements(set, elements);
    changes += elements.size();
  }
  RETURN_IF_ERROR(batch.commit(socket));
  lastChanges += changes;
  for (auto& [set, elements] : removals) {
    for (const auto& e : elements) installed[set].erase(e.key + e.keyEnd);
  }
  for (auto& [set, elements] : additions) {
    for (auto& e : elements) installed[set][e.key + e.keyEnd] = e;
  }
  return {};
}

// What the pods' set needs for these addresses.
void PolicyTable::Rep::changePods(const Peers& changed, BySet& removals, BySet& additions) {
  for (const auto& [address, peer] : changed) {
    if (!address.isV4()) continue;
    auto has = installed[kPods].find(NftKey().address(address));
    const bool had = has != installed[kPods].end();
    if (!peers.contains(address)) {
      if (had) removals[kPods].push_back(has->second);
      continue;
    }
    auto [key, element] = podElement(address);
    if (had && has->second == element) continue;
    if (had) removals[kPods].push_back(has->second);
    additions[kPods].push_back(std::move(element));
  }
}

// `before`: pieces and ranges that the kernel may still have for a moment; what they may do is added for as long.
// Allowances go in a batch of their own, when nothing leads to them any more.
Result<> PolicyTable::Rep::change(const Vocabulary& before, const Peers& changed) {
  BySet removals, additions, obsolete;
  const Elements now = wanted();
  auto kept = [&](const Elements& others, const std::string& set, const NftBatch::Element& element) {
    auto other = others.find(set);
    if (other == others.end()) return false;
    auto same = other->second.find(element.key + element.keyEnd);
    return same != other->second.end() && same->second == element;
  };
  for (const auto& [set, elements] : installed) {
    if (set == kPods || ofAllowed(set)) continue;
    for (const auto& [key, element] : elements) {
      if (!kept(now, set, element)) removals[set].push_back(element);
    }
  }
  auto add = [&](const Elements& wanted, const Elements* but) {
    for (const auto& [set, elements] : wanted) {
      for (const auto& [key, element] : elements) {
        if (!kept(installed, set, element) && (but == nullptr || !kept(*but, set, element)))
          additions[set].push_back(element);
      }
    }
  };
  add(now, nullptr);
  if (before.pieces != vocabulary.pieces || before.ranges != vocabulary.ranges) {
    Vocabulary both = vocabulary;
    both.pieces.insert(before.pieces.begin(), before.pieces.end());
    both.ranges.insert(before.ranges.begin(), before.ranges.end());
    Elements transition;
    addAllowed(both, transition);
    add(transition, &now);
  }
  changePods(changed, removals, additions);
  RETURN_IF_ERROR(commit(std::move(removals), std::move(additions)));
  for (const char* set : {kAllowed, kAllowedPorts}) {
    for (const auto& [key, element] : installed[set]) {
      if (!kept(now, set, element)) obsolete[set].push_back(element);
    }
  }
  return commit(std::move(obsolete), {});
}

// Everything in one batch. A table of the same build is emptied and filled, so that its hooks, and with them the pods'
// isolation, stay; `anew`: whatever is there goes.
Result<> PolicyTable::Rep::install(bool anew) {
  Elements all = wanted();
  for (const auto& [address, peer] : peers) {
    if (address.isV4()) all[kPods].insert(podElement(address));
  }
  NftBatch batch(options.table);
  if (anew) {
    batch.addTable();
    batch.deleteTable();
  }
  buildSkeleton(batch);
  if (!anew) clearSkeleton(batch);
  buildRules(batch, options);
  size_t changes = 0;
  for (const auto& [set, elements] : all) {
    std::vector<NftBatch::Element> list;
    for (const auto& [key, element] : elements) list.push_back(element);
    changes += list.size();
    batch.addElements(set, list);
  }
  RETURN_IF_ERROR(batch.commit(socket));
  kernel = Kernel::kInstalled;
  installed = std::move(all);
  lastChanges = changes;
  return {};
}

// Pieces and ranges keep the numbers that a former process gave them, so that the moment in which the kernel still has
// its interval sets is none.
Result<> PolicyTable::Rep::adoptNumbers() {
  ASSIGN_OR_RETURN(const bool there, nftTableExists(socket, options.table));
  if (!there) return {};
  constexpr size_t kField = 4;
  ASSIGN_OR_RETURN(auto blocks, nftListElements(socket, options.table, kBlocks));
  ASSIGN_OR_RETURN(auto ranges, nftListElements(socket, options.table, kRanges));
  for (const auto& e : blocks) {
    if (e.key.size() != 2 * kField || e.keyEnd.size() != e.key.size()) continue;
    const Piece piece{IpAddress::fromBytes(e.key.substr(kField)), IpAddress::fromBytes(e.keyEnd.substr(kField))};
    vocabulary.pieces.emplace(piece, numberIn(e.data));
  }
  for (const auto& e : ranges) {
    if (e.key.size() != 2 * kField || e.keyEnd.size() != e.key.size()) continue;
    const PortRange range{static_cast<Protocol>(e.key[0]), portIn(e.key.substr(kField)),
                          portIn(e.keyEnd.substr(kField))};
    vocabulary.ranges.emplace(range, numberIn(e.data));
  }
  uint32_t last = 0;
  for (const auto& [piece, number] : vocabulary.pieces) last = std::max(last, number);
  for (const auto& [range, number] : vocabulary.ranges) last = std::max(last, number);
  if (last != 0) lastNumber = last + kNumbersOfAProcess;
  return {};
}

Result<> PolicyTable::Rep::replace() {
  kernel = Kernel::kUnknown;
  auto done = install(false);
  if (done.ok()) return done;
  log::info("network", "policies: {}; the table is made anew", done.error().message());
  return install(true);
}

Result<> PolicyTable::Rep::remove() {
  if (kernel == Kernel::kNone) return {};
  NftBatch batch(options.table);
  batch.addTable();
  batch.deleteTable();
  RETURN_IF_ERROR(batch.commit(socket));
  kernel = Kernel::kNone;
  installed.clear();
  return {};
}

PolicyTable::PolicyTable(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
PolicyTable::~PolicyTable() = default;

Result<std::unique_ptr<PolicyTable>> PolicyTable::open(PolicyTableOptions options) {
  auto rep = std::make_unique<Rep>();
  rep->options = std::move(options);
  ASSIGN_OR_RETURN(rep->socket, NetlinkSocket::open(NETLINK_NETFILTER));
  return std::unique_ptr<PolicyTable>(new PolicyTable(std::move(rep)));
}

Result<> PolicyTable::apply(Subjects subjects, const Peers& changed) {
  std::lock_guard lock(rep_->mutex);
  Rep& r = *rep_;
  r.lastChanges = 0;
  if (!std::exchange(r.begun, true)) {
    auto adopted = r.adoptNumbers();
    if (!adopted.ok()) log::info("network", "policies of a former process: {}", adopted.error().message());
  }
  const bool kinds = r.setPeers(changed);
  Result<> done;
  const bool installed = r.kernel == Rep::Kernel::kInstalled;
  if (subjects != r.subjects) {
    done = r.setSubjects(std::move(subjects), changed);
  } else if (installed && kinds) {
    done = r.change(r.vocabulary, changed);
  } else if (installed) {
    BySet removals, additions;
    r.changePods(changed, removals, additions);
    done = r.commit(std::move(removals), std::move(additions));
  }
  if (!done.ok()) log::warn("network", "policies are installed anew: {}", done.error().message());
  const bool isolated =
      std::any_of(r.subjects.begin(), r.subjects.end(), [](const auto& entry) { return entry.second.isolated(); });
  if (!isolated) {
    done = r.remove();
  } else if (!done.ok() || !installed) {
    done = r.replace();
  }
  if (!done.ok()) return std::move(done).error().wrap("install network policies");
  return {};
}

PolicyTable::Stats PolicyTable::stats() const {
  std::lock_guard lock(rep_->mutex);
  Stats out{rep_->vocabulary.classes.size(), rep_->vocabulary.identities.size(), 0, rep_->lastChanges};
  for (const auto& [set, elements] : rep_->installed) out.elements += elements.size();
  return out;
}

}  // namespace dhow
