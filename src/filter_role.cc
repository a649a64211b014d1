// What HAProxy asks about requests: a process of its own, so that it outlives the node's agent.
#include <unistd.h>

#include <boost/asio/signal_set.hpp>
#include <boost/json/parse.hpp>

#include <csignal>
#include <thread>

#include "base/blocking.h"
#include "base/files.h"
#include "base/log.h"
#include "ingress/edge_filter.h"
#include "roles.h"

namespace dhow {

namespace {

constexpr Duration kLongestEnd = std::chrono::hours(1);  // as HAProxy's workers that were replaced
constexpr int kReadyFd = 3;

Result<ingress::EdgeFilter::Options> readOptions(const std::string& file) {
  ASSIGN_OR_RETURN(std::string text, readFile(file, 64 << 10));
  boost::system::error_code error;
  const auto value = boost::json::parse(text, error);
  if (error || !value.is_object()) return Error(Code::kInvalid, file + " is no object of JSON");
  ingress::EdgeFilter::Options out;
  for (auto [name, into] : {std::pair("socket", &out.socket), std::pair("rules", &out.rules)}) {
    const auto* found = value.get_object().if_contains(name);
    if (found == nullptr || !found->is_string()) return Error(Code::kInvalid, fmt::format("{} has no {}", file, name));
    *into = found->get_string();
  }
  return out;
}

Task<> end(RealLoop* loop, ingress::EdgeFilter* filter) {
  co_await filter->stop();
  loop->stop();
}

}  // namespace

int runEdgeFilter(const std::string& configFile) {
  log::configure(log::Level::kInfo, "");
  auto fail = [](const Error& error) {
    log::error("ingress", "{}", error.message());
    return 1;
  };
  auto options = readOptions(configFile);
  if (!options.ok()) return fail(options.error());
  RealLoop loop;
  BlockingPool threads(std::max(2U, std::thread::hardware_concurrency()));
  ingress::EdgeFilter filter(loop, threads, std::move(*options));
  if (auto opened = filter.open(); !opened.ok()) return fail(opened.error());
  filter.start();
  [[maybe_unused]] const ssize_t told = ::write(kReadyFd, "1", 1);
  ::close(kReadyFd);
  boost::asio::signal_set signals(loop.executor(), SIGTERM, SIGINT);
  Timer late;
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (error) return;
    spawn(loop, end(&loop, &filter));
    late = loop.after(kLongestEnd, [&loop] { loop.stop(); });
  });
  loop.run();
  return 0;
}

}  // namespace dhow
