#include "netlink.h"

#include <sys/socket.h>

#include <linux/netlink.h>

namespace dhow {

NetlinkMessage::NetlinkMessage(uint16_t type, uint16_t flags) {
  mnl_nlmsg_put_header(buffer_);
  header()->nlmsg_type = type;
  header()->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
}

Result<NetlinkSocket> NetlinkSocket::open(int family) {
  NetlinkSocket out;
  out.fd_.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family));
  if (!out.fd_) return Error::fromErrno("open netlink socket");
  sockaddr_nl self{};
  self.nl_family = AF_NETLINK;
  if (::bind(out.fd_.get(), reinterpret_cast<sockaddr*>(&self), sizeof self) != 0) {
    return Error::fromErrno("bind netlink socket");
  }
  int one = 1;
  ::setsockopt(out.fd_.get(), SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
  int size = 8 << 20;
  if (::setsockopt(out.fd_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) != 0) {
    ::setsockopt(out.fd_.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  }
  if (::setsockopt(out.fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0) {
    ::setsockopt(out.fd_.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  }
  return out;
}

namespace {

Result<> sendAll(int fd, const std::string& bytes, std::string_view attempted) {
  ssize_t n;
  do {
    n = ::send(fd, bytes.data(), bytes.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return Error::fromErrno(attempted);
  return {};
}

// Calls `each` for every message until it says that it has seen enough.
Result<> receive(int fd, std::string_view attempted, const std::function<bool(const nlmsghdr*)>& more) {
  alignas(8) static thread_local char buffer[65536];
  for (;;) {
    ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error::fromErrno(attempted);
    int left = static_cast<int>(n);
    for (auto* h = reinterpret_cast<const nlmsghdr*>(buffer); mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
      if (!more(h)) return {};
    }
  }
}

int errorOf(const nlmsghdr* h) {
  return -static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(h))->error;
}

}  // namespace

Result<> NetlinkSocket::request(NetlinkMessage& message, std::string_view attempted) {
  message.header()->nlmsg_flags |= NLM_F_ACK;
  message.header()->nlmsg_seq = nextSequence();
  RETURN_IF_ERROR(sendAll(fd_.get(), std::string(message.bytes()), attempted));
  int error = 0;
  RETURN_IF_ERROR(receive(fd_.get(), attempted, [&](const nlmsghdr* h) {
    if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq != sequence_) return true;
    error = errorOf(h);
    return false;
  }));
  if (error != 0) return Error::fromErrno(error, attempted);
  return {};
}

Result<> NetlinkSocket::batch(std::vector<std::unique_ptr<NetlinkMessage>>& messages, std::string_view attempted) {
  if (messages.empty()) return {};
  std::string bytes;
  uint32_t first = sequence_ + 1;
  for (auto& message : messages) {
    message->header()->nlmsg_flags |= NLM_F_ACK;
    message->header()->nlmsg_seq = nextSequence();
    bytes.append(message->bytes());
    bytes.resize(MNL_ALIGN(bytes.size()));
  }
  RETURN_IF_ERROR(sendAll(fd_.get(), bytes, attempted));
  int error = 0;
  RETURN_IF_ERROR(receive(fd_.get(), attempted, [&](const nlmsghdr* h) {
    if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq < first) return true;
    if (error == 0) error = errorOf(h);
    return h->nlmsg_seq != sequence_;
  }));
  if (error != 0) return Error::fromErrno(error, attempted);
  return {};
}

Result<> NetlinkSocket::dump(NetlinkMessage& message, const NetlinkVisitor& visit, std::string_view attempted) {
  bool isDump = (message.header()->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  if (!isDump) message.header()->nlmsg_flags |= NLM_F_ACK;
  message.header()->nlmsg_seq = nextSequence();
  RETURN_IF_ERROR(sendAll(fd_.get(), std::string(message.bytes()), attempted));
  int error = 0;
  RETURN_IF_ERROR(receive(fd_.get(), attempted, [&](const nlmsghdr* h) {
    if (h->nlmsg_seq != sequence_) return true;
    if (h->nlmsg_type == NLMSG_ERROR) {
      error = errorOf(h);
      return false;
    }
    if (h->nlmsg_type == NLMSG_DONE) return false;
    visit(h);
    return true;
  }));
  if (error != 0) return Error::fromErrno(error, attempted);
  return {};
}

namespace {
struct Collector {
  std::vector<const nlattr*>* out;
};
int collect(const nlattr* attribute, void* data) {
  auto& out = *static_cast<Collector*>(data)->out;
  uint16_t type = mnl_attr_get_type(attribute);
  if (type < out.size()) out[type] = attribute;
  return MNL_CB_OK;
}
}  // namespace

std::vector<const nlattr*> netlinkAttributes(const nlmsghdr* message, size_t headerSize, uint16_t maxType) {
  std::vector<const nlattr*> out(maxType + 1u);
  Collector collector{&out};
  mnl_attr_parse(message, static_cast<unsigned>(headerSize), collect, &collector);
  return out;
}

std::vector<const nlattr*> nestedAttributes(const nlattr* nest, uint16_t maxType) {
  std::vector<const nlattr*> out(maxType + 1u);
  Collector collector{&out};
  mnl_attr_parse_nested(nest, collect, &collector);
  return out;
}

}  // namespace dhow
