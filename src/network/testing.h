// Namespaces with tiny servers and clients, for the tests of this folder.
#pragma once

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include "network/links.h"

namespace dhow {

#define SKIP_UNLESS_ROOT() \
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make network namespaces"

#define ASSERT_OK(expression)                                   \
  do {                                                          \
    auto&& assertOk_ = (expression);                            \
    ASSERT_TRUE(assertOk_.ok()) << assertOk_.error().message(); \
  } while (false)
#define EXPECT_OK(expression)                                   \
  do {                                                          \
    auto&& expectOk_ = (expression);                            \
    EXPECT_TRUE(expectOk_.ok()) << expectOk_.error().message(); \
  } while (false)

// Runs the body on a thread inside the namespace. ASSERT_ may be used in it.
inline void within(const Netns& netns, std::function<void()> body) {
  auto done = runInNetns(netns.fd(), [&]() -> Result<> {
    body();
    return {};
  });
  EXPECT_TRUE(done.ok()) << done.error().message();
}

// Of the family that the text is.
inline sockaddr_storage socketAddress(const std::string& ip, uint16_t port) {
  sockaddr_storage out{};
  if (ip.find(':') == std::string::npos) {
    auto& four = reinterpret_cast<sockaddr_in&>(out);
    four.sin_family = AF_INET;
    four.sin_port = htons(port);
    inet_pton(AF_INET, ip.c_str(), &four.sin_addr);
  } else {
    auto& six = reinterpret_cast<sockaddr_in6&>(out);
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(port);
    inet_pton(AF_INET6, ip.c_str(), &six.sin6_addr);
  }
  return out;
}

// Answers each connection, or datagram, with "<name> <client's address>" (and echoes lines on TCP afterwards).
class TestServer {
 public:
  TestServer(const Netns& netns, std::string name, uint16_t port, bool udp = false, const char* at = "0.0.0.0")
      : name_(std::move(name)), udp_(udp) {
    auto address = socketAddress(at, port);
    auto made = socketInNetns(netns.fd(), address.ss_family, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    EXPECT_TRUE(made.ok());
    fd_ = std::move(*made);
    int one = 1;
    setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (address.ss_family == AF_INET6) setsockopt(fd_.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    EXPECT_EQ(0, bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)) << strerror(errno);
    if (!udp) EXPECT_EQ(0, listen(fd_.get(), 64));
    stop_.reset(eventfd(0, EFD_CLOEXEC));
    thread_ = std::thread([this] { run(); });
  }
  ~TestServer() {
    uint64_t one = 1;
    EXPECT_EQ(8, write(stop_.get(), &one, 8));
    thread_.join();
  }

 private:
  std::string answer(const sockaddr_storage& from) {
    char text[64];
    const void* address = &reinterpret_cast<const sockaddr_in&>(from).sin_addr;
    if (from.ss_family == AF_INET6) address = &reinterpret_cast<const sockaddr_in6&>(from).sin6_addr;
    inet_ntop(from.ss_family, address, text, sizeof text);
    return name_ + " " + text + "\n";
  }
  void run() {
    std::vector<pollfd> polled = {{stop_.get(), POLLIN, 0}, {fd_.get(), POLLIN, 0}};
    std::vector<UniqueFd> clients;
    for (;;) {
      poll(polled.data(), polled.size(), -1);
      if (polled[0].revents != 0) return;
      if (polled[1].revents != 0) {
        sockaddr_storage from{};
        socklen_t size = sizeof from;
        if (udp_) {
          char buffer[512];
          recvfrom(fd_.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
          auto text = answer(from);
          sendto(fd_.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
        } else {
          UniqueFd client(accept4(fd_.get(), reinterpret_cast<sockaddr*>(&from), &size, SOCK_CLOEXEC));
          auto text = answer(from);
          send(client.get(), text.data(), text.size(), MSG_NOSIGNAL);
          polled.push_back({client.get(), POLLIN, 0});
          clients.push_back(std::move(client));
        }
      }
      for (size_t i = 2; i < polled.size();) {
        char buffer[512];
        if (polled[i].revents != 0) {
          ssize_t n = recv(polled[i].fd, buffer, sizeof buffer, 0);
          if (n <= 0) {
            polled.erase(polled.begin() + static_cast<long>(i));
            clients.erase(clients.begin() + static_cast<long>(i - 2));
            continue;
          }
          send(polled[i].fd, buffer, static_cast<size_t>(n), MSG_NOSIGNAL);
        }
        i++;
      }
    }
  }
  std::string name_;
  bool udp_;
  UniqueFd fd_, stop_;
  std::thread thread_;
};

// A connection from inside a namespace; what it read first, or the error's name.
class TestClient {
 public:
  TestClient(const Netns& netns, const std::string& ip, uint16_t port, bool udp = false, int timeoutMs = 15000) {
    auto address = socketAddress(ip, port);
    auto made = socketInNetns(netns.fd(), address.ss_family, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    EXPECT_TRUE(made.ok());
    fd_ = std::move(*made);
    timeval limit{timeoutMs / 1000, timeoutMs % 1000 * 1000};
    setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      first_ = failure();
      return;
    }
    if (udp) send(fd_.get(), "hi", 2, 0);
    first_ = read();
  }
  const std::string& first() const { return first_; }
  std::string server() const { return first_.substr(0, first_.find(' ')); }
  std::string seenAs() const { return first_.substr(first_.find(' ') + 1); }
  std::string echo(const std::string& line) {
    send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL);
    return read();
  }

 private:
  static std::string failure() {
    if (errno == ECONNREFUSED) return "refused";
    if (errno == EAGAIN || errno == EINPROGRESS || errno == ETIMEDOUT) return "timeout";
    return std::strerror(errno);
  }
  std::string read() {
    char buffer[512];
    ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
    if (n < 0) return failure();
    std::string out(buffer, static_cast<size_t>(n));
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }
  UniqueFd fd_;
  std::string first_;
};

// What the kernel or another thread does in its own time, within three seconds.
inline bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 300; i++) {
    if (holds()) return true;
    ::usleep(10000);
  }
  return false;
}

}  // namespace dhow
