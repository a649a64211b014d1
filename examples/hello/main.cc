// A web server that tells which pod, node and zone answer. One thread, one epoll loop.
// GET / is a page for browsers and text for others; GET /healthz is for probes. SIGTERM: no new connections, open
// requests are finished, and so is the first request of a connection that has only just been made.
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
#include <string>
#include <string_view>
#include <unordered_map>

namespace {

constexpr size_t kMaxRequest = 16 << 10;
constexpr size_t kMaxConnections = 4096;
constexpr int kIdleSeconds = 60;
constexpr int kGraceSeconds = 10;
constexpr int kFirstRequestSeconds = 1;  // what a connection without any request gets after SIGTERM

struct Place {
  std::string pod, node, zone;
};

struct Connection {
  std::string in, out;
  std::string peer;
  bool asked = false;  // a first request has come
  bool closeAfter = false;
  bool waitsToWrite = false;
  time_t lastUsed = 0;
};

std::string fromEnv(const char* name, std::string otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : std::move(otherwise);
}

time_t now() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec;
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

std::string plainText(const Place& place) {
  return "hello from pod " + place.pod + " on node " + place.node + " in zone " + place.zone + "\n";
}

std::string page(const Place& place) {
  return "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>hello</title><style>"
         "body{font:18px/1.6 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em;color:#123}"
         "dt{color:#678;float:left;width:5em}dd{margin-left:5em;font-weight:600}</style></head><body><h1>Hello</"
         "h1><dl><dt>Pod</dt><dd>" +
         escaped(place.pod) + "</dd><dt>Node</dt><dd>" + escaped(place.node) + "</dd><dt>Zone</dt><dd>" +
         escaped(place.zone) + "</dd></dl></body></html>\n";
}

// The value of a header in a request's head, or empty. Names compare without case.
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

bool isClose(std::string_view value) {
  return value.size() == 5 && ::strncasecmp(value.data(), "close", 5) == 0;
}

void answer(Connection& c, int status, const char* text, std::string_view type, std::string_view body, bool headOnly) {
  c.out += "HTTP/1.1 " + std::to_string(status) + " " + text + "\r\nContent-Type: ";
  c.out += type;
  c.out += "\r\nContent-Length: " + std::to_string(body.size()) + "\r\nCache-Control: no-store\r\n";
  if (c.closeAfter) c.out += "Connection: close\r\n";
  c.out += "\r\n";
  if (!headOnly) c.out += body;
}

class HelloServer {
 public:
  HelloServer(Place place, int listener, int signals)
      : place_(std::move(place)), listener_(listener), signals_(signals) {}

  int run() {
    epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0 || !watch(listener_, EPOLLIN, EPOLL_CTL_ADD) || !watch(signals_, EPOLLIN, EPOLL_CTL_ADD)) return 1;
    while (!stopping_ || !connections_.empty()) {
      epoll_event events[64];
      int count = ::epoll_wait(epoll_, events, 64, waitMillis());
      if (count < 0 && errno != EINTR) return 1;
      for (int i = 0; i < count; ++i) {
        int fd = events[i].data.fd;
        if (fd == listener_)
          acceptAll();
        else if (fd == signals_)
          stop();
        else
          serve(fd, events[i].events);
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
      int fd = ::accept4(listener_, reinterpret_cast<sockaddr*>(&from), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      int one = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      if (connections_.size() >= kMaxConnections || !watch(fd, EPOLLIN, EPOLL_CTL_ADD)) {
        ::close(fd);
        continue;
      }
      Connection c;
      char text[INET6_ADDRSTRLEN] = "-";
      if (from.sin6_family == AF_INET6) {
        bool isV4 = IN6_IS_ADDR_V4MAPPED(&from.sin6_addr);
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

  // Connections without a request under way end at once, the others after their answer. A client that is far away or
  // slow has not sent its first request yet.
  void stop() {
    signalfd_siginfo info;
    if (::read(signals_, &info, sizeof info) <= 0) return;
    if (stopping_) return;
    std::printf("signal %u: finishing %zu connections\n", info.ssi_signo, connections_.size());
    stopping_ = true;
    deadline_ = now() + kGraceSeconds;
    // What waits in the backlog was accepted by the kernel already and gets its answer.
    acceptAll();
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, listener_, nullptr);
    ::close(listener_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      int fd = (it++)->first;
      serve(fd, EPOLLIN);
    }
    for (auto it = connections_.begin(); it != connections_.end();) {
      auto current = it++;
      const Connection& c = current->second;
      if (c.asked && c.in.empty() && c.out.empty()) drop(current->first);
    }
  }

  void drop(int fd) {
    ::close(fd);
    connections_.erase(fd);
  }

  void dropIdle() {
    time_t time = now();
    for (auto it = connections_.begin(); it != connections_.end();) {
      auto current = it++;
      const Connection& c = current->second;
      const time_t unused = time - c.lastUsed;
      const bool late = stopping_ && (time >= deadline_ || (!c.asked && unused > kFirstRequestSeconds));
      if (unused >= kIdleSeconds || late) drop(current->first);
    }
  }

  void serve(int fd, uint32_t events) {
    auto it = connections_.find(fd);
    if (it == connections_.end()) return;
    Connection& c = it->second;
    if (events & EPOLLERR) return drop(fd);
    bool ended = false;
    while ((events & (EPOLLIN | EPOLLHUP)) && !ended) {
      char buffer[8192];
      ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n < 0 && errno == EAGAIN) break;
      if (n < 0) return drop(fd);
      ended = n == 0;
      c.lastUsed = now();
      c.in.append(buffer, static_cast<size_t>(n));
      if (c.in.size() > kMaxRequest) break;
    }
    while (!c.closeAfter && handleOne(c)) {
    }
    if (ended) c.closeAfter = true;
    flush(fd, c);
  }

  // Answers the first request in c.in; false when it is not whole.
  bool handleOne(Connection& c) {
    auto end = c.in.find("\r\n\r\n");
    if (end == std::string::npos) {
      if (c.in.size() <= kMaxRequest) return false;
      c.closeAfter = true;
      answer(c, 431, "Request Header Fields Too Large", "text/plain", "request too large\n", false);
      return false;
    }
    c.asked = true;
    std::string head = c.in.substr(0, end + 2);
    c.in.erase(0, end + 4);
    std::string_view line = std::string_view(head).substr(0, head.find("\r\n"));
    auto space = line.find(' '), second = line.rfind(' ');
    // A request with a body is answered and the connection closed: nothing here takes one.
    bool hasBody = !header(head, "Transfer-Encoding").empty() ||
                   (!header(head, "Content-Length").empty() && header(head, "Content-Length") != "0");
    bool oldVersion = line.ends_with("HTTP/1.0");
    c.closeAfter = stopping_ || hasBody || oldVersion || isClose(header(head, "Connection"));
    if (space == std::string_view::npos || second == space || line.find("HTTP/1.") != second + 1) {
      c.closeAfter = true;
      answer(c, 400, "Bad Request", "text/plain", "bad request\n", false);
      return true;
    }
    auto method = line.substr(0, space), target = line.substr(space + 1, second - space - 1);
    auto path = target.substr(0, target.find('?'));
    bool headOnly = method == "HEAD";
    int status = 200;
    if (method != "GET" && !headOnly) {
      status = 405;
      answer(c, status, "Method Not Allowed", "text/plain", "only GET is served\n", false);
    } else if (path == "/healthz") {
      answer(c, status, "OK", "text/plain", "ok\n", headOnly);
    } else if (path == "/") {
      bool html = header(head, "Accept").find("text/html") != std::string_view::npos;
      answer(c, status, "OK", html ? "text/html; charset=utf-8" : "text/plain; charset=utf-8",
             html ? page(place_) : plainText(place_), headOnly);
    } else {
      status = 404;
      answer(c, status, "Not Found", "text/plain", "not found\n", headOnly);
    }
    std::printf("%s \"%.*s %.*s\" %d\n", c.peer.c_str(), static_cast<int>(method.size()), method.data(),
                static_cast<int>(target.size()), target.data(), status);
    return true;
  }

  void flush(int fd, Connection& c) {
    while (!c.out.empty()) {
      ssize_t n = ::send(fd, c.out.data(), c.out.size(), MSG_NOSIGNAL);
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

  Place place_;
  int listener_, signals_, epoll_ = -1;
  bool stopping_ = false;
  time_t deadline_ = 0;
  std::unordered_map<int, Connection> connections_;
};

int listenOn(int port) {
  int off = 0, on = 1;
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

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 4096);
  char host[256] = "unknown";
  ::gethostname(host, sizeof host - 1);
  Place place{fromEnv("POD_NAME", host), fromEnv("NODE_NAME", host), fromEnv("ZONE", "unknown")};
  int port = std::atoi(fromEnv("PORT", "8080").c_str());
  if (port <= 0 || port > 65535) {
    std::fprintf(stderr, "PORT is not a port\n");
    return 2;
  }
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGTERM);
  ::sigaddset(&mask, SIGINT);
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  int signals = ::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  int listener = listenOn(port);
  if (listener < 0) {
    std::fprintf(stderr, "listen on port %d: %s\n", port, std::strerror(errno));
    return 1;
  }
  std::printf("pod %s on node %s in zone %s listens on port %d\n", place.pod.c_str(), place.node.c_str(),
              place.zone.c_str(), port);
  return HelloServer(std::move(place), listener, signals).run();
}
