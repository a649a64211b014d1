// A web shop that keeps its customers' carts in memory, as many applications do: when the process ends they are gone.
//   GET /                  the shop as a page, or a line of text
//   GET /cart              the cart as JSON; a customer without a session gets one, by a cookie
//   POST /cart?item=tea    one more of that in the cart
//   POST /checkout         buys what is in the cart and ends the session
//   GET /chat              a WebSocket, where each message is answered; over gRPC: shop.Chat/Talk (shop.proto)
#include <sys/random.h>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <map>
#include <unordered_map>

#include "grpc.h"
#include "websocket.h"

namespace {

using examples::escaped;
using examples::Place;
using examples::Request;
using examples::Response;

constexpr const char* kCookie = "shop_session";
constexpr std::string_view kHtml = "text/html; charset=utf-8", kJson = "application/json";
constexpr std::array<std::string_view, 3> kItems = {"tea", "rope", "sail"};
constexpr size_t kMaxSessions = 100'000;
constexpr time_t kForgottenAfter = 30 * 60;  // seconds without a request

struct Session {
  std::map<std::string_view, int> cart;
  time_t lastUsed = 0;
  int items() const {
    int count = 0;
    for (const auto& [item, number] : cart) count += number;
    return count;
  }
};

class Shop final : public examples::Application {
 public:
  Response answer(const Request& request) override {
    const bool post = request.method == "POST";
    if (request.method != "GET" && !post) return {.status = 405, .body = "only GET and POST are served\n"};
    if (request.path == "/checkout" && post) return checkout(request);
    if (request.path != "/cart" && (request.path != "/" || post)) return {.status = 404, .body = "not found\n"};
    std::string id(examples::cookie(request.head, kCookie));
    auto found = sessions_.find(id);
    Response response;
    if (found == sessions_.end()) {
      forget();
      id = newId();
      found = sessions_.emplace(id, Session{}).first;
      response.headers.emplace_back("Set-Cookie", std::string(kCookie) + "=" + id + "; Path=/; HttpOnly; SameSite=Lax");
    }
    Session& session = found->second;
    session.lastUsed = std::time(nullptr);
    if (post) {
      // A form has it in the body.
      std::string_view wanted = examples::parameter(request.query, "item");
      if (wanted.empty()) wanted = examples::parameter(request.body, "item");
      const auto* item = std::find(kItems.begin(), kItems.end(), wanted);
      if (item == kItems.end()) return {.status = 400, .body = "no such item\n"};
      ++session.cart[*item];
      if (request.wantsPage()) {
        response.status = 303;
        response.headers.emplace_back("Location", "/");
      }
    }
    if (request.path == "/cart") {
      response.type = kJson;
      response.body = json(id, session);
    } else if (request.wantsPage()) {
      response.type = kHtml;
      response.body = page(session);
    } else {
      response.body = "shop in pod " + place_.pod + ", " + std::to_string(session.items()) + " in the cart\n";
    }
    return response;
  }

  std::unique_ptr<examples::Conversation> webSocket(const Request& request) override {
    if (request.path != "/chat") return nullptr;
    return examples::answerMessages([this](std::string_view said) { return place_.pod + ": " + std::string(said); });
  }

  std::unique_ptr<examples::Conversation> http2() override { return examples::answerCalls("/shop.Chat/Talk"); }

 private:
  // `Dhow-Session: end` tells the proxy in front that nothing ties this customer to this pod any more.
  Response checkout(const Request& request) {
    auto found = sessions_.find(std::string(examples::cookie(request.head, kCookie)));
    if (found == sessions_.end() || found->second.cart.empty()) return {.status = 409, .body = "the cart is empty\n"};
    Response response{
        .headers = {{"Set-Cookie", std::string(kCookie) + "=; Path=/; Max-Age=0"}, {"Dhow-Session", "end"}}};
    if (request.wantsPage()) {
      response.type = kHtml;
      response.body =
          "<!doctype html><meta charset=\"utf-8\"><title>shop</title><p>Thank you. <a href=\"/\">Again?</a></p>\n";
    } else {
      response.type = kJson;
      response.body = "{\"bought\":" + std::to_string(found->second.items()) + ",\"pod\":\"" + place_.pod + "\"}\n";
    }
    sessions_.erase(found);
    return response;
  }

  std::string json(const std::string& id, const Session& session) const {
    return "{\"session\":\"" + id + "\",\"items\":" + std::to_string(session.items()) + ",\"pod\":\"" + place_.pod +
           "\"}\n";
  }

  std::string page(const Session& session) const {
    std::string out =
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>shop</title><style>"
        "body{font:18px/1.6 system-ui,sans-serif;max-width:32em;margin:10vh auto;padding:0 1em;color:#123}"
        "form{display:inline}small{color:#678}</style></head><body><h1>Shop</h1><ul>";
    for (std::string_view item : kItems) {
      auto there = session.cart.find(item);
      out += "<li>" + std::string(item) + ": " + std::to_string(there == session.cart.end() ? 0 : there->second) +
             " <form method=\"post\" action=\"/cart\"><button name=\"item\" value=\"" + std::string(item) +
             "\">+</button></form></li>";
    }
    return out + "</ul><form method=\"post\" action=\"/checkout\"><button>Buy</button></form><p><small>pod " +
           escaped(place_.pod) + " in zone " + escaped(place_.zone) + "</small></p></body></html>\n";
  }

  static std::string newId() {
    std::array<uint8_t, 16> bytes{};
    if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
    std::string out;
    for (uint8_t byte : bytes) {
      out += "0123456789abcdef"[byte >> 4];
      out += "0123456789abcdef"[byte & 15];
    }
    return out;
  }

  // Memory is bounded: customers who have left are forgotten, then anybody.
  void forget() {
    const time_t now = std::time(nullptr);
    if (now != forgotten_)
      std::erase_if(sessions_, [&](const auto& s) { return now - s.second.lastUsed > kForgottenAfter; });
    forgotten_ = now;
    while (sessions_.size() >= kMaxSessions) sessions_.erase(sessions_.begin());
  }

  Place place_ = Place::fromEnvironment();
  std::unordered_map<std::string, Session> sessions_;
  time_t forgotten_ = 0;
};

}  // namespace

int main() {
  Shop shop;
  return examples::serve(shop, {.grace = std::atoi(examples::fromEnv("GRACE", "25").c_str())});
}
