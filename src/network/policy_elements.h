// What policies become in the table's sets. Private to the policy table.
//
// Everything is numbered: a pod's rules in one direction (a class), the ways in which rules see a pod (an identity), a
// piece of the address space that no block divides, and a range of ports that no other range divides. A number means
// the same for ever, so that a packet that meets an old number and a new one is never allowed what neither allows.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "network/policy_table.h"
#include "nft.h"

namespace dhow::policies {

// Address of a pod here -> its class.
inline constexpr const char* kIngress = "ingress-classes";
inline constexpr const char* kEgress = "egress-classes";
// Address of a pod -> identity. Addresses -> piece (after a constant: pipapo sets have two fields).
inline constexpr const char* kPods = "pods";
inline constexpr const char* kBlocks = "blocks";
// Protocol and ports -> range.
inline constexpr const char* kRanges = "ranges";
// Class, peer (identity, piece, or 0 for everyone), range (0 for everything).
inline constexpr const char* kAllowed = "allowed";
// Class, peer, protocol, port.
inline constexpr const char* kAllowedPorts = "allowed-ports";
// Pods here, twice: who talks to himself.
inline constexpr const char* kSelf = "self";

struct Piece {
  IpAddress first, last;
  auto operator<=>(const Piece&) const = default;
};

// Numbers for things, given on first use and never given again.
template <class T>
using Numbers = std::map<T, uint32_t>;

struct Vocabulary {
  Numbers<std::vector<PolicyRule>> classes;
  Numbers<PolicyPeer> identities;
  Numbers<Piece> pieces;
  Numbers<PortRange> ranges;
};

// The pieces into which the blocks of the rules cut the addresses of one family and that are in a block; the ranges.
std::vector<Piece> piecesOf(const std::vector<const std::vector<PolicyRule>*>& rules);
std::vector<PortRange> rangesOf(const std::vector<const std::vector<PolicyRule>*>& rules);

// Set -> key and its end -> element.
using Elements = std::map<std::string, std::map<std::string, NftBatch::Element>>;
// What is allowed, for each class and each kind of peer.
void addAllowed(const Vocabulary& vocabulary, Elements& out);
void addElement(Elements& out, const char* set, const std::string& key, const std::string& data = "",
                const std::string& keyEnd = "");

// Sets and hooks, in a table that may be there already; empties them; fills the chains.
void buildSkeleton(NftBatch& batch);
void clearSkeleton(NftBatch& batch);
void buildRules(NftBatch& batch, const PolicyTableOptions& options);  // of the batch's family, as all of these

}  // namespace dhow::policies
