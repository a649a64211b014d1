// What clients show by Basic authentication (RFC 7617), checked against lists of users: lines of "name:hash". What was
// right is remembered, so that a slow hash is paid for once; a list's hashes are computed one at a time, so that
// nobody who tries passwords of one keeps those of others waiting. On the loop's thread. Private to this folder.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "base/blocking.h"
#include "base/gate.h"
#include "base/result.h"

namespace dhow::ingress {

// "name:password"; nothing when it is no Basic authentication.
std::optional<std::string> basicCredentials(std::string_view authorization);
// The hash of the first line that is the user's; empty when there is none.
std::string_view hashOf(std::string_view list, std::string_view user);

class Passwords {
 public:
  // Gives the text of a list; the same name is the same text. On a thread of a pool.
  using Read = std::function<Result<std::string>(const std::string& list)>;
  Passwords(Loop& loop, Read read);
  // Whether the list has the user with this password. kUnavailable when nobody can say now.
  Task<Result<bool>> check(std::string list, std::string authorization);
  uint64_t computed() const { return computed_; }

 private:
  struct Turn {
    explicit Turn(Loop& loop) : freed(loop) {}
    Signal freed;
    bool taken = false;
    size_t wanted = 0;
  };
  Result<bool> compute(const std::string& list, const std::string& credentials) const;
  void remember(const std::string& key);

  Loop& loop_;
  const Read read_;
  const std::string secret_;
  std::map<std::string, std::shared_ptr<Turn>> turns_;  // of lists that are asked for now
  std::unordered_set<std::string> right_;               // digests
  std::deque<std::string> order_;                       // of right_, the oldest first
  uint64_t computed_ = 0;
  BlockingPool pool_;
};

}  // namespace dhow::ingress
