#include "object/object.h"

#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>

#include "base/strings.h"

namespace dhow::object {
namespace {

constexpr size_t kMaxBytes = 32 << 20;
constexpr size_t kMaxDepth = 128;

const json::object& emptyObject() {
  static const json::object empty;
  return empty;
}

std::string_view text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_string()) return {};
  return value->get_string();
}

std::string_view entry(const json::object& metadata, std::string_view map, std::string_view key) {
  const json::value* value = metadata.if_contains(map);
  return value && value->is_object() ? text(value->get_object(), key) : std::string_view();
}

}  // namespace

Object::Object(json::object root) : root_(std::move(root)) {}

ObjectPtr Object::make(json::object document) {
  return ObjectPtr(new Object(std::move(document)));
}

Result<ObjectPtr> Object::parse(std::string_view bytes) {
  if (bytes.size() > kMaxBytes) return Error(Code::kTooLarge, "the document is larger than 32 MiB");
  json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::system::error_code ec;
  // One arena per document: a parsed object is never changed, so nothing is freed before all of it is.
  json::storage_ptr arena =
      json::make_shared_resource<json::monotonic_resource>(std::max<size_t>(1024, bytes.size() * 2));
  json::parser parser(arena, options);
  parser.write(bytes.data(), bytes.size(), ec);
  if (ec) return Error(Code::kBadRequest, "invalid JSON: " + ec.message());
  json::value value = parser.release();
  if (!value.is_object()) return Error(Code::kBadRequest, "the document is not a JSON object");
  return ObjectPtr(new Object(std::move(value.get_object())));
}

const std::string& Object::bytes() const {
  std::call_once(encoded_, [this] { bytes_ = json::serialize(root_); });
  return bytes_;
}

std::string_view Object::apiVersion() const {
  return text(root_, "apiVersion");
}
std::string_view Object::kind() const {
  return text(root_, "kind");
}
std::string_view Object::name() const {
  return text(metadata(), "name");
}
std::string_view Object::ns() const {
  return text(metadata(), "namespace");
}
std::string_view Object::uid() const {
  return text(metadata(), "uid");
}

uint64_t Object::resourceVersion() const {
  return parseUint(text(metadata(), "resourceVersion")).value_or(0);
}

const json::object& Object::metadata() const {
  const json::value* value = root_.if_contains("metadata");
  return value && value->is_object() ? value->get_object() : emptyObject();
}

std::string_view Object::label(std::string_view key) const {
  return entry(metadata(), "labels", key);
}
std::string_view Object::annotation(std::string_view key) const {
  return entry(metadata(), "annotations", key);
}
bool Object::deleting() const {
  return !text(metadata(), "deletionTimestamp").empty();
}

std::string Object::key() const {
  std::string_view space = ns();
  std::string out;
  if (!space.empty()) out.append(space).push_back('/');
  return out.append(name());
}

const json::value* find(const json::object& root, std::initializer_list<std::string_view> path) {
  const json::object* current = &root;
  const json::value* value = nullptr;
  for (std::string_view step : path) {
    if (!current) return nullptr;
    value = current->if_contains(step);
    if (!value) return nullptr;
    current = value->if_object();
  }
  return value;
}

}  // namespace dhow::object
