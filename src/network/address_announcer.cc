#include "network/address_announcer.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sys/socket.h>

#include <boost/asio/posix/stream_descriptor.hpp>

#include <cstring>

#include "base/fd.h"
#include "base/log.h"
#include "base/strings.h"
#include "neighbour_wire.h"
#include "network/links.h"

namespace dhow {

namespace asio = boost::asio;
using neighbour::Mac;

namespace {

constexpr int kAnnouncements = 3;  // of an address that has moved, as one may get lost
constexpr int kPacketsPerTurn = 64;

// Of all IPv6 packets only neighbour solicitations: next header 58, type 135.
Result<> onlySolicitations(int fd) {
  constexpr uint32_t kNextHeader = 6, kType = 40, kIcmp6 = 58, kSolicitation = 135, kWhole = 0xffff;
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kNextHeader),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kIcmp6, 0, 3),
                        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kType),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kSolicitation, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, kWhole),
                        BPF_STMT(BPF_RET | BPF_K, 0)};
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    return Error::fromErrno("filter packets");
  return {};
}

sockaddr_ll linkAddress(int link, uint16_t type, const Mac& to) {
  sockaddr_ll out{};
  out.sll_family = AF_PACKET;
  out.sll_protocol = htons(type);
  out.sll_ifindex = link;
  out.sll_halen = ETH_ALEN;
  std::copy(to.begin(), to.end(), out.sll_addr);
  return out;
}

}  // namespace

struct AddressAnnouncer::Rep : std::enable_shared_from_this<Rep> {
  Rep(Loop& l, Options o)
      : loop(l),
        options(std::move(o)),
        election({.self = options.node, .silence = options.silence}),
        arp(l.executor()),
        ndp(l.executor()),
        beats(l.executor()) {}

  using Socket = asio::posix::stream_descriptor;

  Result<> open(Socket& socket, uint16_t type) {
    UniqueFd fd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return Error::fromErrno("open packet socket");
    if (type == ETH_P_IPV6) RETURN_IF_ERROR(onlySolicitations(fd.get()));
    const sockaddr_ll at = linkAddress(link, type, Mac{});
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0)
      return Error::fromErrno("bind packet socket to " + options.link);
    boost::system::error_code error;
    socket.assign(fd.get(), error);
    if (error) return Error(Code::kInternal, "packet socket: " + error.message());
    fd.release();
    return {};
  }

  Result<> join(Socket& socket, const Mac& group, bool in = true) {
    packet_mreq request{};
    request.mr_ifindex = link;
    request.mr_type = PACKET_MR_MULTICAST;
    request.mr_alen = ETH_ALEN;
    std::copy(group.begin(), group.end(), request.mr_address);
    if (::setsockopt(socket.native_handle(), SOL_PACKET, in ? PACKET_ADD_MEMBERSHIP : PACKET_DROP_MEMBERSHIP, &request,
                     sizeof request) != 0)
      return Error::fromErrno("join a group on " + options.link);
    return {};
  }

  void send(Socket& socket, uint16_t type, const Mac& to, const std::string& packet) {
    const sockaddr_ll at = linkAddress(link, type, to);
    if (::sendto(socket.native_handle(), packet.data(), packet.size(), 0, reinterpret_cast<const sockaddr*>(&at),
                 sizeof at) < 0)
      log::debug("announce", "send on {}: {}", options.link, std::strerror(errno));
  }

  void wait(Socket& socket, void (Rep::*take)(std::string_view, const Mac&)) {
    if (!socket.is_open()) return;
    socket.async_wait(Socket::wait_read,
                      [weak = weak_from_this(), &socket, take](const boost::system::error_code& error) {
                        auto self = weak.lock();
                        if (self && error != asio::error::operation_aborted) self->receive(socket, take);
                      });
  }

  void receive(Socket& socket, void (Rep::*take)(std::string_view, const Mac&)) {
    char buffer[2048];
    for (int i = 0; i < kPacketsPerTurn && socket.is_open(); i++) {
      sockaddr_ll from{};
      socklen_t size = sizeof from;
      const ssize_t n =
          ::recvfrom(socket.native_handle(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
      if (n < 0) break;  // all is read, or the link is down
      if (from.sll_pkttype == PACKET_OUTGOING) continue;
      Mac sender{};
      std::copy_n(from.sll_addr, sender.size(), sender.begin());
      (this->*take)(std::string_view(buffer, static_cast<size_t>(n)), sender);
    }
    wait(socket, take);
  }

  void takeArp(std::string_view packet, const Mac&) {
    auto question = neighbour::readArp(packet);
    if (!question || !election.held().contains(question->target)) return;
    send(arp, ETH_P_ARP, question->asker, neighbour::arpReply(*question, mac));
  }

  void takeSolicitation(std::string_view packet, const Mac& sender) {
    auto question = neighbour::readSolicitation(packet);
    if (!question || !election.held().contains(question->target)) return;
    const bool nobody = question->from.isUnspecified();
    const Mac to = nobody ? Mac{0x33, 0x33, 0, 0, 0, 1} : question->asker == Mac{} ? sender : question->asker;
    send(ndp, ETH_P_IPV6, to, neighbour::advertisement(question->target, mac, &*question));
  }

  void takeBeat(std::string_view packet, const Mac&) {
    auto beat = neighbour::readBeat(packet);
    if (beat && election.heard(*beat, loop.now())) decide();
  }

  void announce(const IpAddress& address) {
    if (address.isV4()) {
      send(arp, ETH_P_ARP, neighbour::kEverybody, neighbour::arpAnnouncement(address, mac));
    } else {
      send(ndp, ETH_P_IPV6, {0x33, 0x33, 0, 0, 0, 1}, neighbour::advertisement(address, mac, nullptr));
    }
  }

  void decide() {
    if (stopping) return;
    const auto decision = election.decide(loop.now());
    for (const IpAddress& address : decision.taken) {
      log::info("announce", "{} is answered for on {}", address.str(), options.link);
      if (address.isV6()) {
        if (auto in = join(ndp, neighbour::groupMac(neighbour::solicitedNode(address))); !in.ok())
          log::warn("announce", "{}: {}", address.str(), in.error().message());
      }
    }
    for (const IpAddress& address : decision.givenUp) {
      log::info("announce", "{} is no longer answered for", address.str());
      if (address.isV6()) (void)join(ndp, neighbour::groupMac(neighbour::solicitedNode(address)), false).ok();
      due.erase(address);
    }
    const bool moved = !decision.taken.empty() || !decision.givenUp.empty();
    // First what tells the other nodes, so that as few as possible think that nobody has it.
    if (moved || !decision.again.empty()) tellBeat(false);
    for (const auto* some : {&decision.taken, &decision.again}) {
      for (const IpAddress& address : *some) {
        announce(address);
        due[address] = kAnnouncements - 1;
      }
    }
    deadline.cancel();
    const TimePoint next = election.next(loop.now());
    if (next != TimePoint::max()) deadline = loop.after(next - loop.now(), [this] { decide(); });
    if (election.wanted() && !pulse) beat();
  }

  void tellBeat(bool leaving) {
    AnnounceBeat whole = election.beat();
    whole.leaving = leaving;
    std::vector<IpAddress> held = std::exchange(whole.held, {});
    for (size_t at = 0; at == 0 || at < held.size(); at += neighbour::kBeatAddresses) {
      const size_t end = std::min(held.size(), at + neighbour::kBeatAddresses);
      whole.held.assign(held.begin() + static_cast<std::ptrdiff_t>(at),
                        held.begin() + static_cast<std::ptrdiff_t>(end));
      whole.more = end < held.size();
      send(beats, neighbour::kBeatType, neighbour::kBeatGroup, neighbour::writeBeat(whole));
    }
  }

  void beat() {
    pulse = Timer();
    if (stopping || !election.wanted()) return;
    tellBeat(false);
    for (auto it = due.begin(); it != due.end();) {
      announce(it->first);
      it = --it->second == 0 ? due.erase(it) : std::next(it);
    }
    pulse = loop.after(options.beat, [this] { beat(); });
  }

  Loop& loop;
  const Options options;
  AddressElection election;
  Socket arp, ndp, beats;
  int link = 0;
  Mac mac{};
  std::map<IpAddress, int> due;  // announcements that are still to be repeated
  Timer pulse, deadline;
  bool stopping = false;
};

AddressAnnouncer::AddressAnnouncer(Loop& loop, Options options)
    : rep_(std::make_shared<Rep>(loop, std::move(options))) {}

AddressAnnouncer::~AddressAnnouncer() {
  stop();
}

Result<> AddressAnnouncer::start() {
  Rep& r = *rep_;
  ASSIGN_OR_RETURN(auto links, NetLinks::open());
  ASSIGN_OR_RETURN(const Link link, links.find(r.options.link));
  auto mac = neighbour::parseMac(link.mac);
  if (!mac) return Error(Code::kFailedPrecondition, r.options.link + " has no Ethernet address");
  r.link = link.index;
  r.mac = *mac;
  RETURN_IF_ERROR(r.open(r.arp, ETH_P_ARP));
  RETURN_IF_ERROR(r.open(r.ndp, ETH_P_IPV6));
  RETURN_IF_ERROR(r.open(r.beats, neighbour::kBeatType));
  RETURN_IF_ERROR(r.join(r.beats, neighbour::kBeatGroup));
  r.wait(r.arp, &Rep::takeArp);
  r.wait(r.ndp, &Rep::takeSolicitation);
  r.wait(r.beats, &Rep::takeBeat);
  return {};
}

void AddressAnnouncer::stop() {
  Rep& r = *rep_;
  if (r.stopping) return;
  r.stopping = true;
  if (r.beats.is_open() && r.election.wanted()) r.tellBeat(true);
  r.pulse.cancel();
  r.deadline.cancel();
  boost::system::error_code error;
  for (auto* socket : {&r.arp, &r.ndp, &r.beats}) socket->close(error);
}

void AddressAnnouncer::setWanted(AddressElection::Wanted wanted) {
  rep_->election.setWanted(std::move(wanted), rep_->loop.now());
  rep_->decide();
}

void AddressAnnouncer::setHealth(NodeHealth health) {
  rep_->election.setHealth(health);
  rep_->decide();
}

const std::set<IpAddress>& AddressAnnouncer::held() const {
  return rep_->election.held();
}

}  // namespace dhow
