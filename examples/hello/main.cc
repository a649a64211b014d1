// A web server that tells which pod, node and zone answer: GET / is a page for browsers and text for others.
#include "server.h"

namespace {

using examples::escaped;
using examples::Place;

std::string plainText(const Place& place) {
  return "hello from pod " + place.pod + " on node " + place.node + " in zone " + place.zone + "\n";
}

std::string page(const Place& place) {
  return "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>hello</title><style>"
         "body{font:18px/1.6 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em;color:#123}"
         "dt{color:#678;float:left;width:5em}dd{margin-left:5em;font-weight:600}</style></head><body><h1>Hello</"
         "h1><dl><dt>Pod</dt><dd>" +
         escaped(place.pod) + "</dd><dt>Node</dt><dd>" + escaped(place.node) + "</dd><dt>Zone</dt><dd>" +
         escaped(place.zone) + "</dd></dl></body></html>\n";
}

class Hello final : public examples::Application {
 public:
  examples::Response answer(const examples::Request& request) override {
    if (request.method != "GET") return {.status = 405, .body = "only GET is served\n"};
    if (request.path != "/") return {.status = 404, .body = "not found\n"};
    if (request.wantsPage()) return {.type = "text/html; charset=utf-8", .body = page(place_)};
    return {.body = plainText(place_)};
  }

 private:
  Place place_ = Place::fromEnvironment();
};

}  // namespace

int main() {
  Hello hello;
  return examples::serve(hello, {.logRequests = true});
}
