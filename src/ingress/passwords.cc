#include "passwords.h"

#include "base/digest.h"
#include "base/strings.h"
#include "password_hash.h"

namespace dhow::ingress {

namespace {

constexpr size_t kThreads = 2;
constexpr size_t kMostRemembered = 10'000;
constexpr size_t kMostWaiting = 64;  // for one list
constexpr size_t kSecretSize = 32;
constexpr std::string_view kScheme = "basic ";

}  // namespace

std::optional<std::string> basicCredentials(std::string_view authorization) {
  if (toLower(authorization.substr(0, kScheme.size())) != kScheme) return std::nullopt;
  auto out = fromBase64(trim(authorization.substr(kScheme.size())));
  if (!out || out->find(':') == std::string::npos) return std::nullopt;
  return out;
}

std::string_view hashOf(std::string_view list, std::string_view user) {
  while (!list.empty()) {
    const std::string_view line = list.substr(0, list.find('\n'));
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && line.substr(0, colon) == user) return line.substr(colon + 1);
    list.remove_prefix(std::min(list.size(), line.size() + 1));
  }
  return {};
}

Passwords::Passwords(Loop& loop, Read read)
    : loop_(loop), read_(std::move(read)), secret_(randomBytes(kSecretSize)), pool_(kThreads) {}

Result<bool> Passwords::compute(const std::string& list, const std::string& credentials) const {
  ASSIGN_OR_RETURN(const std::string text, read_(list));
  const size_t colon = credentials.find(':');
  const std::string_view hash = hashOf(text, std::string_view(credentials).substr(0, colon));
  return !hash.empty() && passwordMatches(std::string_view(credentials).substr(colon + 1), hash);
}

void Passwords::remember(const std::string& key) {
  if (!right_.insert(key).second) return;
  order_.push_back(key);
  if (order_.size() <= kMostRemembered) return;
  right_.erase(order_.front());
  order_.pop_front();
}

Task<Result<bool>> Passwords::check(std::string list, std::string authorization) {
  const auto credentials = basicCredentials(authorization);
  if (!credentials) co_return false;
  const std::string key = sha256Hex(fmt::format("{}{}\n{}", secret_, list, *credentials));
  if (right_.contains(key)) co_return true;
  std::shared_ptr<Turn>& there = turns_[list];
  if (!there) there = std::make_shared<Turn>(loop_);
  const std::shared_ptr<Turn> turn = there;
  if (turn->wanted >= kMostWaiting) co_return Error(Code::kUnavailable, "too many passwords are being checked");
  ++turn->wanted;
  while (turn->taken) co_await turn->freed.wait();
  // Whoever had the turn may have shown the same.
  Result<bool> out(right_.contains(key));
  if (!*out) {
    turn->taken = true;
    ++computed_;
    out = co_await pool_.run(loop_, [&] { return compute(list, *credentials); });
    turn->taken = false;
    if (out.ok() && *out) remember(key);
  }
  if (--turn->wanted == 0)
    turns_.erase(list);
  else
    turn->freed.notify();
  co_return out;
}

}  // namespace dhow::ingress
