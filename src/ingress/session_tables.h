// The users that HAProxy's stick tables hold (backend_lines.h: sessionLines), put together from the tables of the
// worker that serves and of those that a reload has replaced, and remembered: a new worker begins with empty tables and
// is given what is missing. Private to this folder.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/sessions.h"

namespace dhow::ingress {

class SessionTables {
 public:
  struct User {
    int64_t server = 0;  // id: its place in the backend, counted from 1
    int64_t seen = 0;    // seconds since 1970; 0: has ended its session
    bool operator==(const User&) const = default;
  };
  using Table = std::unordered_map<std::string, User>;

  // What `show table` answered. A user with a request under way is seen `now`.
  static Table parse(std::string_view answer, int64_t now);
  // Connections by backend and server, of what `show stat -1 4 -1` answered.
  static void addConnections(std::string_view answer, std::map<std::string, std::map<std::string, uint64_t>>& into);

  // What is true of a table now; the first of `tables` is of the worker that serves. Gives the commands that tell this
  // worker what it does not know.
  std::vector<std::string> update(const std::string& table, std::vector<Table> tables, int64_t idle, int64_t now);
  // Tables that no backend has any more.
  void keepOnly(const std::map<std::string, int64_t>& tables);
  // Its users are not another's who gets the place.
  void forgetServer(const std::string& table, int64_t server);
  struct Users {
    client::UserSample there, ended;
  };
  // By the server's id.
  std::map<int64_t, Users> users(const std::string& table) const;

 private:
  std::map<std::string, Table> tables_;
};

}  // namespace dhow::ingress
