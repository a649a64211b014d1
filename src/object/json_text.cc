#include <boost/json/parser.hpp>

#include <set>

#include "object/decode.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr size_t kMaxBody = 32 << 20;

// Finds repeated keys in text that the parser has accepted: the parser keeps the last value and says nothing.
class DuplicateScan {
 public:
  DuplicateScan(std::string_view text, std::vector<std::string>& out) : text_(text), out_(out) {}
  void run() { value(""); }

 private:
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }

  std::string_view string() {
    size_t start = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    std::string_view out = text_.substr(start, std::min(at_, text_.size()) - start);
    ++at_;
    return out;
  }

  void value(const std::string& path) {
    space();
    if (at_ >= text_.size()) return;
    char c = text_[at_];
    if (c == '{') return object(path);
    if (c == '[') return array(path);
    if (c == '"') {
      string();
      return;
    }
    while (at_ < text_.size() && std::string_view(",]} \t\r\n").find(text_[at_]) == std::string_view::npos) ++at_;
  }

  void object(const std::string& path) {
    std::set<std::string_view> keys;
    ++at_;
    for (;;) {
      space();
      if (at_ >= text_.size()) return;
      if (text_[at_] == '}') break;
      if (text_[at_] == ',') {
        ++at_;
        continue;
      }
      std::string_view key = string();
      std::string inner = path.empty() ? std::string(key) : path + "." + std::string(key);
      if (!keys.insert(key).second && out_.size() < 100) out_.push_back(inner);
      space();
      ++at_;  // the colon
      value(inner);
    }
    ++at_;
  }

  void array(const std::string& path) {
    ++at_;
    for (size_t i = 0;; ++i) {
      space();
      if (at_ >= text_.size() || text_[at_] == ']') break;
      value(path + "[" + std::to_string(i) + "]");
      space();
      if (at_ < text_.size() && text_[at_] == ',') ++at_;
    }
    ++at_;
  }

  std::string_view text_;
  std::vector<std::string>& out_;
  size_t at_ = 0;
};

}  // namespace

Result<json::value> parseJson(std::string_view text, std::vector<std::string>* duplicates) {
  if (text.size() > kMaxBody) return Error(Code::kTooLarge, "the document is larger than 32 MiB");
  json::parse_options options;
  options.max_depth = 128;
  json::parser parser({}, options);
  boost::system::error_code ec;
  parser.write(text.data(), text.size(), ec);
  if (ec) return Error(Code::kBadRequest, "invalid JSON: " + ec.message());
  if (duplicates) DuplicateScan(text, *duplicates).run();
  return parser.release();
}

}  // namespace dhow::object
