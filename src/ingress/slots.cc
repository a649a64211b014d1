#include "slots.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string_view>
#include <utility>

#include "base/strings.h"
#include "render.h"

namespace dhow::ingress {

namespace {

Result<> changeOne(const std::string& server, const std::optional<Server>& before, const std::optional<Server>& after,
                   const Say& say) {
  if (!after) return say(server + "state maint", "");
  if (!before || before->address != after->address || before->port != after->port) {
    // Nothing may be sent to the new address before it is there.
    RETURN_IF_ERROR(say(server + "state maint", ""));
    RETURN_IF_ERROR(say(fmt::format("{}addr {} port {}", server, after->address, after->port), "changed|no need"));
  }
  RETURN_IF_ERROR(say(server + "state " + stateOf(*after), ""));
  // The weight of one that drained when the file was read is 0.
  return after->state == Server::State::kLeaving ? Result<>() : say(server + "weight 1", "");
}

enum class Use { kAll, kKnown, kNone };

// Whose requests a server gets.
Use useOf(const std::optional<Server>& server) {
  if (!server || server->state == Server::State::kLeaving) return Use::kNone;
  return server->state == Server::State::kDraining ? Use::kKnown : Use::kAll;
}

}  // namespace

bool place(const std::vector<Server>& servers, Slots& slots) {
  const Slots before = slots;
  std::vector<const Server*> fresh;
  std::vector<bool> kept(slots.size(), false);
  for (const Server& server : servers) {
    bool found = false;
    for (size_t i = 0; i < slots.size() && !found; ++i) {
      if (!slots[i] || slots[i]->address != server.address || slots[i]->port != server.port) continue;
      slots[i] = server;
      kept[i] = found = true;
    }
    if (!found) fresh.push_back(&server);
  }
  for (size_t i = 0; i < slots.size(); ++i)
    if (!kept[i]) slots[i].reset();
  auto next = fresh.begin();
  for (bool freed : {false, true})
    for (size_t i = 0; i < slots.size() && next != fresh.end(); ++i)
      if (!slots[i] && before[i].has_value() == freed) slots[i] = **next++;
  return next == fresh.end();
}

Slots placedAsFits(const std::vector<Server>& servers, const Slots& slots) {
  Slots out = slots;
  if (place(servers, out)) return out;
  std::vector<Server> ready;
  std::copy_if(servers.begin(), servers.end(), std::back_inserter(ready),
               [](const Server& s) { return s.state != Server::State::kLeaving; });
  out = slots;
  (void)place(ready, out);
  return out;
}

std::vector<Server> goneServers(const std::map<std::string, Slots>& before,
                                const std::map<std::string, Slots>& changed) {
  std::vector<Server> out;
  std::set<std::pair<std::string_view, uint16_t>> gone;
  for (const auto& [name, after] : changed)
    for (const auto& was : before.at(name)) {
      // One that was ready may have left the service alone, and answers what it has been asked.
      if (!was || was->state == Server::State::kReady) continue;
      if (std::none_of(after.begin(), after.end(),
                       [&](const auto& is) { return is && is->address == was->address && is->port == was->port; }) &&
          gone.emplace(was->address, was->port).second)
        out.push_back(*was);
    }
  if (gone.empty()) return out;
  // Another section may have it still, or a pod that came to the same address.
  for (const auto& [name, slots] : before) {
    auto found = changed.find(name);
    for (const auto& server : found == changed.end() ? slots : found->second)
      if (server) gone.erase({server->address, server->port});
  }
  std::erase_if(out, [&](const Server& server) { return !gone.contains({server.address, server.port}); });
  return out;
}

Result<> changeSlots(const std::string& backend, const Slots& before, const Slots& after, const Say& say) {
  // Whoever takes requests does so before others stop to.
  for (Use use : {Use::kAll, Use::kKnown, Use::kNone})
    for (size_t i = 0; i < before.size(); ++i)
      if (before[i] != after[i] && useOf(after[i]) == use)
        RETURN_IF_ERROR(changeOne(fmt::format("set server {}/s{} ", backend, i), before[i], after[i], say));
  return {};
}

}  // namespace dhow::ingress
