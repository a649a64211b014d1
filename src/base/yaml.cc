#include "base/yaml.h"

#include <libfyaml.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <charconv>
#include <memory>

#include "base/strings.h"

namespace dhow {
namespace {

namespace json = boost::json;

struct DocumentDelete {
  void operator()(fy_document* d) const { fy_document_destroy(d); }
};
struct DiagDelete {
  void operator()(fy_diag* d) const { fy_diag_destroy(d); }
};

bool isOneOf(std::string_view text, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

bool looksLikeNumber(std::string_view text) {
  size_t i = text[0] == '-' || text[0] == '+' ? 1 : 0;
  if (i >= text.size()) return false;
  bool digits = false;
  for (; i < text.size(); ++i) {
    char c = text[i];
    if (c >= '0' && c <= '9') {
      digits = true;
    } else if (c == 'e' || c == 'E') {
      if (!digits) return false;
      if (i + 1 < text.size() && (text[i + 1] == '-' || text[i + 1] == '+')) ++i;
      if (i + 1 >= text.size()) return false;
    } else if (c != '.') {
      return false;
    }
  }
  return digits;
}

json::value plainScalar(std::string_view text) {
  if (text.empty() || isOneOf(text, {"~", "null", "Null", "NULL"})) return nullptr;
  if (isOneOf(text, {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})) return true;
  if (isOneOf(text, {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})) return false;
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'o')) {
    int64_t number = 0;
    auto [end, ec] = std::from_chars(text.data() + 2, text.data() + text.size(), number, text[1] == 'x' ? 16 : 8);
    if (ec == std::errc() && end == text.data() + text.size()) return number;
  }
  if (!looksLikeNumber(text)) return json::value(json::string(text));
  std::string_view digits = text[0] == '+' ? text.substr(1) : text;
  int64_t integer = 0;
  // A leading zero means octal, as YAML 1.1 and so file modes have it.
  std::string_view body = digits[0] == '-' ? digits.substr(1) : digits;
  if (body.size() > 1 && body[0] == '0' && body.find_first_not_of("01234567") == std::string_view::npos) {
    auto [end, ec] = std::from_chars(body.data(), body.data() + body.size(), integer, 8);
    if (ec == std::errc() && end == body.data() + body.size()) return digits[0] == '-' ? -integer : integer;
  }
  auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), integer);
  if (ec == std::errc() && end == digits.data() + digits.size()) return integer;
  double real = 0;
  auto [realEnd, realEc] = std::from_chars(digits.data(), digits.data() + digits.size(), real);
  if (realEc == std::errc() && realEnd == digits.data() + digits.size()) return real;
  return json::value(json::string(text));
}

// YAML is UTF-8 without control characters; the library's own error path for others loses memory.
bool isText(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 && c != '\t' && c != '\n' && c != '\r') return false;
    size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 4;
    if (more == 4 || i + more >= text.size()) return false;
    for (size_t j = 1; j <= more; ++j)
      if ((static_cast<unsigned char>(text[i + j]) & 0xc0) != 0x80) return false;
    i += more + 1;
  }
  return true;
}

class Reader {
 public:
  Reader(fy_document* document, std::vector<std::string>* duplicates, const YamlLimits& limits)
      : document_(document), duplicates_(duplicates), nodesLeft_(limits.nodes), maxDepth_(limits.depth) {}

  Result<json::value> read(fy_node* node, const std::string& path, int depth) {
    if (depth > maxDepth_) return Error(Code::kBadRequest, "yaml: nested too deeply");
    if (nodesLeft_ == 0) return Error(Code::kBadRequest, "yaml: document contains excessive aliasing");
    --nodesLeft_;
    if (!node) return json::value(nullptr);
    if (fy_node_is_alias(node)) {
      ASSIGN_OR_RETURN(fy_node * target, follow(node));
      return read(target, path, depth + 1);
    }
    switch (fy_node_get_type(node)) {
      case FYNT_SCALAR: return scalar(node);
      case FYNT_SEQUENCE: return sequence(node, path, depth);
      case FYNT_MAPPING: return mapping(node, path, depth);
    }
    return json::value(nullptr);
  }

 private:
  Result<fy_node*> follow(fy_node* alias) {
    size_t length = 0;
    const char* text = fy_node_get_scalar(alias, &length);
    fy_anchor* anchor = text ? fy_document_lookup_anchor(document_, text, length) : nullptr;
    if (!anchor) return Error(Code::kBadRequest, "yaml: unknown anchor");
    return fy_anchor_node(anchor);
  }

  Result<json::value> scalar(fy_node* node) {
    size_t length = 0;
    const char* text = fy_node_get_scalar(node, &length);
    std::string_view view(text ? text : "", text ? length : 0);
    size_t tagLength = 0;
    const char* tag = fy_node_get_tag(node, &tagLength);
    bool isText = tag && std::string_view(tag, tagLength).ends_with("str");
    if (fy_node_get_style(node) != FYNS_PLAIN || isText) return json::value(json::string(view));
    return plainScalar(view);
  }

  Result<json::value> sequence(fy_node* node, const std::string& path, int depth) {
    json::array out;
    void* iterator = nullptr;
    while (fy_node* item = fy_node_sequence_iterate(node, &iterator)) {
      ASSIGN_OR_RETURN(json::value value, read(item, path + "[" + std::to_string(out.size()) + "]", depth + 1));
      out.push_back(std::move(value));
    }
    return json::value(std::move(out));
  }

  Result<json::value> mapping(fy_node* node, const std::string& path, int depth) {
    json::object out;
    json::object merged;
    void* iterator = nullptr;
    while (fy_node_pair* pair = fy_node_mapping_iterate(node, &iterator)) {
      fy_node* keyNode = fy_node_pair_key(pair);
      if (keyNode && !fy_node_is_scalar(keyNode))
        return Error(Code::kBadRequest, "yaml: a mapping key must be a scalar");
      size_t length = 0;
      const char* text = keyNode ? fy_node_get_scalar(keyNode, &length) : nullptr;
      std::string_view key(text ? text : "", text ? length : 0);
      std::string inner = path.empty() ? std::string(key) : path + "." + std::string(key);
      ASSIGN_OR_RETURN(json::value value, read(fy_node_pair_value(pair), inner, depth + 1));
      if (key == "<<" && keyNode && fy_node_get_style(keyNode) == FYNS_PLAIN) {
        mergeInto(merged, value);
        continue;
      }
      if (out.contains(key)) {
        if (!duplicates_) return Error(Code::kBadRequest, "yaml: key \"" + std::string(key) + "\" already set in map");
        duplicates_->push_back(inner);
      }
      out[key] = std::move(value);
    }
    for (auto& member : merged)
      if (!out.contains(member.key())) out[member.key()] = std::move(member.value());
    return json::value(std::move(out));
  }

  static void mergeInto(json::object& target, const json::value& value) {
    if (value.is_array()) {
      for (const json::value& item : value.get_array()) mergeInto(target, item);
    } else if (value.is_object()) {
      for (const auto& member : value.get_object())
        if (!target.contains(member.key())) target[member.key()] = member.value();
    }
  }

  fy_document* document_;
  std::vector<std::string>* duplicates_;
  size_t nodesLeft_;
  int maxDepth_;
};

std::string firstError(fy_diag* diag) {
  void* iterator = nullptr;
  fy_diag_error* error = fy_diag_errors_iterate(diag, &iterator);
  if (!error) return "yaml: invalid syntax";
  return "yaml: line " + std::to_string(error->line) + ": " + (error->msg ? error->msg : "invalid syntax");
}

}  // namespace

Result<boost::json::value> parseYaml(std::string_view text, std::vector<std::string>* duplicates,
                                     const YamlLimits& limits) {
  if (!isText(text)) return Error(Code::kBadRequest, "yaml: control characters are not allowed");
  fy_diag_cfg diagConfig;
  fy_diag_cfg_default(&diagConfig);
  diagConfig.fp = nullptr;
  std::unique_ptr<fy_diag, DiagDelete> diag(fy_diag_create(&diagConfig));
  if (!diag) return Error(Code::kInternal, "yaml: out of memory");
  fy_diag_set_collect_errors(diag.get(), true);
  fy_parse_cfg config{};
  // Duplicate keys are found by the reader, which knows their path.
  config.flags = static_cast<fy_parse_cfg_flags>(FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_ALLOW_DUPLICATE_KEYS);
  config.diag = diag.get();
  std::unique_ptr<fy_document, DocumentDelete> document(
      fy_document_build_from_string(&config, text.data(), text.size()));
  if (!document) {
    if (trim(text).empty()) return json::value(nullptr);
    return Error(Code::kBadRequest, firstError(diag.get()));
  }
  return Reader(document.get(), duplicates, limits).read(fy_document_root(document.get()), "", 0);
}

}  // namespace dhow
