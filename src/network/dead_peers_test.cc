#include "network/dead_peers.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>

#include "base/fd.h"

namespace dhow {
namespace {

// A connection through a listener of its own on this machine.
struct Connection {
  explicit Connection(const std::string& address) : family(address.find(':') == address.npos ? AF_INET : AF_INET6) {
    UniqueFd listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage at{};
    at.ss_family = static_cast<sa_family_t>(family);
    void* into = family == AF_INET ? static_cast<void*>(&reinterpret_cast<sockaddr_in*>(&at)->sin_addr)
                                   : static_cast<void*>(&reinterpret_cast<sockaddr_in6*>(&at)->sin6_addr);
    EXPECT_EQ(::inet_pton(family, address.c_str(), into), 1);
    socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&at), size), 0) << std::strerror(errno);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
    port = ntohs(reinterpret_cast<sockaddr_in*>(&at)->sin_port);  // at the same place in both
    client.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&at), size), 0) << std::strerror(errno);
    server.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    peer = {IpAddress::parse(address).value(), port};
  }
  // What the client reads now: the bytes, or the error's name.
  std::string read() const {
    char bytes[16];
    const ssize_t n = ::recv(client.get(), bytes, sizeof bytes, MSG_DONTWAIT);
    return n >= 0 ? std::string(bytes, static_cast<size_t>(n)) : ::strerrorname_np(errno);
  }
  int family;
  uint16_t port = 0;
  UniqueFd client, server;
  TcpPeer peer;
};

TEST(DeadPeers, ConnectionsWithThemEndAndOthersGoOn) {
  Connection four("127.9.8.7"), six("::1"), other("127.9.8.7"), elsewhere("127.9.8.6");
  auto ended = endConnectionsWith({four.peer, six.peer, {elsewhere.peer.first, four.port}});
  if (!ended.ok() && ended.error().errnum() == EOPNOTSUPP) GTEST_SKIP() << "the kernel cannot";
  ASSERT_TRUE(ended.ok()) << ended.error().message();
  EXPECT_EQ(*ended, 2u);
  EXPECT_EQ(four.read(), "ECONNABORTED");
  EXPECT_EQ(six.read(), "ECONNABORTED");
  EXPECT_EQ(other.read(), "EAGAIN");
  EXPECT_EQ(elsewhere.read(), "EAGAIN");
  EXPECT_EQ(endConnectionsWith({four.peer}).value(), 0u);
  EXPECT_EQ(endConnectionsWith({}).value(), 0u);
}

TEST(DeadPeers, WhatOneSaidBeforeItClosedIsRead) {
  Connection one("127.9.8.7");
  ASSERT_EQ(::send(one.server.get(), "answer", 6, 0), 6);
  one.server.reset();
  EXPECT_EQ(endConnectionsWith({one.peer}).value(), 0u);
  EXPECT_EQ(one.read(), "answer");
  EXPECT_EQ(one.read(), "");
}

}  // namespace
}  // namespace dhow
