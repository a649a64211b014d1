#include "session_tables.h"

#include "base/strings.h"

namespace dhow::ingress {

namespace {

constexpr size_t kMostUsers = 90'000;  // of a table: near its end HAProxy forgets users itself

// All nodes tell the same user by the same number, whose last bits are as good as the first (FNV-1a, then the end of
// MurmurHash3).
uint64_t hashOf(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
  return hash ^ (hash >> 33);
}

}  // namespace

// "0x55..: key=da10f59e use=0 exp=288277 server_id=1 gpt0=1764500000 server_key=s0"
SessionTables::Table SessionTables::parse(std::string_view answer, int64_t now) {
  Table out;
  for (const std::string& line : split(answer, '\n')) {
    if (!line.starts_with("0x")) continue;
    std::string key;
    User user;
    bool inUse = false;
    for (const std::string& word : split(line, ' ')) {
      auto pair = splitOnce(word, '=');
      if (!pair) continue;
      if (pair->first == "key") key = pair->second;
      if (pair->first == "use") inUse = pair->second != "0";
      if (pair->first == "server_id") user.server = parseInt(pair->second).value_or(0);
      if (pair->first == "gpt0") user.seen = parseInt(pair->second).value_or(0);
    }
    if (inUse && user.seen > 0) user.seen = std::max(user.seen, now);
    // Without a server: its first request is under way, or was answered by HAProxy itself.
    if (!key.empty() && user.server > 0) out[key] = user;
  }
  return out;
}

void SessionTables::addConnections(std::string_view answer,
                                   std::map<std::string, std::map<std::string, uint64_t>>& into) {
  constexpr size_t kCurrent = 4;  // "scur" (management guide, section 9.1)
  for (const std::string& line : split(answer, '\n')) {
    const std::vector<std::string> cells = split(line, ',');
    if (line.starts_with('#') || cells.size() <= kCurrent) continue;
    into[cells[0]][cells[1]] += parseUint(cells[kCurrent]).value_or(0);
  }
}

std::vector<std::string> SessionTables::update(const std::string& table, std::vector<Table> tables, int64_t idle,
                                               int64_t now) {
  Table& known = tables_[table];
  std::erase_if(known, [&](const auto& one) { return one.second.seen + idle <= now; });
  for (size_t i = tables.size(); i-- > 0;) {
    for (auto& [key, user] : tables[i]) {
      // Whoever serves now knows of the end.
      if (i == 0 && user.seen == 0) known[key] = user;
      if (user.seen + idle <= now) continue;
      User& have = known[key];
      if (user.seen >= have.seen) have = user;
    }
  }
  std::vector<std::string> missing;
  for (const auto& [key, user] : known) {
    if (missing.size() + tables[0].size() >= kMostUsers) break;
    if (tables[0].contains(key)) continue;
    missing.push_back(
        fmt::format("set table {} key {} data.server_id {} data.gpt0 {}", table, key, user.server, user.seen));
  }
  return missing;
}

void SessionTables::keepOnly(const std::map<std::string, int64_t>& tables) {
  std::erase_if(tables_, [&](const auto& one) { return !tables.contains(one.first); });
}

void SessionTables::forgetServer(const std::string& table, int64_t server) {
  auto found = tables_.find(table);
  if (found != tables_.end())
    std::erase_if(found->second, [&](const auto& one) { return one.second.server == server; });
}

std::map<int64_t, SessionTables::Users> SessionTables::users(const std::string& table) const {
  std::map<int64_t, Users> out;
  auto found = tables_.find(table);
  if (found == tables_.end()) return out;
  for (const auto& [key, user] : found->second) {
    Users& users = out[user.server];
    (user.seen > 0 ? users.there : users.ended).add(hashOf(key));
  }
  return out;
}

}  // namespace dhow::ingress
