#include "http/client.h"

#include <algorithm>
#include <cctype>
#include <list>
#include <map>
#include <set>

#include "base/gate.h"
#include "base/strings.h"
#include "body.h"
#include "client_wire.h"
#include "input.h"

namespace dhow::http {

using internal::Http2Client;
using internal::Input;
using internal::Outgoing;

namespace {

struct Target {
  bool tls = false;
  std::string host;  // without brackets
  uint16_t port = 0;
  std::string authority;
  std::string target;
  std::string origin() const { return fmt::format("{}://{}:{}", tls ? "https" : "http", host, port); }
};

Result<Target> parseUrl(std::string_view url) {
  auto bad = [&](std::string_view what) { return Error(Code::kBadRequest, fmt::format("bad URL {}: {}", url, what)); };
  for (unsigned char c : url) {
    if (c <= 0x20 || c == 0x7f) return bad("blanks and control characters must be encoded");
  }
  Target out;
  size_t colon = url.find("://");
  if (colon == std::string_view::npos) return bad("it has no scheme");
  std::string scheme = toLower(url.substr(0, colon));
  if (scheme == "https" || scheme == "wss") {
    out.tls = true;
  } else if (scheme != "http" && scheme != "ws") {
    return bad("its scheme is neither http nor https");
  }
  std::string_view rest = url.substr(colon + 3);
  rest = rest.substr(0, rest.find('#'));
  size_t end = rest.find_first_of("/?");
  std::string_view authority = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view("/") : rest.substr(end);
  if (size_t at = authority.rfind('@'); at != std::string_view::npos) authority.remove_prefix(at + 1);
  std::string_view host = authority, port;
  if (authority.starts_with('[')) {
    size_t close = authority.find(']');
    if (close == std::string_view::npos) return bad("its address has no closing bracket");
    host = authority.substr(1, close - 1);
    port = authority.substr(close + 1);
    if (!port.empty() && port.front() != ':') return bad("bad port");
    if (!port.empty()) port.remove_prefix(1);
  } else if (size_t mark = authority.find(':'); mark != std::string_view::npos) {
    host = authority.substr(0, mark);
    port = authority.substr(mark + 1);
  }
  if (host.empty()) return bad("it has no host");
  auto number = port.empty() ? std::optional<uint64_t>(out.tls ? 443 : 80) : parseUint(port);
  if (!number || *number == 0 || *number > 65535) return bad("bad port");
  out.host = host;
  out.port = static_cast<uint16_t>(*number);
  out.authority = authority;
  out.target = rest.front() == '/' ? std::string(rest) : fmt::format("/{}", rest);
  return out;
}

bool isIdempotent(std::string_view method) {
  return method == "GET" || method == "HEAD" || method == "PUT" || method == "DELETE" || method == "OPTIONS";
}

Outgoing outgoing(const Target& target, Request& request) {
  Outgoing out;
  out.method = std::move(request.method);
  out.scheme = target.tls ? "https" : "http";
  out.authority = target.authority;
  out.target = target.target;
  out.headers = std::move(request.headers);
  if (auto* whole = dynamic_cast<internal::StringBody*>(request.body.get())) {
    out.whole = std::make_shared<const std::string>(whole->take());
  } else {
    out.stream = std::move(request.body);
  }
  return out;
}

}  // namespace

std::string attemptedRequest(std::string_view method, std::string_view url) {
  std::string verb = toLower(method);
  if (!verb.empty()) verb[0] = static_cast<char>(std::toupper(verb[0]));
  return fmt::format("{} \"{}\"", verb, url);
}

struct Client::Rep : std::enable_shared_from_this<Client::Rep> {
  Rep(Loop& loop, Options options) : loop(loop), options(std::move(options)) {}

  struct Idle {
    std::shared_ptr<Input> input;
    Timer timer;
  };
  struct Origin {
    explicit Origin(Loop& loop) : dialed(loop) {}
    std::vector<Idle> idle;
    std::shared_ptr<Http2Client> http2;
    bool dialing = false;  // somebody finds out whether the server speaks HTTP/2
    bool onlyHttp1 = false;
    Signal dialed;
    TimePoint idleSince{};
    Timer idleTimer;
  };
  struct Dialed {
    std::shared_ptr<Input> input;
    bool http2 = false;
  };
  // Where a request goes: one of the two.
  struct Route {
    std::shared_ptr<Http2Client> http2;
    std::shared_ptr<Input> http1;
    bool reused = false;
  };

  Loop& loop;
  Options options;
  std::map<std::string, std::shared_ptr<Origin>> origins;
  std::set<Input*> open;
  std::list<std::function<void()>> dials;  // under way: each ends one
  bool closed = false;

  std::shared_ptr<Input> track(std::unique_ptr<Stream> stream);
  Result<std::shared_ptr<TlsClient>> tls();
  Task<Result<Dialed>> dial(const Target& target, bool http2);
  Task<Result<Route>> route(const Target& target, std::shared_ptr<Origin> origin, bool fresh);
  std::shared_ptr<Input> takeIdle(Origin& origin);
  void release(const std::shared_ptr<Origin>& origin, std::shared_ptr<Input> input);
  void http2Changed(const std::shared_ptr<Origin>& origin);
  void waitIdle(const std::shared_ptr<Origin>& origin, Duration delay);
  static Task<Result<StreamingResponse>> send(std::shared_ptr<Rep> rep, std::string url, Request request);
  static Task<Result<Upgraded>> upgrade(std::shared_ptr<Rep> rep, std::string url, Request request);
  void close();
};

std::shared_ptr<Input> Client::Rep::track(std::unique_ptr<Stream> stream) {
  std::shared_ptr<Input> input(new Input(loop, std::move(stream)), [weak = weak_from_this()](Input* input) {
    if (auto rep = weak.lock()) rep->open.erase(input);
    delete input;
  });
  open.insert(input.get());
  return input;
}

Result<std::shared_ptr<TlsClient>> Client::Rep::tls() {
  if (!options.tls) {
    ASSIGN_OR_RETURN(options.tls, TlsClient::create({}));
  }
  return options.tls;
}

Task<Result<Client::Rep::Dialed>> Client::Rep::dial(const Target& target, bool http2) {
  std::unique_ptr<Stream> stream;
  if (options.dial) {
    CO_ASSIGN_OR_RETURN(stream, co_await options.dial());
  } else if (!options.unixSocket.empty()) {
    CO_ASSIGN_OR_RETURN(stream, co_await connectUnix(loop, options.unixSocket));
  } else {
    auto place = dials.emplace(dials.end());
    auto connected = co_await connectTcp(loop, target.host, target.port, options.connectTimeout, &*place);
    dials.erase(place);
    CO_ASSIGN_OR_RETURN(stream, std::move(connected));
  }
  Dialed out;
  out.http2 = options.priorKnowledgeHttp2 && http2;
  if (target.tls && !options.priorKnowledgeHttp2) {
    CO_ASSIGN_OR_RETURN(auto context, tls());
    auto secured = co_await connectTls(loop, context, std::move(stream), target.host, http2, options.connectTimeout);
    if (!secured.ok()) co_return std::move(secured).error();
    stream = std::move(secured->stream);
    out.http2 = secured->http2;
  }
  if (closed) co_return internal::cancelled();
  out.input = track(std::move(stream));
  co_return out;
}

std::shared_ptr<Input> Client::Rep::takeIdle(Origin& origin) {
  while (!origin.idle.empty()) {
    auto input = std::move(origin.idle.back().input);
    origin.idle.pop_back();
    input->unwatch();
    // Bytes that nobody asked for make a connection unusable.
    if (!input->ended() && input->data().empty()) return input;
    input->close();
  }
  return nullptr;
}

void Client::Rep::release(const std::shared_ptr<Origin>& origin, std::shared_ptr<Input> input) {
  if (closed || origin->idle.size() >= 64) return input->close();
  auto drop = [weak = std::weak_ptr(origin), raw = input.get()] {
    auto origin = weak.lock();
    if (!origin) return;
    auto found =
        std::find_if(origin->idle.begin(), origin->idle.end(), [&](auto& idle) { return idle.input.get() == raw; });
    if (found == origin->idle.end()) return;
    auto input = std::move(found->input);
    origin->idle.erase(found);
    input->close();
  };
  Timer timer = loop.after(options.idleTimeout, drop);
  origin->idle.push_back({input, std::move(timer)});
  input->watch(nullptr, drop);
}

// Forgets a connection that takes no more requests, and ends one that has been idle for long. One timer a connection,
// moved on only when it fires. A connection that somebody else dialed is left to them.
void Client::Rep::http2Changed(const std::shared_ptr<Origin>& origin) {
  if (!origin->http2) return;
  if (!origin->http2->usable()) {
    loop.post([origin] {
      if (origin->http2 && !origin->http2->usable()) origin->http2.reset();
    });
    return;
  }
  if (options.dial || origin->http2->streams() > 0) return;
  origin->idleSince = loop.now();
  if (!origin->idleTimer) waitIdle(origin, options.idleTimeout);
}

void Client::Rep::waitIdle(const std::shared_ptr<Origin>& origin, Duration delay) {
  origin->idleTimer = loop.after(delay, [weak = weak_from_this(), weakOrigin = std::weak_ptr(origin)] {
    auto rep = weak.lock();
    auto origin = weakOrigin.lock();
    if (!rep || !origin) return;
    origin->idleTimer.cancel();
    if (!origin->http2 || origin->http2->streams() > 0) return;
    Duration left = origin->idleSince + rep->options.idleTimeout - rep->loop.now();
    if (left > Duration(0)) return rep->waitIdle(origin, left);
    std::exchange(origin->http2, nullptr)->close();
  });
}

Task<Result<Client::Rep::Route>> Client::Rep::route(const Target& target, std::shared_ptr<Origin> origin, bool fresh) {
  Route out;
  const bool mayHttp2 = options.priorKnowledgeHttp2 || (target.tls && options.http2);
  while (true) {
    if (closed) co_return internal::cancelled();
    if (origin->http2 && origin->http2->usable()) {
      out.http2 = origin->http2;
      out.reused = true;
      co_return out;
    }
    if (!fresh) out.http1 = takeIdle(*origin);
    if (out.http1) {
      out.reused = true;
      co_return out;
    }
    if (!mayHttp2 || origin->onlyHttp1) break;
    if (!origin->dialing) break;
    co_await origin->dialed.wait();
  }
  const bool first = mayHttp2 && !origin->onlyHttp1;
  origin->dialing = first;
  auto dialed = co_await dial(target, mayHttp2);
  if (first) {
    origin->dialing = false;
    origin->dialed.notify();
  }
  if (!dialed.ok()) co_return std::move(dialed).error();
  if (!dialed->http2) {
    origin->onlyHttp1 = true;
    out.http1 = std::move(dialed->input);
    co_return out;
  }
  origin->onlyHttp1 = false;
  auto changed = [weak = weak_from_this(), weakOrigin = std::weak_ptr(origin)] {
    auto rep = weak.lock();
    auto origin = weakOrigin.lock();
    if (rep && origin) rep->http2Changed(origin);
  };
  origin->http2 = Http2Client::start(loop, std::move(dialed->input), std::move(changed));
  origin->http2->keepAlive(options.pingAfter, options.pingTimeout);
  out.http2 = origin->http2;
  co_return out;
}

Task<Result<StreamingResponse>> Client::Rep::send(std::shared_ptr<Rep> rep, std::string url, Request request) {
  CO_ASSIGN_OR_RETURN(Target target, parseUrl(url));
  Outgoing out = outgoing(target, request);
  auto& slot = rep->origins[target.origin()];
  if (!slot) slot = std::make_shared<Origin>(rep->loop);
  std::shared_ptr<Origin> origin = slot;
  const bool repeatable = out.replayable();
  for (int attempt = 0;; ++attempt) {
    auto route = co_await rep->route(target, origin, attempt > 0);
    if (!route.ok()) co_return std::move(route).error().wrap(attemptedRequest(out.method, url));
    bool mayRepeat = repeatable && attempt < 2 && route->reused;
    Result<StreamingResponse> response = internal::cancelled();
    if (route->http2) {
      bool untouched = false;
      response = co_await route->http2->exchange(out, untouched);
      mayRepeat = mayRepeat && untouched;
    } else {
      bool touched = false;
      auto release = [weak = std::weak_ptr(rep), origin, input = std::weak_ptr(route->http1)] {
        auto rep = weak.lock();
        auto kept = input.lock();
        if (!kept) return;
        if (!rep) return kept->close();
        rep->release(origin, std::move(kept));
      };
      response = co_await internal::exchangeHttp1(route->http1, out, std::move(release), touched);
      // The server may have closed an idle connection just before the request came.
      mayRepeat = mayRepeat && !touched && isIdempotent(out.method);
    }
    if (response.ok()) co_return response;
    if (rep->closed) co_return internal::cancelled();
    if (!mayRepeat) co_return std::move(response).error().wrap(attemptedRequest(out.method, url));
  }
}

Task<Result<Client::Upgraded>> Client::Rep::upgrade(std::shared_ptr<Rep> rep, std::string url, Request request) {
  CO_ASSIGN_OR_RETURN(Target target, parseUrl(url));
  Outgoing out = outgoing(target, request);
  if (rep->options.priorKnowledgeHttp2) {
    auto& slot = rep->origins[target.origin()];
    if (!slot) slot = std::make_shared<Origin>(rep->loop);
    auto route = co_await rep->route(target, slot, false);
    if (!route.ok()) co_return std::move(route).error().wrap(attemptedRequest(out.method, url));
    auto upgraded = co_await route->http2->upgrade(out);
    co_return upgraded;
  }
  auto dialed = co_await rep->dial(target, false);
  if (!dialed.ok()) co_return std::move(dialed).error().wrap(attemptedRequest(out.method, url));
  auto input = std::move(dialed->input);
  auto upgraded = co_await internal::upgradeHttp1(input, out);
  // From here on it belongs to the caller alone.
  if (upgraded.ok()) rep->open.erase(input.get());
  co_return upgraded;
}

void Client::Rep::close() {
  closed = true;
  for (const auto& abort : dials) {
    if (abort) abort();
  }
  for (auto& [name, origin] : origins) {
    origin->dialed.notify();
    if (auto http2 = std::exchange(origin->http2, nullptr)) http2->close();
    auto idle = std::move(origin->idle);
    origin->idle.clear();
    for (auto& one : idle) one.input->close();
  }
  std::vector<std::shared_ptr<Input>> busy;
  for (Input* input : open) {
    if (auto kept = input->weak_from_this().lock()) busy.push_back(std::move(kept));
  }
  for (const auto& input : busy) input->close();
}

Client::Client(Loop& loop, Options options) : rep_(std::make_shared<Rep>(loop, std::move(options))) {}
Client::~Client() {
  rep_->close();
}
void Client::close() {
  rep_->close();
}

Task<Result<StreamingResponse>> Client::send(std::string url, Request request) {
  return Rep::send(rep_, std::move(url), std::move(request));
}

namespace {
Task<Result<Response>> collect(Task<Result<StreamingResponse>> sending, size_t limit) {
  auto streaming = co_await std::move(sending);
  if (!streaming.ok()) co_return std::move(streaming).error();
  auto body = co_await readAll(*streaming->body, limit);
  if (!body.ok()) co_return std::move(body).error();
  Response out;
  out.status = streaming->status;
  out.headers = std::move(streaming->headers);
  out.body = std::move(*body);
  co_return out;
}
}  // namespace

Task<Result<Response>> Client::fetch(std::string url, Request request, size_t limit) {
  return collect(send(std::move(url), std::move(request)), limit);
}

Task<Result<Client::Upgraded>> Client::upgrade(std::string url, Request request) {
  return Rep::upgrade(rep_, std::move(url), std::move(request));
}

}  // namespace dhow::http
