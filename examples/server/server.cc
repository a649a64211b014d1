#include "server.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <unordered_map>

#include "websocket.h"

namespace examples {

namespace {

constexpr size_t kMaxRequest = 16 << 10;
constexpr size_t kMaxConnections = 4096;
constexpr int kIdleSeconds = 60;
constexpr int kFirstRequestSeconds = 1;  // what a connection without any request gets after SIGTERM
constexpr std::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Connection {
  std::string in, out;
  std::string peer;
  std::unique_ptr<Conversation> conversation;
  bool asked = false;  // a first request has come
  bool closeAfter = false;
  bool waitsToWrite = false;
  time_t lastUsed = 0;
};

time_t now() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec;
}

bool isSame(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0;
}

const char* reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 303: return "See Other";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 431: return "Request Header Fields Too Large";
    default: return "Unknown";
  }
}

void write(Connection& c, const Response& response, bool headOnly) {
  c.out += "HTTP/1.1 " + std::to_string(response.status) + " " + reason(response.status);
  c.out += "\r\nContent-Type: " + response.type + "\r\nContent-Length: " + std::to_string(response.body.size());
  c.out += "\r\nCache-Control: no-store\r\n";
  for (const auto& [name, value] : response.headers) c.out += name + ": " + value + "\r\n";
  if (c.closeAfter) c.out += "Connection: close\r\n";
  c.out += "\r\n";
  if (!headOnly) c.out += response.body;
}

void refuse(Connection& c, int status, std::string_view text) {
  c.closeAfter = true;
  write(c, {.status = status, .body = std::string(text) + "\n"}, false);
}

class Server {
 public:
  Server(Application& application, const Options& options, int listener, int signals)
      : application_(application), options_(options), listener_(listener), signals_(signals) {}

  int run() {
    epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0 || !watch(listener_, EPOLLIN, EPOLL_CTL_ADD) || !watch(signals_, EPOLLIN, EPOLL_CTL_ADD)) return 1;
    while (!stopping_ || !connections_.empty()) {
      epoll_event events[64];
      const int count = ::epoll_wait(epoll_, events, 64, waitMillis());
      if (count < 0 && errno != EINTR) return 1;
      for (int i = 0; i < count; ++i) {
        const int fd = events[i].data.fd;
        if (fd == listener_)
          acceptAll();
        else if (fd == signals_)
          stop();
        else
          receive(fd, events[i].events);
      }
      dropIdle();
    }
    std::printf("stopped\n");
    return 0;
  }

 private:
  bool watch(int fd, uint32_t what, int operation) {
    epoll_event event{};
    event.events = what;
    event.data.fd = fd;
    return ::epoll_ctl(epoll_, operation, fd, &event) == 0;
  }

  int waitMillis() const {
    if (connections_.empty()) return -1;
    return stopping_ ? 1000 : kIdleSeconds * 500;
  }

  void acceptAll() {
    while (true) {
      sockaddr_in6 from{};
      socklen_t length = sizeof from;
      const int fd = ::accept4(listener_, reinterpret_cast<sockaddr*>(&from), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      const int one = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      if (connections_.size() >= kMaxConnections || !watch(fd, EPOLLIN, EPOLL_CTL_ADD)) {
        ::close(fd);
        continue;
      }
      Connection c;
      char text[INET6_ADDRSTRLEN] = "-";
      if (from.sin6_family == AF_INET6) {
        const bool isV4 = IN6_IS_ADDR_V4MAPPED(&from.sin6_addr);
        ::inet_ntop(isV4 ? AF_INET : AF_INET6, isV4 ? static_cast<void*>(&from.sin6_addr.s6_addr[12]) : &from.sin6_addr,
                    text, sizeof text);
      } else {
        ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(&from)->sin_addr, text, sizeof text);
      }
      c.peer = text;
      c.lastUsed = now();
      connections_.emplace(fd, std::move(c));
    }
  }

  // Connections without a request under way end at once, the others after their answer, conversations when they are
  // over. A client that is far away or slow has not sent its first request yet.
  void stop() {
    signalfd_siginfo info;
    if (::read(signals_, &info, sizeof info) <= 0) return;
    if (stopping_) return;
    std::printf("signal %u: finishing %zu connections\n", info.ssi_signo, connections_.size());
    stopping_ = true;
    deadline_ = now() + options_.grace;
    // What waits in the backlog was accepted by the kernel already and gets its answer.
    acceptAll();
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, listener_, nullptr);
    ::close(listener_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      const int fd = (it++)->first;
      receive(fd, EPOLLIN);
    }
    for (auto it = connections_.begin(); it != connections_.end();) {
      auto current = it++;
      Connection& c = current->second;
      if (c.conversation) {
        if (!c.conversation->stop(c.out)) c.closeAfter = true;
        flush(current->first, c);
      } else if (c.asked && c.in.empty() && c.out.empty()) {
        drop(current->first);
      }
    }
  }

  void drop(int fd) {
    ::close(fd);
    connections_.erase(fd);
  }

  void dropIdle() {
    const time_t time = now();
    for (auto it = connections_.begin(); it != connections_.end();) {
      auto current = it++;
      const Connection& c = current->second;
      const time_t unused = time - c.lastUsed;
      const bool idle = !c.conversation && unused >= kIdleSeconds;
      const bool late = stopping_ && (time >= deadline_ || (!c.asked && unused > kFirstRequestSeconds));
      if (idle || late) drop(current->first);
    }
  }

  void receive(int fd, uint32_t events) {
    auto it = connections_.find(fd);
    if (it == connections_.end()) return;
    Connection& c = it->second;
    if (events & EPOLLERR) return drop(fd);
    bool ended = false;
    while ((events & (EPOLLIN | EPOLLHUP)) && !ended) {
      char buffer[8192];
      const ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n < 0 && errno == EAGAIN) break;
      if (n < 0) return drop(fd);
      ended = n == 0;
      c.lastUsed = now();
      c.in.append(buffer, static_cast<size_t>(n));
      if (c.in.size() > 2 * kMaxRequest) break;
    }
    if (!c.asked && c.in.starts_with(kHttp2Preface)) {
      c.asked = true;
      c.conversation = application_.http2();
    }
    while (!c.conversation && !c.closeAfter && handleOne(c)) {
    }
    if (c.conversation && !c.in.empty()) {
      if (!c.conversation->receive(std::exchange(c.in, {}), c.out)) c.closeAfter = true;
    }
    if (ended) c.closeAfter = true;
    flush(fd, c);
  }

  // Answers the first request in c.in; false when it is not whole.
  bool handleOne(Connection& c) {
    if (!c.asked && kHttp2Preface.starts_with(c.in)) return false;  // more may come
    const auto end = c.in.find("\r\n\r\n");
    if (end == std::string::npos) {
      if (c.in.size() > kMaxRequest) refuse(c, 431, "request too large");
      return false;
    }
    Request request;
    request.head = c.in.substr(0, end + 2);
    const std::string_view length = header(request.head, "Content-Length");
    const size_t body = length.size() < 8 ? std::strtoul(std::string(length).c_str(), nullptr, 10) : kMaxRequest + 1;
    if (!header(request.head, "Transfer-Encoding").empty()) return refuse(c, 411, "length required"), false;
    if (body > kMaxRequest) return refuse(c, 413, "body too large"), false;
    if (c.in.size() < end + 4 + body) return false;
    c.asked = true;
    request.body = c.in.substr(end + 4, body);
    c.in.erase(0, end + 4 + body);
    const std::string_view line = std::string_view(request.head).substr(0, request.head.find("\r\n"));
    const auto space = line.find(' '), second = line.rfind(' ');
    if (space == std::string_view::npos || second == space || line.find("HTTP/1.") != second + 1)
      return refuse(c, 400, "bad request"), true;
    c.closeAfter = stopping_ || line.ends_with("HTTP/1.0") || isSame(header(request.head, "Connection"), "close");
    request.method = line.substr(0, space);
    const std::string_view target = line.substr(space + 1, second - space - 1);
    const auto question = target.find('?');
    request.path = target.substr(0, question);
    if (question != std::string_view::npos) request.query = target.substr(question + 1);
    if (isSame(header(request.head, "Upgrade"), "websocket")) {
      const std::string_view key = header(request.head, "Sec-WebSocket-Key");
      c.conversation = key.empty() ? nullptr : application_.webSocket(request);
      if (!c.conversation) return refuse(c, 400, "no WebSocket here"), true;
      c.closeAfter = false;
      c.out +=
          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
          webSocketAccept(key) + "\r\n\r\n";
      return true;
    }
    const bool headOnly = request.method == "HEAD";
    if (headOnly) request.method = "GET";
    const Response response = request.path == "/healthz" ? Response{.body = "ok\n"} : application_.answer(request);
    write(c, response, headOnly);
    if (options_.logRequests)
      std::printf("%s \"%s %.*s\" %d\n", c.peer.c_str(), headOnly ? "HEAD" : request.method.c_str(),
                  static_cast<int>(target.size()), target.data(), response.status);
    return true;
  }

  void flush(int fd, Connection& c) {
    while (!c.out.empty()) {
      const ssize_t n = ::send(fd, c.out.data(), c.out.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) {
        if (!c.waitsToWrite) c.waitsToWrite = watch(fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
        return;
      }
      if (n < 0) return drop(fd);
      c.out.erase(0, static_cast<size_t>(n));
      c.lastUsed = now();
    }
    if (c.closeAfter) {
      ::shutdown(fd, SHUT_WR);
      return drop(fd);
    }
    if (c.waitsToWrite) {
      watch(fd, EPOLLIN, EPOLL_CTL_MOD);
      c.waitsToWrite = false;
    }
  }

  Application& application_;
  Options options_;
  int listener_, signals_, epoll_ = -1;
  bool stopping_ = false;
  time_t deadline_ = 0;
  std::unordered_map<int, Connection> connections_;
};

int listenOn(int port) {
  const int off = 0, on = 1;
  int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(static_cast<uint16_t>(port));
    if (::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0 && ::listen(fd, 1024) == 0) return fd;
    ::close(fd);
  }
  fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = htons(static_cast<uint16_t>(port));
  if (::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0 && ::listen(fd, 1024) == 0) return fd;
  return -1;
}

// What stands behind `name` and "=" in a list with such a separator.
std::string_view entry(std::string_view list, char separator, std::string_view name) {
  while (!list.empty()) {
    const auto end = list.find(separator);
    std::string_view one = list.substr(0, end);
    while (one.starts_with(' ')) one.remove_prefix(1);
    if (one.size() > name.size() && one.starts_with(name) && one[name.size()] == '=')
      return one.substr(name.size() + 1);
    list = end == std::string_view::npos ? std::string_view() : list.substr(end + 1);
  }
  return {};
}

}  // namespace

std::string_view header(std::string_view head, std::string_view name) {
  for (size_t line = head.find("\r\n"); line != std::string_view::npos; line = head.find("\r\n", line + 2)) {
    auto rest = head.substr(line + 2);
    if (rest.size() <= name.size() || rest[name.size()] != ':' ||
        ::strncasecmp(rest.data(), name.data(), name.size()) != 0)
      continue;
    auto value = rest.substr(name.size() + 1, rest.find("\r\n") - name.size() - 1);
    while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    return value;
  }
  return {};
}

std::string_view cookie(std::string_view head, std::string_view name) {
  return entry(header(head, "Cookie"), ';', name);
}

std::string_view parameter(std::string_view query, std::string_view name) {
  return entry(query, '&', name);
}

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string fromEnv(const char* name, std::string otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : std::move(otherwise);
}

Place Place::fromEnvironment() {
  char host[256] = "unknown";
  ::gethostname(host, sizeof host - 1);
  return {fromEnv("POD_NAME", host), fromEnv("NODE_NAME", host), fromEnv("ZONE", "unknown")};
}

int serve(Application& application, const Options& options) {
  std::setvbuf(stdout, nullptr, _IOLBF, 4096);
  const Place place = Place::fromEnvironment();
  const int port = std::atoi(fromEnv("PORT", "8080").c_str());
  if (port <= 0 || port > 65535) {
    std::fprintf(stderr, "PORT is not a port\n");
    return 2;
  }
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGTERM);
  ::sigaddset(&mask, SIGINT);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  const int signals = ::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  const int listener = listenOn(port);
  if (listener < 0) {
    std::fprintf(stderr, "listen on port %d: %s\n", port, std::strerror(errno));
    return 1;
  }
  std::printf("pod %s on node %s in zone %s listens on port %d\n", place.pod.c_str(), place.node.c_str(),
              place.zone.c_str(), port);
  return Server(application, options, listener, signals).run();
}

}  // namespace examples
