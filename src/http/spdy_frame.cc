#include "spdy_frame.h"

#include "base/check.h"
#include "base/strings.h"

namespace dhow::http::internal {

namespace {

constexpr size_t kMaxControl = 64 << 10;
constexpr size_t kMaxUnpacked = 64 << 10;
constexpr size_t kMaxFields = 128;

void put16(std::string& out, uint32_t value) {
  out += static_cast<char>(value >> 8);
  out += static_cast<char>(value);
}
void put32(std::string& out, uint32_t value) {
  put16(out, value >> 16);
  put16(out, value & 0xffff);
}
uint32_t get32(std::string_view bytes, size_t at) {
  uint32_t out = 0;
  for (size_t i = 0; i < 4; ++i) out = out << 8 | static_cast<uint8_t>(bytes[at + i]);
  return out;
}

Error bad(std::string_view what) {
  return Error(Code::kBadRequest, fmt::format("SPDY: {}", what));
}

std::string controlFrame(uint16_t type, uint8_t flags, std::string_view payload) {
  std::string out;
  out.reserve(8 + payload.size());
  put16(out, 0x8003);
  put16(out, type);
  put32(out, static_cast<uint32_t>(flags) << 24 | static_cast<uint32_t>(payload.size()));
  out += payload;
  return out;
}

Bytef* zbytes(std::string_view text) {
  return reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
}

Result<Headers> parseBlock(std::string_view text) {
  size_t at = 0;
  auto number = [&]() -> std::optional<uint32_t> {
    if (text.size() - at < 4) return std::nullopt;
    at += 4;
    return get32(text, at - 4);
  };
  auto piece = [&]() -> std::optional<std::string_view> {
    auto size = number();
    if (!size || *size > text.size() - at) return std::nullopt;
    at += *size;
    return text.substr(at - *size, *size);
  };
  Headers out;
  auto count = number();
  if (!count || *count > kMaxFields) return bad("bad header block");
  for (uint32_t i = 0; i < *count; ++i) {
    auto name = piece();
    auto value = name ? piece() : std::nullopt;
    if (!value || name->empty()) return bad("bad header block");
    // Several values of one name are separated by a zero.
    for (const auto& one : split(*value, '\0')) out.add(*name, one);
    if (out.all().size() > 4 * kMaxFields) return bad("too many header values");
  }
  return out;
}

}  // namespace

// SPDY Protocol, draft 3, section 2.6.10.1: names with their lengths, then a run of text.
const std::string& spdyDictionary() {
  static const std::string kDictionary = [] {
    std::string out;
    for (std::string_view word : {"options",
                                  "head",
                                  "post",
                                  "put",
                                  "delete",
                                  "trace",
                                  "accept",
                                  "accept-charset",
                                  "accept-encoding",
                                  "accept-language",
                                  "accept-ranges",
                                  "age",
                                  "allow",
                                  "authorization",
                                  "cache-control",
                                  "connection",
                                  "content-base",
                                  "content-encoding",
                                  "content-language",
                                  "content-length",
                                  "content-location",
                                  "content-md5",
                                  "content-range",
                                  "content-type",
                                  "date",
                                  "etag",
                                  "expect",
                                  "expires",
                                  "from",
                                  "host",
                                  "if-match",
                                  "if-modified-since",
                                  "if-none-match",
                                  "if-range",
                                  "if-unmodified-since",
                                  "last-modified",
                                  "location",
                                  "max-forwards",
                                  "pragma",
                                  "proxy-authenticate",
                                  "proxy-authorization",
                                  "range",
                                  "referer",
                                  "retry-after",
                                  "server",
                                  "te",
                                  "trailer",
                                  "transfer-encoding",
                                  "upgrade",
                                  "user-agent",
                                  "vary",
                                  "via",
                                  "warning",
                                  "www-authenticate",
                                  "method",
                                  "get",
                                  "status",
                                  "200 OK",
                                  "version",
                                  "HTTP/1.1",
                                  "url",
                                  "public",
                                  "set-cookie",
                                  "keep-alive",
                                  "origin"}) {
      put32(out, static_cast<uint32_t>(word.size()));
      out += word;
    }
    out +=
        "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 "
        "Non-Authoritative Information"
        "204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal "
        "Server Error"
        "501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
        "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
        "application/xhtml+xml,text/plain,text/"
        "javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,"
        "utf-,*,enq=0.";
    return out;
  }();
  return kDictionary;
}

SpdyDecoder::SpdyDecoder(SpdyEvents& events) : events_(events) {
  CHECK(inflateInit(&inflate_) == Z_OK);
}
SpdyDecoder::~SpdyDecoder() {
  inflateEnd(&inflate_);
}

Result<size_t> SpdyDecoder::feed(std::string_view bytes) {
  size_t taken = 0;
  while (true) {
    std::string_view rest = bytes.substr(taken);
    if (dataLeft_ > 0) {
      if (rest.empty()) return taken;
      std::string_view piece = rest.substr(0, dataLeft_);
      dataLeft_ -= static_cast<uint32_t>(piece.size());
      taken += piece.size();
      events_.onData(dataStream_, piece, dataLeft_ == 0 && dataFin_);
      continue;
    }
    if (rest.size() < 8) return taken;
    uint32_t first = get32(rest, 0);
    uint32_t second = get32(rest, 4);
    auto flags = static_cast<uint8_t>(second >> 24);
    uint32_t size = second & 0xffffff;
    if (!(first & 0x80000000)) {
      if (first == 0) return bad("data on stream 0");
      dataStream_ = first;
      dataFin_ = flags & kSpdyFin;
      dataLeft_ = size;
      taken += 8;
      if (size == 0) events_.onData(dataStream_, {}, dataFin_);
      continue;
    }
    if ((first >> 16) != 0x8003) return bad("not version 3");
    if (size > kMaxControl) return bad("a control frame is too large");
    if (rest.size() < 8 + size) return taken;
    RETURN_IF_ERROR(control(static_cast<uint16_t>(first), flags, rest.substr(8, size)));
    taken += 8 + size;
  }
}

Result<> SpdyDecoder::control(uint16_t type, uint8_t flags, std::string_view payload) {
  auto id = [&](size_t at) { return get32(payload, at) & 0x7fffffff; };
  switch (type) {
    case 1: {  // SYN_STREAM
      if (payload.size() < 10) return bad("short SYN_STREAM");
      ASSIGN_OR_RETURN(Headers headers, unpack(payload.substr(10)));
      events_.onSynStream(id(0), flags, std::move(headers));
      return {};
    }
    case 2:    // SYN_REPLY
    case 8: {  // HEADERS
      if (payload.size() < 4) return bad("short header frame");
      ASSIGN_OR_RETURN(Headers headers, unpack(payload.substr(4)));
      events_.onReply(id(0), flags, std::move(headers));
      return {};
    }
    case 3:  // RST_STREAM
      if (payload.size() != 8) return bad("bad RST_STREAM");
      events_.onRst(id(0), get32(payload, 4));
      return {};
    case 4: {  // SETTINGS
      if (payload.size() < 4 || get32(payload, 0) != (payload.size() - 4) / 8 || (payload.size() - 4) % 8 != 0) {
        return bad("bad SETTINGS");
      }
      for (size_t at = 4; at < payload.size(); at += 8) {
        if ((get32(payload, at) & 0xffffff) == 7) events_.onInitialWindow(get32(payload, at + 4));
      }
      return {};
    }
    case 6:  // PING
      if (payload.size() != 4) return bad("bad PING");
      events_.onPing(get32(payload, 0));
      return {};
    case 7:  // GOAWAY
      if (payload.size() != 8) return bad("bad GOAWAY");
      events_.onGoAway();
      return {};
    case 9:  // WINDOW_UPDATE
      if (payload.size() != 8) return bad("bad WINDOW_UPDATE");
      events_.onWindowUpdate(id(0), get32(payload, 4) & 0x7fffffff);
      return {};
    default: return {};  // unknown control frames are ignored
  }
}

Result<Headers> SpdyDecoder::unpack(std::string_view block) {
  std::string out;
  char buffer[4096];
  inflate_.next_in = zbytes(block);
  inflate_.avail_in = static_cast<uInt>(block.size());
  while (true) {
    inflate_.next_out = reinterpret_cast<Bytef*>(buffer);
    inflate_.avail_out = sizeof buffer;
    int done = inflate(&inflate_, Z_SYNC_FLUSH);
    if (done == Z_NEED_DICT) {
      const auto& dictionary = spdyDictionary();
      if (inflateSetDictionary(&inflate_, zbytes(dictionary), static_cast<uInt>(dictionary.size())) != Z_OK) {
        return bad("another header dictionary");
      }
      continue;
    }
    size_t n = sizeof buffer - inflate_.avail_out;
    if (done != Z_OK && !(done == Z_BUF_ERROR && n == 0)) return bad("bad header compression");
    out.append(buffer, n);
    if (out.size() > kMaxUnpacked) return bad("headers are too large");
    if (inflate_.avail_in == 0 && inflate_.avail_out > 0) break;
    if (n == 0) return bad("bad header compression");
  }
  return parseBlock(out);
}

SpdyEncoder::SpdyEncoder() {
  const auto& dictionary = spdyDictionary();
  // A small window: the headers are few.
  CHECK(deflateInit2(&deflate_, 6, Z_DEFLATED, 11, 1, Z_DEFAULT_STRATEGY) == Z_OK);
  CHECK(deflateSetDictionary(&deflate_, zbytes(dictionary), static_cast<uInt>(dictionary.size())) == Z_OK);
}
SpdyEncoder::~SpdyEncoder() {
  deflateEnd(&deflate_);
}

std::string SpdyEncoder::pack(const Headers& headers) {
  // One field a name, its values separated by zeros, names in lower case.
  std::vector<std::pair<std::string, std::string>> fields;
  for (const auto& [name, value] : headers.all()) {
    std::string key = toLower(name);
    auto found = std::find_if(fields.begin(), fields.end(), [&](auto& field) { return field.first == key; });
    if (found == fields.end()) {
      fields.emplace_back(std::move(key), value);
    } else {
      found->second += '\0';
      found->second += value;
    }
  }
  std::string plain;
  put32(plain, static_cast<uint32_t>(fields.size()));
  for (const auto& [name, value] : fields) {
    put32(plain, static_cast<uint32_t>(name.size()));
    plain += name;
    put32(plain, static_cast<uint32_t>(value.size()));
    plain += value;
  }
  std::string out(deflateBound(&deflate_, plain.size()) + 64, '\0');
  deflate_.next_in = zbytes(plain);
  deflate_.avail_in = static_cast<uInt>(plain.size());
  deflate_.next_out = zbytes(out);
  deflate_.avail_out = static_cast<uInt>(out.size());
  int done = deflate(&deflate_, Z_SYNC_FLUSH);
  CHECK(done == Z_OK && deflate_.avail_in == 0 && deflate_.avail_out > 0);
  out.resize(out.size() - deflate_.avail_out);
  return out;
}

std::string SpdyEncoder::synStream(uint32_t id, uint8_t flags, const Headers& headers) {
  std::string payload;
  put32(payload, id);
  put32(payload, 0);
  put16(payload, 0);
  payload += pack(headers);
  return controlFrame(1, flags, payload);
}

std::string SpdyEncoder::synReply(uint32_t id, uint8_t flags, const Headers& headers) {
  std::string payload;
  put32(payload, id);
  payload += pack(headers);
  return controlFrame(2, flags, payload);
}

std::string spdyData(uint32_t id, std::string_view bytes, bool fin) {
  std::string out;
  out.reserve(8 + bytes.size());
  put32(out, id);
  put32(out, static_cast<uint32_t>(fin ? kSpdyFin : 0) << 24 | static_cast<uint32_t>(bytes.size()));
  out += bytes;
  return out;
}

namespace {
std::string pairFrame(uint16_t type, uint32_t a, uint32_t b) {
  std::string payload;
  put32(payload, a);
  put32(payload, b);
  return controlFrame(type, 0, payload);
}
}  // namespace

std::string spdyRst(uint32_t id, uint32_t status) {
  return pairFrame(3, id, status);
}
std::string spdyGoAway(uint32_t lastStream) {
  return pairFrame(7, lastStream, 0);
}
std::string spdyWindowUpdate(uint32_t id, uint32_t delta) {
  return pairFrame(9, id, delta);
}
std::string spdyPing(uint32_t id) {
  std::string payload;
  put32(payload, id);
  return controlFrame(6, 0, payload);
}

}  // namespace dhow::http::internal
