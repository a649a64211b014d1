#include "node_ipam.h"

#include "base/strings.h"
#include "client/fields.h"
#include "ipv4.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kNodes;

namespace {

constexpr uint64_t kNodeBits6 = 64;

// Its network's address and length.
std::optional<std::pair<object::AddressNumber, uint64_t>> parseRange6(std::string_view text) {
  auto parts = splitOnce(text, '/');
  auto range = object::AddressRange::parse(text);
  if (!parts || !range || parts->first.find(':') == std::string_view::npos) return std::nullopt;
  const auto length = parseUint(parts->second);
  if (!length || *length < 1 || *length > kNodeBits6) return std::nullopt;
  return std::pair(range->first, *length);
}

std::string range6(object::AddressNumber base, uint32_t index) {
  for (size_t i = kNodeBits6 / 8; i-- > 0 && index > 0; index >>= 8) {
    index += base[i];
    base[i] = static_cast<uint8_t>(index);
  }
  return fmt::format("{}/{}", object::addressText(base), kNodeBits6);
}

}  // namespace

bool NodeIpamController::isRange6(std::string_view text) {
  return parseRange6(text).has_value();
}

NodeIpamController::NodeIpamController(Context context, Options options)
    : context_(context),
      nodeBits_(options.nodeBits),
      nodes_(context.caches.of(kNodes)),
      controller_(context.loop, {.name = "nodeipam", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  auto range = Ipv4Range::parse(options.clusterRange);
  CHECK(range && range->length <= nodeBits_, "{} is no range for nodes of /{}", options.clusterRange, nodeBits_);
  base_ = range->first;
  count_ = 1u << (nodeBits_ - range->length);
  if (auto second = parseRange6(options.clusterRange6)) {
    base6_ = second->first;
    count_ = static_cast<uint32_t>(
        std::min<uint64_t>(count_, uint64_t{1} << std::min<uint64_t>(32, kNodeBits6 - second->second)));
  }
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
    auto range = Ipv4Range::parse(text(other->root(), {"spec", "podCIDR"}));
    if (range) used.insert((range->first - base_) >> (32 - nodeBits_));
  }
  uint32_t index = 0;
  while (index < count_ && used.contains(index)) ++index;
  if (index == count_) co_return Error(Code::kUnavailable, "no pod range is left for node " + key);
  const std::string range = Ipv4Range{base_ + (index << (32 - nodeBits_)), nodeBits_}.str();
  promised_[key] = index;
  json::array ranges{json::value(range)};
  if (base6_) ranges.push_back(json::value(range6(*base6_, index)));
  json::object change{{"spec", json::object{{"podCIDR", range}, {"podCIDRs", std::move(ranges)}}}};
  Result<ObjectPtr> written =
      co_await context_.client.patch(kNodes, "", key, "", PatchType::kMerge, guardedPatch(*node, std::move(change)));
  if (!written.ok()) {
    promised_.erase(key);
    co_return std::move(written).error();
  }
  co_return Result<>();
}

}  // namespace dhow::controllers
