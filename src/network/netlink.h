// Netlink sockets and messages, for this folder only. A message is built in place; a batch is many messages in one
// send, answered one by one.
#pragma once

#include <libmnl/libmnl.h>

#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace dhow {

// One message under construction. Grows no further than 16 KiB, which every message of ours is far below.
class NetlinkMessage {
 public:
  NetlinkMessage(uint16_t type, uint16_t flags);
  NetlinkMessage(const NetlinkMessage&) = delete;
  NetlinkMessage& operator=(const NetlinkMessage&) = delete;
  template <class T>
  T* extra() {
    return static_cast<T*>(mnl_nlmsg_put_extra_header(header(), sizeof(T)));
  }
  nlmsghdr* header() { return reinterpret_cast<nlmsghdr*>(buffer_); }
  void put(uint16_t type, std::string_view bytes) { mnl_attr_put(header(), type, bytes.size(), bytes.data()); }
  void putString(uint16_t type, const std::string& text) { mnl_attr_put_strz(header(), type, text.c_str()); }
  void put8(uint16_t type, uint8_t value) { mnl_attr_put_u8(header(), type, value); }
  void put16(uint16_t type, uint16_t value) { mnl_attr_put_u16(header(), type, value); }
  void put32(uint16_t type, uint32_t value) { mnl_attr_put_u32(header(), type, value); }
  nlattr* nest(uint16_t type) { return mnl_attr_nest_start(header(), type); }
  void end(nlattr* nest) { mnl_attr_nest_end(header(), nest); }
  // Room for a raw structure inside a nest (VETH_INFO_PEER holds an ifinfomsg).
  template <class T>
  T* raw() {
    auto* at = static_cast<T*>(mnl_nlmsg_get_payload_tail(header()));
    std::memset(at, 0, sizeof(T));
    header()->nlmsg_len += MNL_ALIGN(sizeof(T));
    return at;
  }
  std::string_view bytes() { return {buffer_, header()->nlmsg_len}; }

 private:
  alignas(8) char buffer_[16384];
};

using NetlinkVisitor = std::function<void(const nlmsghdr*)>;

class NetlinkSocket {
 public:
  // In the namespace of the calling thread.
  static Result<NetlinkSocket> open(int family);

  // Sends one message and waits for its acknowledgement.
  Result<> request(NetlinkMessage& message, std::string_view attempted);
  // Sends all in one piece (each must fit its acknowledgement); the first error is returned, after all were tried.
  Result<> batch(std::vector<std::unique_ptr<NetlinkMessage>>& messages, std::string_view attempted);
  // Sends a dump or a get and shows each answer.
  Result<> dump(NetlinkMessage& message, const NetlinkVisitor& visit, std::string_view attempted);
  int fd() const { return fd_.get(); }
  uint32_t nextSequence() { return ++sequence_; }

 private:
  UniqueFd fd_;
  uint32_t sequence_ = 0;
};

// Attributes of a message by type; the pointers live as long as the message.
std::vector<const nlattr*> netlinkAttributes(const nlmsghdr* message, size_t headerSize, uint16_t maxType);
std::vector<const nlattr*> nestedAttributes(const nlattr* nest, uint16_t maxType);

}  // namespace dhow
