// What tests with a real HAProxy share: a network namespace of their own, backends, clients.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/parse.hpp>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "access_log.h"
#include "base/files.h"
#include "haproxy.h"

namespace dhow::ingress {

inline sockaddr_in loopback(uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return out;
}

inline sockaddr_in6 loopback6(uint16_t port) {
  sockaddr_in6 out{};
  out.sin6_family = AF_INET6;
  out.sin6_port = htons(port);
  out.sin6_addr = in6addr_loopback;
  return out;
}

// Calls bind() or connect() with this machine's own address.
template <class F>
int atLoopback(F call, const UniqueFd& fd, uint16_t port, bool six) {
  const sockaddr_in four = loopback(port);
  const sockaddr_in6 other = loopback6(port);
  return six ? call(fd.get(), reinterpret_cast<const sockaddr*>(&other), sizeof other)
             : call(fd.get(), reinterpret_cast<const sockaddr*>(&four), sizeof four);
}

// Answers every request with its name.
class Backhand {
 public:
  Backhand(std::string name, uint16_t port, bool six = false, std::string status = "200 OK")
      : name_(std::move(name)),
        status_(std::move(status)),
        fd_(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int one = 1;
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    EXPECT_EQ(atLoopback(::bind, fd_, port, six), 0);
    EXPECT_EQ(::listen(fd_.get(), 64), 0);
    thread_ = std::thread([this] {
      while (true) {
        UniqueFd client(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!client) return;
        char request[4096];
        const ssize_t size = ::recv(client.get(), request, sizeof request, 0);
        if (size <= 0) continue;
        {
          const std::lock_guard hold(lock_);
          last_.assign(request, static_cast<size_t>(size));
          ++requests_;
        }
        changed_.notify_all();
        const std::string answer = fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                                               status_, name_.size(), name_);
        (void)::send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
      }
    });
  }
  ~Backhand() {
    ::shutdown(fd_.get(), SHUT_RDWR);
    thread_.join();
  }
  size_t requests() {
    const std::lock_guard hold(lock_);
    return requests_;
  }
  // Waits until there were so many.
  size_t await(size_t requests) {
    std::unique_lock hold(lock_);
    changed_.wait_for(hold, std::chrono::seconds(20), [&] { return requests_ >= requests; });
    return requests_;
  }
  std::string last() {
    const std::lock_guard hold(lock_);
    return last_;
  }

 private:
  std::mutex lock_;
  std::condition_variable changed_;
  std::string last_;
  size_t requests_ = 0;
  std::string name_, status_;
  UniqueFd fd_;
  std::thread thread_;
};

inline std::string askWhole(std::string_view host, std::string_view path = "/", uint16_t port = 80,
                            std::string_view more = "", bool six = false) {
  UniqueFd fd(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (atLoopback(::connect, fd, port, six) != 0) return "refused";
  const std::string request =
      fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}Connection: close\r\n\r\n", path, host, more);
  (void)::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<size_t>(count));
  return answer;
}

// What the backend says, or the beginning of another answer.
inline std::string ask(std::string_view host, std::string_view path = "/", uint16_t port = 80,
                       std::string_view more = "", bool six = false) {
  const std::string answer = askWhole(host, path, port, more, six);
  if (!answer.starts_with("HTTP/1.1 200")) return answer.substr(0, std::min<size_t>(12, answer.size()));
  return answer.substr(answer.find("\r\n\r\n") + 4);
}

// A connection that stays, as browsers keep theirs.
class Kept {
 public:
  explicit Kept(bool six = false) : fd_(::socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    EXPECT_EQ(atLoopback(::connect, fd_, 80, six), 0);
  }
  // The body, or the status where it is not 200.
  std::string ask(std::string_view more = "") {
    const std::string request = fmt::format("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", more);
    (void)::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL);
    std::string answer;
    char buffer[4096];
    size_t body = std::string::npos;
    while (body == std::string::npos || answer.size() == body) {
      const ssize_t count = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (count <= 0) break;
      answer.append(buffer, static_cast<size_t>(count));
      if (body = answer.find("\r\n\r\n"); body != std::string::npos) body += 4;
    }
    return answer.starts_with("HTTP/1.1 200") ? answer.substr(body) : answer.substr(0, 12);
  }

 private:
  UniqueFd fd_;
};

#define EXPECT_APPLIED(expression)                          \
  do {                                                      \
    auto applied = (expression);                            \
    EXPECT_TRUE(applied.ok()) << applied.error().message(); \
  } while (false)

inline Config serving(const std::vector<Server>& servers) {
  Config config;
  config.frontends.resize(1);
  config.frontends[0].name = "i";
  config.frontends[0].listeners = {{80, false}};
  config.sites = {{"i|a.test", "i|a.test"}};
  config.prefixes = {{"i|a.test/", "web"}};
  config.backends["web"] = {{"balance roundrobin"}, "", servers, "", ""};
  return config;
}

// Runs the body on a thread whose network is its own; what it starts is in there, too.
inline void apart(const std::function<void(Haproxy::Options)>& body) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces";
  if (!pathExists("/usr/sbin/haproxy")) GTEST_SKIP() << "haproxy is not installed";
  auto folder = makeTempDir("/tmp", "haproxy-test-");
  ASSERT_TRUE(folder.ok());
  std::thread([&] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq up{};
    up.ifr_name[0] = 'l', up.ifr_name[1] = 'o';
    up.ifr_flags = IFF_UP;
    ASSERT_EQ(::ioctl(fd.get(), SIOCSIFFLAGS, &up), 0);
    Haproxy::Options options;
    options.folder = *folder + "/data";
    options.run = *folder + "/run";
    // HAProxy's workers are not root.
    ASSERT_EQ(::chmod(folder->c_str(), 0755), 0);
    options.filterSocket = *folder + "/filter.sock";
    options.address = "127.0.0.1";
    body(options);
    Haproxy end(options);
    (void)end.recover();
    EXPECT_TRUE(end.apply({}).ok());
    // A worker may end a moment after its master.
    while (ask("a.test").empty()) std::this_thread::yield();
    EXPECT_EQ(ask("a.test"), "refused");
  }).join();
  EXPECT_TRUE(removeTree(*folder).ok());
}

// Lines of the pipe, as many as are wanted.
inline std::vector<boost::json::object> linesOf(const UniqueFd& pipe, size_t wanted) {
  std::string text;
  char buffer[65536];
  for (int i = 0; i < 500 && std::count(text.begin(), text.end(), '\n') < static_cast<ptrdiff_t>(wanted); ++i) {
    struct pollfd one{pipe.get(), POLLIN, 0};
    ::poll(&one, 1, 10);
    if (const ssize_t count = ::read(pipe.get(), buffer, sizeof buffer); count > 0)
      text.append(buffer, static_cast<size_t>(count));
  }
  const std::string records = recordsIn(text);
  EXPECT_EQ(std::count(records.begin(), records.end(), '\n'), std::count(text.begin(), text.end(), '\n')) << text;
  std::vector<boost::json::object> out;
  for (const std::string& line : split(records, '\n')) {
    if (line.empty()) continue;
    boost::system::error_code error;
    auto value = boost::json::parse(line, error);
    EXPECT_FALSE(error) << line;
    if (!error) out.push_back(value.as_object());
  }
  return out;
}

}  // namespace dhow::ingress
