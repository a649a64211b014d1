#include "error_pages.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "text.h"

namespace dhow::ingress {

namespace {

constexpr size_t kLongestPage = 12 << 10;  // it must fit into a buffer, beside its head
constexpr size_t kMostPages = 40;
// What `errorfile` takes (section 4.2 of the manual).
constexpr int kOwn[] = {400, 401, 403, 404, 405, 407, 408, 410, 413, 425, 429, 500, 501, 502, 503, 504};

struct Key {
  int status = 0;
  std::string_view type;
};
std::optional<Key> readKey(std::string_view key) {
  auto status = key.size() < 3 ? std::nullopt : parseInt(key.substr(0, 3));
  if (!status || *status < 400 || *status > 599) return std::nullopt;
  const std::string_view suffix = key.substr(3);
  const int code = static_cast<int>(*status);
  if (suffix.empty() || suffix == ".html") return Key{code, "text/html; charset=utf-8"};
  if (suffix == ".json") return Key{code, "application/json"};
  if (suffix == ".txt") return Key{code, "text/plain; charset=utf-8"};
  return std::nullopt;
}

}  // namespace

std::vector<ErrorPage> errorPagesOf(const object::Object& map, std::map<std::string, std::string>& files,
                                    std::vector<std::string>& problems) {
  std::map<int, ErrorPage> pages;
  for (const auto& member : client::object(map.root(), {"data"})) {
    const std::string_view name = member.key();
    auto problem = [&](std::string_view why) {
      problems.push_back(
          fmt::format("the key \"{}\" of the config map \"{}\" is no error page: {}", name, map.name(), why));
    };
    auto key = readKey(name);
    if (!key || !member.value().is_string()) {
      problem("keys are statuses from 400 to 599, as they are or with .html, .json or .txt");
      continue;
    }
    const std::string_view body = member.value().get_string();
    if (body.size() > kLongestPage || pages.size() >= kMostPages) {
      problem(fmt::format("{} pages of {} bytes are served", kMostPages, kLongestPage));
      continue;
    }
    ErrorPage page{key->status, "", std::find(std::begin(kOwn), std::end(kOwn), key->status) != std::end(kOwn),
                   std::string(key->type)};
    std::string content;
    if (page.whole)
      content =
          fmt::format("HTTP/1.1 {} Error\r\nContent-Type: {}\r\nCache-Control: no-store\r\nContent-Length: {}\r\n\r\n",
                      page.status, page.type, body.size());
    content += body;
    page.file = fmt::format("page_{}_{}", page.status, shortDigest(content));
    files.emplace(page.file, std::move(content));
    pages[page.status] = std::move(page);
  }
  std::vector<ErrorPage> out;
  for (auto& [status, page] : pages) out.push_back(std::move(page));
  return out;
}

std::optional<std::string> errorPageAnswer(const std::vector<ErrorPage>& pages, int status) {
  auto page = std::find_if(pages.begin(), pages.end(), [&](const ErrorPage& one) { return one.status == status; });
  if (page == pages.end() || !page->whole) return std::nullopt;
  return fmt::format("http-request return status {} errorfile @{}", status, page->file);
}

void errorPageLines(std::vector<std::string>& out, const std::vector<ErrorPage>& pages) {
  for (const ErrorPage& page : pages) {
    if (page.whole) out.push_back(fmt::format("errorfile {} @{}", page.status, page.file));
    // A backend's own challenge must reach the client.
    if (page.status == 401 || page.status == 407) continue;
    const std::string content =
        page.whole ? fmt::format("errorfile @{}", page.file)
                   : fmt::format("content-type {} file @{} hdr Cache-Control no-store", quoted(page.type), page.file);
    out.push_back(
        fmt::format("http-response return status {} {} if {{ status {} }}", page.status, content, page.status));
  }
}

}  // namespace dhow::ingress
