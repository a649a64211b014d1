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

bool holds(const Elements& all, const std::string& set, const NftBatch::Element& element) {
  auto elements = all.find(set);
  if (elements == all.end()) return false;
  auto same = elements->second.find(element.key + element.keyEnd);
  return same != elements->second.end() && same->second == element;
}

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

using Subjects = PolicyTable::Subjects;
using Peers = PolicyTable::Peers;

// The table of one family. Its subjects and peers have addresses of that family.
struct FamilyTable {
  FamilyTable(const PolicyTableOptions& o, IpFamily f, NetlinkSocket& s) : options(o), family(f), socket(s) {}

  const PolicyTableOptions& options;
  const IpFamily family;
  NetlinkSocket& socket;
  enum class Kernel { kUnknown, kNone, kInstalled } kernel = Kernel::kUnknown;

  Subjects subjects;
  std::map<IpAddress, PolicyPeer> peers;
  Vocabulary vocabulary;
  std::map<uint32_t, size_t> uses;  // of identities
  uint32_t lastNumber = numberIn(randomBytes(sizeof lastNumber)) >> 1;
  Elements installed;
  size_t lastChanges = 0;
  bool begun = false;

  Result<> apply(Subjects subjects, const Peers& changed);
  template <class T>
  void renumber(Numbers<T>& numbers, const std::vector<T>& now);
  bool setPeers(const Peers& changed);
  bool dropPeer(const IpAddress& address);
  Result<> cut(const Subjects& next);
  void setSubjects(Subjects now);
  Elements wanted() const;
  std::pair<std::string, NftBatch::Element> podElement(const IpAddress& address) const;

  Result<> commit(BySet removals, BySet additions);
  void changePods(const Peers& changed, BySet& removals, BySet& additions);
  void compare(const Elements& wanted, BySet& removals, BySet& additions) const;
  Result<> change(const Peers& changed);
  Result<> install(bool anew, bool fresh);
  Result<> adoptNumbers();
  Result<> replace();
  Result<> remove();
};

// Gives numbers to what is new and forgets what is gone.
template <class T>
void FamilyTable::renumber(Numbers<T>& numbers, const std::vector<T>& now) {
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
bool FamilyTable::dropPeer(const IpAddress& address) {
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
bool FamilyTable::setPeers(const Peers& changed) {
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

using Rules = std::vector<const std::vector<PolicyRule>*>;

void collectRules(const Subjects& subjects, Rules& out) {
  for (const auto& [address, subject] : subjects) {
    for (const auto* rules : {&subject.ingress, &subject.egress}) {
      if (*rules) out.push_back(&**rules);
    }
  }
}

void FamilyTable::setSubjects(Subjects now) {
  subjects = std::move(now);
  Rules rules;
  collectRules(subjects, rules);
  std::vector<std::vector<PolicyRule>> classes;
  for (const auto* one : rules) classes.push_back(*one);
  renumber(vocabulary.classes, classes);
}

// The kernel's interval sets change a moment after the others, so that a packet may meet a new class and an old piece.
// Therefore addresses and ports are cut first as the rules of now and those to come need it, which changes nothing for
// anybody: pieces and ranges that the kernel may still have for a moment may do what they may, too, and until change()
// takes that away.
Result<> FamilyTable::cut(const Subjects& next) {
  Rules rules;
  collectRules(subjects, rules);
  collectRules(next, rules);
  auto pieces = piecesOf(rules);
  std::erase_if(pieces, [&](const Piece& piece) { return !piece.first.is(family); });
  const auto formerPieces = vocabulary.pieces;
  const auto formerRanges = vocabulary.ranges;
  renumber(vocabulary.pieces, pieces);
  renumber(vocabulary.ranges, rangesOf(rules));
  const bool same = formerPieces == vocabulary.pieces && formerRanges == vocabulary.ranges;
  if (same || kernel != Kernel::kInstalled) return {};
  Elements elements = wanted();
  Vocabulary both = vocabulary;
  both.pieces.insert(formerPieces.begin(), formerPieces.end());
  both.ranges.insert(formerRanges.begin(), formerRanges.end());
  addAllowed(both, elements);
  BySet removals, additions;
  compare(elements, removals, additions);
  return commit(std::move(removals), std::move(additions));
}

std::pair<std::string, NftBatch::Element> FamilyTable::podElement(const IpAddress& address) const {
  const std::string key = NftKey().address(address);
  const std::string data = NftKey().number(vocabulary.identities.at(peers.at(address)));
  return {key, {.key = key, .keyEnd = "", .data = data, .verdict = ""}};
}

// All but the pods' identities.
Elements FamilyTable::wanted() const {
  Elements out;
  for (const auto& [address, subject] : subjects) {
    if (!subject.isolated()) continue;
    auto direction = [&](const char* set, const std::optional<std::vector<PolicyRule>>& rules) {
      if (rules) addElement(out, set, NftKey().address(address), NftKey().number(vocabulary.classes.at(*rules)));
    };
    direction(kIngress, subject.ingress);
    direction(kEgress, subject.egress);
    addElement(out, kSelf, NftKey().address(address).address(address));
  }
  for (const auto& [piece, number] : vocabulary.pieces) {
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

Result<> FamilyTable::commit(BySet removals, BySet additions) {
  NftBatch batch(options.table, family);
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
void FamilyTable::changePods(const Peers& changed, BySet& removals, BySet& additions) {
  for (const auto& [address, peer] : changed) {
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

// What is to be added, and what is to be removed but allowances.
void FamilyTable::compare(const Elements& wanted, BySet& removals, BySet& additions) const {
  for (const auto& [set, elements] : installed) {
    if (set == kPods || ofAllowed(set)) continue;
    for (const auto& [key, element] : elements) {
      if (!holds(wanted, set, element)) removals[set].push_back(element);
    }
  }
  for (const auto& [set, elements] : wanted) {
    for (const auto& [key, element] : elements) {
      if (!holds(installed, set, element)) additions[set].push_back(element);
    }
  }
}

// Classes and identities change in one batch, so that rules and peers are of one time (see buildJudgement() for a
// packet that meets it). Allowances go in a batch of their own, when nothing leads to them any more.
Result<> FamilyTable::change(const Peers& changed) {
  BySet removals, additions, obsolete;
  const Elements now = wanted();
  compare(now, removals, additions);
  changePods(changed, removals, additions);
  RETURN_IF_ERROR(commit(std::move(removals), std::move(additions)));
  for (const char* set : {kAllowed, kAllowedPorts}) {
    for (const auto& [key, element] : installed[set]) {
      if (!holds(now, set, element)) obsolete[set].push_back(element);
    }
  }
  return commit(std::move(obsolete), {});
}

// Everything in one batch. A table of the same build is emptied and filled, so that its hooks, and with them the pods'
// isolation, stay; `anew`: whatever is there goes. `fresh`: none is there, and nobody gets a class before the interval
// sets are filled.
Result<> FamilyTable::install(bool anew, bool fresh) {
  Elements all = wanted();
  if (fresh) {
    all.erase(kIngress);
    all.erase(kEgress);
  }
  for (const auto& [address, peer] : peers) all[kPods].insert(podElement(address));
  NftBatch batch(options.table, family);
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
  return fresh ? change({}) : Result<>();
}

// Pieces and ranges keep the numbers that a former process gave them, so that the moment in which the kernel still has
// its interval sets is none.
Result<> FamilyTable::adoptNumbers() {
  ASSIGN_OR_RETURN(const bool there, nftTableExists(socket, options.table, family));
  if (!there) {
    kernel = Kernel::kNone;
    return {};
  }
  constexpr size_t kField = 4;
  ASSIGN_OR_RETURN(auto blocks, nftListElements(socket, options.table, kBlocks, family));
  ASSIGN_OR_RETURN(auto ranges, nftListElements(socket, options.table, kRanges, family));
  for (const auto& e : blocks) {
    if (e.key.size() <= kField || e.keyEnd.size() != e.key.size()) continue;
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

Result<> FamilyTable::replace() {
  const bool fresh = kernel == Kernel::kNone;
  kernel = Kernel::kUnknown;
  auto done = install(false, fresh);
  if (done.ok()) return done;
  log::info("network", "policies: {}; the table is made anew", done.error().message());
  return install(true, false);
}

Result<> FamilyTable::remove() {
  if (kernel == Kernel::kNone) return {};
  NftBatch batch(options.table, family);
  batch.addTable();
  batch.deleteTable();
  RETURN_IF_ERROR(batch.commit(socket));
  kernel = Kernel::kNone;
  installed.clear();
  return {};
}

Result<> FamilyTable::apply(Subjects wanted, const Peers& changed) {
  lastChanges = 0;
  if (!std::exchange(begun, true)) {
    auto adopted = adoptNumbers();
    if (!adopted.ok()) log::info("network", "policies of a former process: {}", adopted.error().message());
  }
  Result<> done;
  const bool installed = kernel == Kernel::kInstalled, rules = wanted != subjects;
  if (rules) {
    done = cut(wanted);
    setSubjects(std::move(wanted));
  }
  const bool kinds = setPeers(changed);
  if (installed && done.ok() && (rules || kinds)) {
    done = change(changed);
  } else if (installed && done.ok()) {
    BySet removals, additions;
    changePods(changed, removals, additions);
    done = commit(std::move(removals), std::move(additions));
  }
  if (!done.ok()) log::warn("network", "policies are installed anew: {}", done.error().message());
  const bool isolated =
      std::any_of(subjects.begin(), subjects.end(), [](const auto& entry) { return entry.second.isolated(); });
  if (!isolated) {
    done = remove();
  } else if (!done.ok() || !installed) {
    done = replace();
  }
  if (!done.ok()) return std::move(done).error().wrap("install network policies");
  return {};
}

}  // namespace

struct PolicyTable::Rep {
  mutable std::mutex mutex;
  PolicyTableOptions options;
  NetlinkSocket socket;
  std::vector<std::unique_ptr<FamilyTable>> tables;
};

PolicyTable::PolicyTable(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
PolicyTable::~PolicyTable() = default;

Result<std::unique_ptr<PolicyTable>> PolicyTable::open(PolicyTableOptions options) {
  auto rep = std::make_unique<Rep>();
  rep->options = std::move(options);
  ASSIGN_OR_RETURN(rep->socket, NetlinkSocket::open(NETLINK_NETFILTER));
  rep->tables.push_back(std::make_unique<FamilyTable>(rep->options, IpFamily::kV4, rep->socket));
  if (rep->options.ipv6) rep->tables.push_back(std::make_unique<FamilyTable>(rep->options, IpFamily::kV6, rep->socket));
  return std::unique_ptr<PolicyTable>(new PolicyTable(std::move(rep)));
}

Result<> PolicyTable::apply(Subjects subjects, const Peers& changed) {
  std::lock_guard lock(rep_->mutex);
  // All are tried: what is wrong with one family does not open the other.
  Result<> out;
  for (auto& table : rep_->tables) {
    Subjects own;
    Peers peers;
    for (auto it = subjects.begin(); it != subjects.end();) {
      auto next = std::next(it);
      if (it->first.is(table->family)) own.insert(subjects.extract(it));
      it = next;
    }
    for (const auto& entry : changed) {
      if (entry.first.is(table->family)) peers.insert(entry);
    }
    auto done = table->apply(std::move(own), peers);
    if (out.ok()) out = std::move(done);
  }
  return out;
}

PolicyTable::Stats PolicyTable::stats() const {
  std::lock_guard lock(rep_->mutex);
  Stats out;
  for (const auto& table : rep_->tables) {
    out.classes += table->vocabulary.classes.size();
    out.identities += table->vocabulary.identities.size();
    out.lastChanges += table->lastChanges;
    for (const auto& [set, elements] : table->installed) out.elements += elements.size();
  }
  return out;
}

}  // namespace dhow
