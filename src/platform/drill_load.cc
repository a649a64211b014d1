#include "drill_load.h"

#include <fmt/format.h>

#include <map>

#include "client/fields.h"
#include "http/client.h"
#include "object/kinds.h"

namespace dhow::platform {

namespace json = boost::json;
using namespace std::chrono_literals;
namespace kinds = object::resources;

namespace {

constexpr Duration kRequestEvery = 25ms;
constexpr Duration kRequestLimit = 2s;
constexpr Duration kWarmPause = 50ms;
constexpr Duration kWritePause = 50ms;
constexpr size_t kAnswerLimit = 64 << 10;

std::string nameOf(int number) {
  return fmt::format("write-{}", number);
}

}  // namespace

Task<> Load::stop() {
  stopping_ = true;
  stopped_.notify();
  co_await gate_.close();
}

Task<Result<>> RequestLoad::ask(Loop& loop, std::string url) {
  http::Client::Options options;
  options.connectTimeout = kRequestLimit;
  http::Client http(loop, std::move(options));
  bool late = false;
  Timer limit = loop.after(kRequestLimit, [&] {
    late = true;
    http.close();
  });
  http::Request request;
  request.headers.set("Connection", "close");
  auto answer = co_await http.fetch(url, std::move(request), kAnswerLimit);
  limit.cancel();
  http.close();
  if (late) co_return Error(Code::kDeadlineExceeded, fmt::format("no answer within {} s", kRequestLimit / 1s));
  if (!answer.ok()) co_return std::move(answer).error();
  if (answer->status != 200) co_return Error(Code::kUnavailable, fmt::format("status {}", answer->status));
  co_return Result<>();
}

Task<Result<>> RequestLoad::warmUp(size_t count, Duration limit) {
  const TimePoint end = loop_.now() + limit;
  for (size_t good = 0; good < count;) {
    auto done = co_await ask(loop_, url_);
    good = done.ok() ? good + 1 : 0;
    if (good > 0) continue;
    if (loop_.now() >= end || stopping_) co_return std::move(done).error().wrap("reach " + url_);
    co_await stopped_.waitFor(kWarmPause);
  }
  co_return Result<>();
}

Task<> RequestLoad::run() {
  TimePoint due = loop_.now();
  while (!stopping_) {
    gate_.spawn(one(this, loop_.now()));
    // Whatever this process could not send in time is not sent in a burst.
    due = std::max(due + kRequestEvery, loop_.now());
    co_await stopped_.waitFor(due - loop_.now());
  }
}

Task<> RequestLoad::one(RequestLoad* self, TimePoint sent) {
  ++self->sent_;
  auto done = co_await ask(self->loop_, self->url_);
  if (!done.ok()) self->lost_.push_back({sent, done.error().message()});
}

Task<> WriteLoad::run() {
  last_ = loop_.now();
  for (int number = 0; !stopping_; ++number) {
    const TimePoint sent = loop_.now();
    json::object body{{"metadata", {{"name", nameOf(number)}, {"namespace", ns_}}},
                      {"data", {{"counter", std::to_string(number)}}}};
    auto written = co_await api_.create(kinds::kConfigMaps, ns_, std::move(body));
    if (written.ok()) {
      const TimePoint now = loop_.now();
      longestPause_ = std::max(longestPause_, now - last_);
      last_ = now;
      acknowledged_.push_back(number);
      if (onAcknowledged) onAcknowledged(sent);
    } else {
      failed_.push_back({sent, written.error().message()});
    }
    if (!stopping_) co_await stopped_.waitFor(kWritePause);
  }
}

Task<Result<std::vector<std::string>>> WriteLoad::missing() {
  client::ListOptions select;
  select.ns = ns_;
  auto listed = co_await api_.list(kinds::kConfigMaps, std::move(select));
  CO_RETURN_IF_ERROR(listed);
  std::map<std::string, std::string, std::less<>> there;
  for (const auto& item : listed->items) there.emplace(item->name(), client::text(item->root(), {"data", "counter"}));
  std::vector<std::string> out;
  for (int number : acknowledged_) {
    auto found = there.find(nameOf(number));
    if (found == there.end() || found->second != std::to_string(number)) out.push_back(nameOf(number));
  }
  co_return out;
}

}  // namespace dhow::platform
