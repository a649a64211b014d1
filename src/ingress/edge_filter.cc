#include "ingress/edge_filter.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/serialize.hpp>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "base/files.h"
#include "base/gate.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "error_backend.h"
#include "filter_lines.h"
#include "filter_session.h"
#include "mirror.h"
#include "passwords.h"
#include "waf.h"

namespace dhow::ingress {

namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr size_t kMostConnections = 1000;
constexpr size_t kLongestFile = 1 << 20;
constexpr size_t kMostFiles = 64;     // texts that are kept
constexpr size_t kLongestPart = 256;  // of what a finding tells
constexpr size_t kMostTold = 8;       // matches of a finding
constexpr size_t kMostInVariable = 16;

// What a finding may hold of what a client sent.
std::string printable(std::string_view text) {
  std::string out(text.substr(0, kLongestPart));
  for (char& c : out)
    if (c < 0x20 || c > 0x7e) c = '?';
  return out;
}

std::string_view textOf(const spop::Message& message, std::string_view arg) {
  const spop::Value* value = message.find(arg);
  return value == nullptr ? std::string_view() : value->bytes;
}

Result<UniqueFd> listenAt(const std::string& path, uid_t owner) {
  // Another one may have the name: it keeps what is connected, and this one gets what comes.
  const std::string fresh = fmt::format("{}.{}", path, ::getpid());
  struct sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (fresh.size() >= sizeof address.sun_path) return Error(Code::kInvalid, path + " is too long for a socket");
  std::memcpy(address.sun_path, fresh.data(), fresh.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Error::fromErrno("socket");
  ::unlink(fresh.c_str());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(fd.get(), 1024) != 0)
    return Error::fromErrno("listen at " + fresh);
  if (::chmod(fresh.c_str(), 0600) != 0 || ::chown(fresh.c_str(), owner, static_cast<gid_t>(-1)) != 0)
    return Error::fromErrno("give away " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return Error::fromErrno("rename " + fresh);
  return fd;
}

}  // namespace

struct EdgeFilter::Rep final : FilterHandler {
  Rep(Loop& l, BlockingPool& p, Options o)
      : loop(l),
        pool(p),
        options(std::move(o)),
        listener(l.executor()),
        mirrors(l),
        errors(l),
        passwords(l, [this](const std::string& list) { return fileOf(kUsersPrefix, list); }),
        gate(l),
        connections(l) {}

  Task<> answer(const spop::Message& message, spop::Ack& ack) override {
    if (message.name == "inspect") co_await inspect(message, ack);
    if (message.name == "mirror") mirror(message);
    if (message.name == "authenticate") co_await authenticate(message, ack);
    if (message.name == "error") co_await replaceError(message, ack);
  }

  Task<> authenticate(const spop::Message& message, spop::Ack& ack) {
    auto right =
        co_await passwords.check(std::string(textOf(message, "users")), std::string(textOf(message, "authorization")));
    if (right.ok())
      ack.set("user", *right);
    else
      complain("users cannot be told apart: " + right.error().message());
  }

  // Without an answer the one that failed stands.
  Task<> replaceError(const spop::Message& message, spop::Ack& ack) {
    const spop::Value* code = message.find("code");
    auto answer =
        co_await errors.ask({textOf(message, "place"), code == nullptr ? 0 : code->number, textOf(message, "format"),
                             textOf(message, "uri"), textOf(message, "host"), textOf(message, "id")});
    if (!answer.ok()) {
      complain("an error is not replaced: " + answer.error().message());
      co_return;
    }
    ack.set("error_status", std::to_string(answer->status));
    if (!answer->type.empty()) ack.set("error_type", answer->type);
    if (!answer->cacheControl.empty()) ack.set("error_cache", answer->cacheControl);
    ack.set("error_body", answer->body);
  }

  void mirror(const spop::Message& message) {
    auto headers = spop::readHeaders(textOf(message, "headers"));
    if (!headers.ok()) return;
    auto copy = copyOf({textOf(message, "target"), textOf(message, "host"), textOf(message, "method"),
                        textOf(message, "uri"), std::move(*headers), textOf(message, "body")});
    if (copy.ok())
      mirrors.send(std::move(*copy));
    else
      log::debug("ingress", "{}", copy.error().message());
  }

  // On the pool. Names are made of what files hold, so a text stays what it is.
  Result<std::string> fileOf(std::string_view prefix, const std::string& name) {
    {
      const std::lock_guard hold(lock);
      if (auto found = texts.find(name); found != texts.end()) return found->second;
    }
    if (!name.starts_with(prefix) || name.find('/') != std::string::npos)
      return Error(Code::kInvalid, "\"" + name + "\" names no file");
    UniqueFd file(::openat(folder.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file) return Error::fromErrno("open " + name);
    std::string text(kLongestFile, '\0');
    const ssize_t size = ::read(file.get(), text.data(), text.size());
    if (size <= 0) return Error::fromErrno("read " + name);
    text.resize(static_cast<size_t>(size));
    const std::lock_guard hold(lock);
    if (texts.size() >= kMostFiles) texts.clear();
    return texts[name] = std::move(text);
  }

  Result<WafVerdict> judge(const std::string& policy, const WafRequest& request) {
    {
      const std::lock_guard hold(lock);
      if (!waf) {
        ASSIGN_OR_RETURN(waf, Waf::load());
      }
    }
    ASSIGN_OR_RETURN(const std::string rules, fileOf(kPolicyPrefix, policy));
    return waf->inspect(rules, request);
  }

  Task<> inspect(const spop::Message& message, spop::Ack& ack) {
    const std::string policy(textOf(message, "policy"));
    WafRequest request;
    if (const spop::Value* client = message.find("client")) request.client = spop::addressText(*client);
    if (const spop::Value* port = message.find("port")) request.port = static_cast<uint16_t>(port->number);
    request.method = textOf(message, "method");
    request.uri = textOf(message, "uri");
    request.version = textOf(message, "version");
    request.body = textOf(message, "body");
    auto headers = spop::readHeaders(textOf(message, "headers"));
    if (!headers.ok()) co_return;
    request.headers = std::move(*headers);
    auto verdict = co_await pool.run(loop, [&] { return judge(policy, request); });
    if (!verdict.ok()) {
      complain("requests cannot be judged: " + verdict.error().message());
      co_return;
    }
    ack.set("judged", true);
    ack.set("blocked", verdict->blocked);
    std::vector<std::string> rules;
    for (const WafVerdict::Match& match : verdict->matches)
      if (rules.size() < kMostInVariable && std::find(rules.begin(), rules.end(), match.rule) == rules.end())
        rules.push_back(match.rule);
    if (!rules.empty()) ack.set("rules", join(rules, ","));
    if (!rules.empty() || verdict->blocked) tell(request, *verdict);
  }

  // The same again and again is told once.
  void complain(std::string problem) {
    if (problem == complained) return;
    complained = std::move(problem);
    log::error("ingress", "{}", complained);
  }

  void tell(const WafRequest& request, const WafVerdict& verdict) {
    json::object line{{"time", formatTime(loop.wallNow())},
                      {"client", request.client},
                      {"method", printable(request.method)},
                      {"path", printable(request.uri)}};
    for (const auto& [name, value] : request.headers) {
      if (name == "host") line["host"] = printable(value);
      if (name == "x-request-id") line["request_id"] = printable(value);
    }
    line["blocked"] = verdict.blocked;
    json::array matches;
    for (const WafVerdict::Match& match : verdict.matches)
      if (matches.size() < kMostTold)
        matches.push_back(
            json::object{{"rule", match.rule}, {"message", printable(match.message)}, {"data", printable(match.data)}});
    line["matches"] = std::move(matches);
    std::string text = json::serialize(line) + "\n";
    if (text.size() > PIPE_BUF) {
      // One write must be whole.
      line.erase("matches");
      text = json::serialize(line) + "\n";
    }
    [[maybe_unused]] const ssize_t written = ::write(options.findings, text.data(), text.size());
  }

  static Task<> accept(Rep* self) {
    while (!self->stopping) {
      boost::system::error_code error;
      co_await self->listener.async_wait(asio::posix::descriptor_base::wait_read,
                                         asio::redirect_error(asio::use_awaitable, error));
      if (error || self->stopping) break;
      UniqueFd fd(::accept4(self->listener.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd || self->open >= kMostConnections) continue;
      ++self->open;
      self->connections.spawn(serve(self, http::adoptFd(self->loop, fd.release())));
    }
  }

  static Task<> serve(Rep* self, std::unique_ptr<http::Stream> stream) {
    co_await serveFilter(std::move(stream), self);
    --self->open;
  }

  // Rules that are there already are read before anybody asks.
  static Task<> prepare(Rep* self) {
    for (const std::string& name : self->known) {
      if (self->stopping) co_return;
      auto judged = co_await self->pool.run(
          self->loop, [self, &name] { return self->judge(name, {"127.0.0.1", 1, "GET", "/", "1.1", {}, ""}); });
      if (!judged.ok()) log::error("ingress", "{}: {}", name, judged.error().message());
    }
  }

  Loop& loop;
  BlockingPool& pool;
  const Options options;
  UniqueFd folder;
  std::vector<std::string> known;  // files of rules that were there when it began
  asio::posix::stream_descriptor listener;
  Mirrors mirrors;
  ErrorBackends errors;
  Passwords passwords;
  Gate gate, connections;
  size_t open = 0;
  bool stopping = false;
  std::string complained;
  std::mutex lock;
  std::unique_ptr<Waf> waf;
  std::map<std::string, std::string> texts;
};

EdgeFilter::EdgeFilter(Loop& loop, BlockingPool& pool, Options options)
    : rep_(std::make_unique<Rep>(loop, pool, std::move(options))) {}
EdgeFilter::~EdgeFilter() = default;

Result<> EdgeFilter::open() {
  Rep& r = *rep_;
  const std::string& path = r.options.socket;
  const size_t slash = path.rfind('/');
  if (slash != std::string::npos) RETURN_IF_ERROR(makeDirs(path.substr(0, slash), 0755));
  r.folder = UniqueFd(::open(r.options.rules.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!r.folder) return Error::fromErrno("open " + r.options.rules);
  auto names = listDir(r.options.rules);
  if (names.ok())
    for (const std::string& name : *names)
      if (name.starts_with(kPolicyPrefix)) r.known.push_back(name);
  const bool drop = !r.options.user.empty() && ::geteuid() == 0;
  const struct passwd* user = drop ? ::getpwnam(r.options.user.c_str()) : nullptr;
  if (drop && user == nullptr) return Error(Code::kNotFound, "there is no user " + r.options.user);
  ASSIGN_OR_RETURN(UniqueFd fd, listenAt(path, drop ? user->pw_uid : ::geteuid()));
  if (drop && (::setgroups(0, nullptr) != 0 || ::setgid(user->pw_gid) != 0 || ::setuid(user->pw_uid) != 0))
    return Error::fromErrno("become " + r.options.user);
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  r.listener.assign(fd.release());
  return {};
}

void EdgeFilter::start() {
  Rep& r = *rep_;
  r.gate.spawn(Rep::accept(&r));
  r.gate.spawn(Rep::prepare(&r));
}

Task<> EdgeFilter::stop() {
  Rep& r = *rep_;
  r.stopping = true;
  boost::system::error_code ignored;
  r.listener.close(ignored);
  co_await r.gate.close();
  co_await r.connections.close();
  co_await r.mirrors.stop();
}

}  // namespace dhow::ingress
