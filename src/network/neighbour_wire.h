// What is said to neighbours on a segment: ARP (RFC 826, 5227), neighbour discovery (RFC 4861) and the beats of nodes
// that share load-balanced addresses. Reads whatever comes without trusting it; no I/O. For this folder only.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "network/address_election.h"

namespace dhow::neighbour {

using Mac = std::array<uint8_t, 6>;
inline constexpr Mac kEverybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
// Beats: the type that IEEE 802 leaves to local use, sent to a group address of local use. Not IP, so no host's
// firewall is in the way, no router passes it on, and no pod can send it.
inline constexpr uint16_t kBeatType = 0x88b5;
inline constexpr Mac kBeatGroup{0x03, 0x44, 0x48, 0x4f, 0x57, 0x01};

std::optional<Mac> parseMac(std::string_view text);

struct Question {
  IpAddress target;
  Mac asker{};
  IpAddress from;  // unspecified or empty: it asks whether the address is free
};
// From behind the Ethernet header.
std::optional<Question> readArp(std::string_view packet);
std::optional<Question> readSolicitation(std::string_view packet);

std::string arpReply(const Question& question, const Mac& own);
// "This address lives here": a request for itself, to everybody.
std::string arpAnnouncement(const IpAddress& address, const Mac& own);
// An IPv6 packet; of a question of nobody, and without one, it goes to all nodes.
std::string advertisement(const IpAddress& address, const Mac& own, const Question* question);
// Where an IPv6 packet to a group goes.
Mac groupMac(const IpAddress& group);
// The group that solicitations for the address are sent to.
IpAddress solicitedNode(const IpAddress& address);

// At most kBeatAddresses addresses; what is more belongs into another beat.
inline constexpr size_t kBeatAddresses = 64;
std::string writeBeat(const AnnounceBeat& beat);
std::optional<AnnounceBeat> readBeat(std::string_view packet);

}  // namespace dhow::neighbour
