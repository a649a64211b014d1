#include "http/message.h"

#include <algorithm>
#include <cstring>

#include "base/strings.h"
#include "body.h"
#include "http/client.h"

namespace dhow::http {

void Headers::add(std::string_view name, std::string_view value) {
  fields_.emplace_back(name, value);
}

void Headers::set(std::string_view name, std::string_view value) {
  auto first = std::find_if(fields_.begin(), fields_.end(), [&](auto& f) { return equalsIgnoreCase(f.first, name); });
  if (first == fields_.end()) return add(name, value);
  first->second = value;
  fields_.erase(std::remove_if(first + 1, fields_.end(), [&](auto& f) { return equalsIgnoreCase(f.first, name); }),
                fields_.end());
}

void Headers::remove(std::string_view name) {
  std::erase_if(fields_, [&](auto& field) { return equalsIgnoreCase(field.first, name); });
}

std::string_view Headers::get(std::string_view name) const {
  for (const auto& [key, value] : fields_) {
    if (equalsIgnoreCase(key, name)) return value;
  }
  return {};
}

bool Headers::has(std::string_view name) const {
  return std::any_of(fields_.begin(), fields_.end(), [&](auto& field) { return equalsIgnoreCase(field.first, name); });
}

bool Headers::hasToken(std::string_view name, std::string_view token) const {
  for (const auto& [key, value] : fields_) {
    if (!equalsIgnoreCase(key, name)) continue;
    std::string_view rest = value;
    while (true) {
      size_t comma = rest.find(',');
      if (equalsIgnoreCase(trim(rest.substr(0, comma)), token)) return true;
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  return false;
}

Query Query::parse(std::string_view text) {
  Query out;
  while (!text.empty()) {
    size_t end = text.find('&');
    std::string_view pair = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (pair.empty()) continue;
    size_t equals = pair.find('=');
    std::string_view name = pair.substr(0, equals);
    std::string_view value = equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1);
    // Text that is not well encoded is taken as it stands.
    out.fields_.emplace_back(percentDecode(name, true).value_or(std::string(name)),
                             percentDecode(value, true).value_or(std::string(value)));
  }
  return out;
}

std::string_view Query::get(std::string_view name) const {
  for (const auto& [key, value] : fields_) {
    if (key == name) return value;
  }
  return {};
}

bool Query::has(std::string_view name) const {
  return std::any_of(fields_.begin(), fields_.end(), [&](auto& field) { return field.first == name; });
}

std::vector<std::string_view> Query::getAll(std::string_view name) const {
  std::vector<std::string_view> out;
  for (const auto& [key, value] : fields_) {
    if (key == name) out.push_back(value);
  }
  return out;
}

void Query::add(std::string_view name, std::string_view value) {
  fields_.emplace_back(name, value);
}

std::string Query::str() const {
  std::string out;
  for (const auto& [key, value] : fields_) {
    if (!out.empty()) out += '&';
    out += percentEncode(key);
    out += '=';
    out += percentEncode(value);
  }
  return out;
}

Task<Result<std::string>> readAll(BodyReader& body, size_t limit) {
  std::string out;
  size_t used = 0;
  if (auto* whole = dynamic_cast<internal::StringBody*>(&body)) {
    if (whole->left() > limit) co_return Error(Code::kTooLarge, fmt::format("body is larger than {} bytes", limit));
    co_return whole->take();
  }
  while (true) {
    if (out.size() - used < 1024) out.resize(std::max<size_t>(4096, out.size() * 2));
    auto read = co_await body.read(std::span(out.data() + used, out.size() - used));
    if (!read.ok()) co_return std::move(read).error();
    if (*read == 0) break;
    used += *read;
    if (used > limit) co_return Error(Code::kTooLarge, fmt::format("body is larger than {} bytes", limit));
  }
  out.resize(used);
  co_return out;
}

std::unique_ptr<BodyReader> bodyOf(std::string bytes) {
  return std::make_unique<internal::StringBody>(std::move(bytes));
}

std::string_view statusText(int status) {
  switch (status) {
    case 100: return "Continue";
    case 101: return "Switching Protocols";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 203: return "Non-Authoritative Information";
    case 204: return "No Content";
    case 205: return "Reset Content";
    case 206: return "Partial Content";
    case 207: return "Multi-Status";
    case 300: return "Multiple Choices";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 402: return "Payment Required";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 407: return "Proxy Authentication Required";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Request Entity Too Large";
    case 414: return "Request URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Requested Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 418: return "I'm a teapot";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Entity";
    case 423: return "Locked";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    default: return "Unknown";
  }
}

namespace internal {

Task<Result<size_t>> StringBody::read(std::span<char> into) {
  size_t n = std::min(into.size(), left());
  if (n > 0) std::memcpy(into.data(), bytes_.data() + offset_, n);
  offset_ += n;
  co_return n;
}

std::string StringBody::take() {
  std::string out = offset_ == 0 ? std::move(bytes_) : bytes_.substr(offset_);
  bytes_.clear();
  offset_ = 0;
  return out;
}

Error cancelled() {
  return Error(Code::kCancelled, "the connection was closed");
}

Code codeOfStatus(int status) {
  switch (status) {
    case 400: return Code::kBadRequest;
    case 401: return Code::kUnauthenticated;
    case 403: return Code::kPermissionDenied;
    case 404: return Code::kNotFound;
    case 405: return Code::kMethodNotAllowed;
    case 406: return Code::kNotAcceptable;
    case 409: return Code::kConflict;
    case 410: return Code::kExpired;
    case 413: return Code::kTooLarge;
    case 415: return Code::kUnsupportedMediaType;
    case 422: return Code::kInvalid;
    case 429: return Code::kTooManyRequests;
    case 501: return Code::kUnimplemented;
    case 502:
    case 503: return Code::kUnavailable;
    case 504: return Code::kDeadlineExceeded;
    default: return status >= 500 ? Code::kInternal : Code::kUnknown;
  }
}

}  // namespace internal
}  // namespace dhow::http
