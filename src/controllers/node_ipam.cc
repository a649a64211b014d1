#include "node_ipam.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kNodes;

namespace {

constexpr int kBits = 128, kMapped = 96, kNodeBits6 = 64, kMostNodeBits4 = 30;
constexpr int kMostNodes = 24;  // as a power of two

std::optional<std::pair<object::AddressNumber, int>> parsePrefix(std::string_view text) {
  auto parts = splitOnce(text, '/');
  if (!parts) return std::nullopt;
  auto address = object::parseAddress(parts->first);
  auto length = parseUint(parts->second);
  if (!address || !length) return std::nullopt;
  const int before = parts->first.find(':') == std::string_view::npos ? kMapped : 0;
  if (*length < 1 || *length > static_cast<uint64_t>(kBits - before)) return std::nullopt;
  return std::pair(*address, before + static_cast<int>(*length));
}

bool bitOf(const object::AddressNumber& address, int bit) {
  return (address[static_cast<size_t>(bit / 8)] >> (7 - bit % 8) & 1) != 0;
}
void setBit(object::AddressNumber& address, int bit, bool value) {
  const auto mask = static_cast<uint8_t>(0x80 >> bit % 8);
  auto& byte = address[static_cast<size_t>(bit / 8)];
  byte = static_cast<uint8_t>(value ? byte | mask : byte & ~mask);
}

}  // namespace

std::optional<NodeIpamController::Range> NodeIpamController::Range::parse(std::string_view text, int nodeBits) {
  auto prefix = parsePrefix(text);
  if (!prefix) return std::nullopt;
  Range out{prefix->first, prefix->second, 0};
  for (int bit = out.length; bit < kBits; ++bit) setBit(out.base, bit, false);
  out.nodeLength = out.v4() ? kMapped + nodeBits : kNodeBits6;
  if (out.v4() && nodeBits > kMostNodeBits4) return std::nullopt;
  return out.length <= out.nodeLength ? std::optional(out) : std::nullopt;
}

bool NodeIpamController::Range::v4() const {
  return object::addressText(base).find(':') == std::string::npos;
}

std::string NodeIpamController::Range::ofNode(uint32_t index) const {
  object::AddressNumber out = base;
  for (int bit = nodeLength; bit-- > length && index > 0; index >>= 1) setBit(out, bit, (index & 1) != 0);
  return fmt::format("{}/{}", object::addressText(out), v4() ? nodeLength - kMapped : nodeLength);
}

std::optional<uint32_t> NodeIpamController::Range::indexOf(std::string_view nodeRange) const {
  auto prefix = parsePrefix(nodeRange);
  if (!prefix) return std::nullopt;
  for (int bit = 0; bit < length; ++bit) {
    if (bitOf(prefix->first, bit) != bitOf(base, bit)) return std::nullopt;
  }
  uint32_t index = 0;
  for (int bit = length; bit < nodeLength; ++bit) index = index << 1 | (bitOf(prefix->first, bit) ? 1 : 0);
  return index;
}

Result<> NodeIpamController::check(const Options& options) {
  std::optional<bool> v4;
  for (const std::string& text : options.clusterRanges) {
    const auto range = Range::parse(text, options.nodeBits);
    const bool six = text.find(':') != std::string::npos;
    if (!range)
      return Error(Code::kInvalid, fmt::format("the cluster's pod range \"{}\" holds no node's /{}", text,
                                               six ? kNodeBits6 : options.nodeBits));
    if (v4 == !six)
      return Error(Code::kInvalid, fmt::format("the cluster's pod range \"{}\" is the second one of its family", text));
    v4 = !six;
  }
  return {};
}

NodeIpamController::NodeIpamController(Context context, const Options& options)
    : context_(context),
      nodes_(context.caches.of(kNodes)),
      controller_(context.loop, {.name = "nodeipam", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  int bits = kMostNodes;
  for (const std::string& text : options.clusterRanges) {
    auto range = Range::parse(text, options.nodeBits);
    CHECK(range, "{} is no range for nodes", text);
    bits = std::min(bits, range->nodeLength - range->length);
    ranges_.push_back(*range);
  }
  count_ = ranges_.empty() ? 0 : 1u << bits;
  controller_.watchOwn(nodes_);
}

Task<Result<>> NodeIpamController::reconcile(std::string key) {
  ObjectPtr node = nodes_.get("", key);
  if (!node || node->deleting() || !text(node->root(), {"spec", "podCIDR"}).empty()) co_return Result<>();
  std::erase_if(promised_, [&](const auto& entry) {
    ObjectPtr cached = nodes_.get("", entry.first);
    return !cached || !text(cached->root(), {"spec", "podCIDR"}).empty();
  });
  std::set<uint32_t> used;
  for (const auto& [name, index] : promised_) used.insert(index);
  for (const ObjectPtr& other : nodes_.list()) {
    if (auto index = ranges_.front().indexOf(text(other->root(), {"spec", "podCIDR"}))) used.insert(*index);
  }
  uint32_t index = 0;
  while (index < count_ && used.contains(index)) ++index;
  if (index == count_) co_return Error(Code::kUnavailable, "no pod range is left for node " + key);
  promised_[key] = index;
  json::array ranges;
  for (const Range& range : ranges_) ranges.push_back(json::value(range.ofNode(index)));
  const json::value first = ranges.front();
  json::object change{{"spec", json::object{{"podCIDR", first}, {"podCIDRs", std::move(ranges)}}}};
  Result<ObjectPtr> written =
      co_await context_.client.patch(kNodes, "", key, "", PatchType::kMerge, guardedPatch(*node, std::move(change)));
  if (!written.ok()) {
    promised_.erase(key);
    co_return std::move(written).error();
  }
  co_return Result<>();
}

}  // namespace dhow::controllers
