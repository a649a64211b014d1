#include "network/ipam.h"

#include <fcntl.h>
#include <unistd.h>

#include <deque>
#include <mutex>

#include "base/fd.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"

namespace dhow {

namespace {

// Of an IPv6 range: so an address that was released is used again one day, and what is kept of them is bounded.
constexpr uint64_t kMostOfIpv6 = uint64_t{1} << 16;

// How far `address` is behind `base`, both of one family; the last 64 bits of it.
uint64_t offsetOf(const IpAddress& address, const IpAddress& base) {
  auto low = [](const IpAddress& of) {
    uint64_t out = 0;
    for (const char byte : of.bytes()) out = out << 8 | static_cast<uint8_t>(byte);
    return out;
  };
  return low(address) - low(base);
}

}  // namespace

struct Ipam::Rep {
  mutable std::mutex mutex;
  Options options;
  uint64_t first = 0, count = 0;  // offsets in the range that may be handed out
  uint64_t next = 0;              // never used before, from here on
  std::deque<uint64_t> released;  // oldest first
  std::map<IpAddress, std::string> owners;
  UniqueFd journal;
  size_t lines = 0;
  bool torn = false;

  IpAddress at(uint64_t offset) const { return options.range.network().plus(offset); }
  bool reserved(const IpAddress& address) const {
    return std::find(options.reserved.begin(), options.reserved.end(), address) != options.reserved.end();
  }
  void assign(const std::string& owner, const IpAddress& address) {
    owners[address] = owner;
    log(fmt::format("+ {} {}\n", address.str(), owner));
  }
  void freeOne(std::map<IpAddress, std::string>::iterator it) {
    log(fmt::format("- {}\n", it->first.str()));
    const uint64_t offset = offsetOf(it->first, options.range.network());
    if (offset < next) released.push_back(offset);
    owners.erase(it);
  }
  // A write of the page cache is enough: the assignments have to outlive this process, not the kernel.
  void log(const std::string& line) {
    if (!journal) return;
    // What a full disk cut short must not swallow the line after it.
    const std::string text = torn ? "\n" + line : line;
    auto written = ::write(journal.get(), text.data(), text.size());
    if (written > 0) torn = written < static_cast<ssize_t>(text.size());
    if (written != static_cast<ssize_t>(text.size())) {
      log::warn("network", "cannot write address journal {}: {}", options.journal, Error::fromErrno("write").message());
    }
    if (++lines > 1000 && lines > 4 * owners.size()) {
      if (auto done = compact(); !done.ok()) log::warn("network", "address journal: {}", done.error().message());
    }
  }
  Result<> compact() {
    std::string content;
    for (auto& [address, owner] : owners) content += fmt::format("+ {} {}\n", address.str(), owner);
    RETURN_IF_ERROR(writeFile(options.journal, content, 0600));
    lines = owners.size();
    journal.reset(::open(options.journal.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
    if (!journal) return Error::fromErrno("open " + options.journal);
    return {};
  }
  Result<> load() {
    if (options.journal.empty()) return {};
    bool known = pathExists(options.journal);
    if (known) {
      ASSIGN_OR_RETURN(auto content, readFile(options.journal));
      for (auto& line : split(content, '\n')) {
        auto words = split(line, ' ');
        if (words.size() < 2) continue;
        auto address = IpAddress::parse(words[1]);
        if (!address.ok() || !options.range.contains(*address)) continue;
        if (words[0] == "-") owners.erase(*address);
        if (words[0] == "+" && words.size() == 3) owners[*address] = words[2];
      }
    }
    auto done = compact();
    if (done.ok() || !known) return done;
    // A full disk: what is known stays known, and is written anew some other time.
    log::warn("network", "address journal: {}", done.error().message());
    journal.reset(::open(options.journal.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
    if (!journal) return Error::fromErrno("open " + options.journal);
    torn = true;
    return {};
  }
};

Ipam::Ipam(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Ipam::~Ipam() = default;

Result<std::unique_ptr<Ipam>> Ipam::open(Options options) {
  auto rep = std::make_unique<Rep>();
  if (options.range.address.empty()) return Error(Code::kInvalid, "no address range");
  if (options.within.address.empty()) options.within = options.range;
  if (options.within.length < options.range.length || !options.range.contains(options.within.address)) {
    return Error(Code::kInvalid, fmt::format("{} is not inside {}", options.within.str(), options.range.str()));
  }
  rep->options = std::move(options);
  auto& o = rep->options;
  rep->first = offsetOf(o.within.network(), o.range.network());
  rep->count = o.within.hostCount();
  if (o.range.address.bits() - o.range.length >= 2) {
    if (rep->first == 0) rep->first++, rep->count--;
    if (rep->first + rep->count == o.range.hostCount()) rep->count--;
  }
  if (o.range.address.isV6()) rep->count = std::min(rep->count, kMostOfIpv6);
  rep->next = rep->first;
  RETURN_IF_ERROR(rep->load());
  return std::unique_ptr<Ipam>(new Ipam(std::move(rep)));
}

namespace {
Result<> checkOwner(const std::string& owner) {
  if (owner.empty() || owner.find_first_of(" \n") != std::string::npos) {
    return Error(Code::kInvalid, "invalid owner of an address \"" + owner + "\"");
  }
  return {};
}
}  // namespace

Result<IpAddress> Ipam::allocate(const std::string& owner) {
  RETURN_IF_ERROR(checkOwner(owner));
  std::lock_guard lock(rep_->mutex);
  while (rep_->next < rep_->first + rep_->count) {
    auto address = rep_->at(rep_->next++);
    if (rep_->reserved(address) || rep_->owners.count(address) > 0) continue;
    rep_->assign(owner, address);
    return address;
  }
  while (!rep_->released.empty()) {
    auto address = rep_->at(rep_->released.front());
    rep_->released.pop_front();
    if (rep_->owners.count(address) > 0 || rep_->reserved(address)) continue;
    rep_->assign(owner, address);
    return address;
  }
  return Error(Code::kUnavailable, fmt::format("no free address in {}", rep_->options.within.str()));
}

Result<> Ipam::take(const std::string& owner, const IpAddress& address) {
  RETURN_IF_ERROR(checkOwner(owner));
  std::lock_guard lock(rep_->mutex);
  if (!rep_->options.range.contains(address)) {
    return Error(Code::kInvalid, fmt::format("{} is not in {}", address.str(), rep_->options.range.str()));
  }
  if (rep_->reserved(address)) return Error(Code::kConflict, fmt::format("address {} is reserved", address.str()));
  auto it = rep_->owners.find(address);
  if (it != rep_->owners.end()) {
    if (it->second == owner) return {};
    return Error(Code::kConflict, fmt::format("address {} is already in use", address.str()));
  }
  rep_->assign(owner, address);
  return {};
}

void Ipam::rename(const std::string& from, const std::string& to) {
  std::lock_guard lock(rep_->mutex);
  for (auto& [address, owner] : rep_->owners) {
    if (owner == from) rep_->assign(to, address);
  }
}

void Ipam::release(const std::string& owner) {
  std::lock_guard lock(rep_->mutex);
  for (auto it = rep_->owners.begin(); it != rep_->owners.end();) {
    auto next = std::next(it);
    if (it->second == owner) rep_->freeOne(it);
    it = next;
  }
}

void Ipam::releaseAddress(const IpAddress& address) {
  std::lock_guard lock(rep_->mutex);
  auto it = rep_->owners.find(address);
  if (it != rep_->owners.end()) rep_->freeOne(it);
}

std::vector<IpAddress> Ipam::of(const std::string& owner) const {
  std::lock_guard lock(rep_->mutex);
  std::vector<IpAddress> out;
  for (auto& [address, name] : rep_->owners) {
    if (name == owner) out.push_back(address);
  }
  return out;
}

std::vector<std::string> Ipam::owners() const {
  std::lock_guard lock(rep_->mutex);
  std::set<std::string> out;
  for (auto& [address, owner] : rep_->owners) out.insert(owner);
  return {out.begin(), out.end()};
}

size_t Ipam::used() const {
  std::lock_guard lock(rep_->mutex);
  return rep_->owners.size();
}

uint64_t Ipam::capacity() const {
  std::lock_guard lock(rep_->mutex);
  uint64_t out = rep_->count;
  for (auto& address : rep_->options.reserved) {
    if (!rep_->options.within.contains(address) || !address.isV4()) continue;
    uint64_t offset = address.v4Value() - rep_->options.range.network().v4Value();
    if (offset >= rep_->first && offset < rep_->first + rep_->count) out--;
  }
  return out;
}

}  // namespace dhow
