// A program of several parts, each below a path of its own: /catalog, /orders, /accounts. PARTS tells which of them
// this process serves ("catalog,orders,accounts" when it is not set); NAME is what it calls itself.
#include "server.h"

#include <set>

namespace {

using examples::Request;
using examples::Response;

class Parts final : public examples::Application {
 public:
  Parts() {
    std::string parts = examples::fromEnv("PARTS", "catalog,orders,accounts") + ",";
    for (size_t comma = 0; (comma = parts.find(',')) != std::string::npos; parts.erase(0, comma + 1))
      if (comma > 0) parts_.insert(parts.substr(0, comma));
  }

  Response answer(const Request& request) override {
    if (request.path == "/") return {.body = name_ + " in pod " + place_.pod + " serves" + list() + "\n"};
    const std::string part = request.path.substr(1, request.path.find('/', 1) - 1);
    if (!parts_.contains(part)) return {.status = 404, .body = name_ + " has no " + part + "\n"};
    return {.body = part + " from " + name_ + " in pod " + place_.pod + "\n"};
  }

 private:
  std::string list() const {
    std::string out;
    for (const std::string& part : parts_) out += " " + part;
    return out;
  }

  examples::Place place_ = examples::Place::fromEnvironment();
  std::string name_ = examples::fromEnv("NAME", "monolith");
  std::set<std::string> parts_;
};

}  // namespace

int main() {
  Parts parts;
  return examples::serve(parts, {.logRequests = true});
}
