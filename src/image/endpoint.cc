#include "endpoint.h"

#include <algorithm>

#include <boost/url/parse.hpp>
#include <boost/url/url.hpp>

#include "base/strings.h"
#include "json_read.h"

namespace dhow::image {

using namespace jsonread;

std::vector<Challenge> parseChallenges(std::string_view text) {
  std::vector<Challenge> out;
  size_t i = 0;
  auto spaces = [&] {
    while (i < text.size() && (text[i] == ' ' || text[i] == ',' || text[i] == '\t')) ++i;
  };
  auto token = [&] {
    size_t start = i;
    while (i < text.size() && text[i] != ' ' && text[i] != ',' && text[i] != '=' && text[i] != '"') ++i;
    return text.substr(start, i - start);
  };
  for (spaces(); i < text.size() && out.size() < 8; spaces()) {
    auto word = token();
    if (word.empty()) break;
    if (i < text.size() && text[i] == '=' && !out.empty()) {
      std::string value;
      if (++i < text.size() && text[i] == '"') {
        for (++i; i < text.size() && text[i] != '"'; ++i) {
          if (text[i] == '\\' && i + 1 < text.size()) ++i;
          value += text[i];
        }
        if (i < text.size()) ++i;
      } else {
        value = token();
      }
      out.back().parameters[toLower(word)] = value;
    } else {
      out.push_back({toLower(word), {}});
    }
  }
  return out;
}

std::optional<Error> registryError(std::string_view body) {
  auto document = parseObject(body, "error");
  if (!document.ok()) return std::nullopt;
  std::string code, message;
  if (const auto* errors = arrayAt(*document, "errors"); errors && !errors->empty() && (*errors)[0].is_object()) {
    code = stringAt((*errors)[0].get_object(), "code");
    message = stringAt((*errors)[0].get_object(), "message");
  } else {
    code = "UNAUTHORIZED";
    message = stringAt(*document, "details");
    if (message.empty()) message = stringAt(*document, "message");
    if (message.empty()) return std::nullopt;
  }
  if (code.empty()) return std::nullopt;
  code = toLower(code);
  std::replace(code.begin(), code.end(), '_', ' ');
  return Error(Code::kUnauthenticated, code + ": " + (message.empty() ? code : message.substr(0, 1024)));
}

Result<http::Client*> Endpoint::client() {
  if (client_) return client_.get();
  http::Client::Options options;
  bool custom = options_.insecure || options_.loopback || !options_.caPem.empty() || !options_.certificatePem.empty();
  if (custom && base_.starts_with("https://")) {
    http::TlsClient::Options tls;
    tls.caPem = options_.caPem;
    if (!options_.certificatePem.empty()) tls.keyPair = http::KeyPair{options_.certificatePem, options_.keyPem};
    tls.insecureSkipVerify = options_.insecure || (options_.loopback && options_.caPem.empty());
    ASSIGN_OR_RETURN(options.tls, http::TlsClient::create(std::move(tls)));
  }
  client_ = std::make_unique<http::Client>(loop_, std::move(options));
  return client_.get();
}

// A named scheme is kept. Else loopback hosts are asked over http first, insecure ones over https first; all others
// take https.
Task<Result<>> Endpoint::findScheme() {
  if (!base_.empty()) co_return Result<>();
  if (options_.url.find("://") != std::string::npos) {
    base_ = options_.url;
    while (base_.ends_with('/')) base_.pop_back();
    co_return Result<>();
  }
  std::vector<std::string> schemes{"https://"};
  if (options_.insecure) schemes = {"https://", "http://"};
  if (options_.loopback) schemes = {"http://", "https://"};
  if (schemes.size() == 1) {
    base_ = schemes[0] + options_.url;
    co_return Result<>();
  }
  std::optional<Error> first;
  for (const auto& scheme : schemes) {
    base_ = scheme + options_.url;
    client_.reset();
    auto made = client();
    if (!made.ok()) {
      base_.clear();
      co_return std::move(made).error();
    }
    auto answer = co_await (*made)->fetch(base_ + "/v2/", http::Request(), 1 << 20);
    // A server that speaks TLS answers plain text with 400.
    if (answer.ok() && answer->status != 400) co_return Result<>();
    if (!answer.ok() && !first) first = answer.error();
  }
  base_.clear();
  client_.reset();
  if (!first) first = Error(Code::kUnavailable, options_.url + " is not a registry");
  co_return *first;
}

Task<Result<bool>> Endpoint::fetchToken(Challenge challenge, std::string scope, Credentials credentials) {
  if (!credentials.registryToken.empty()) {
    authorization_[scope] = "Bearer " + credentials.registryToken;
    co_return true;
  }
  std::string realm = challenge.parameters["realm"];
  std::string service = challenge.parameters["service"];
  if (!scope.empty()) challenge.parameters["scope"] = scope;
  if (!realm.starts_with("https://") && !realm.starts_with("http://"))
    co_return Error(Code::kUnauthenticated, "registry names no token server");
  // Passwords do not go out in the clear because a server on TLS says so.
  bool secret = !credentials.empty();
  if (secret && base_.starts_with("https://") && realm.starts_with("http://") && !options_.insecure)
    co_return Error(Code::kUnauthenticated, "token server " + realm + " is not on TLS");
  http::Request request;
  std::string url = realm;
  http::Query query;
  if (!service.empty()) query.add("service", service);
  for (const auto& part : split(challenge.parameters["scope"], ' ')) {
    if (!part.empty()) query.add("scope", part);
  }
  if (!credentials.identityToken.empty()) {
    query.add("grant_type", "refresh_token");
    query.add("client_id", "dhow");
    query.add("refresh_token", credentials.identityToken);
    std::string form = query.str();
    request.method = "POST";
    request.headers.set("Content-Type", "application/x-www-form-urlencoded");
    request.headers.set("Content-Length", std::to_string(form.size()));
    request.body = http::bodyOf(form);
  } else {
    if (!credentials.username.empty()) {
      query.add("account", credentials.username);
      request.headers.set("Authorization", "Basic " + toBase64(credentials.username + ":" + credentials.password));
    }
    url += (realm.find('?') == std::string::npos ? "?" : "&") + query.str();
  }
  CO_ASSIGN_OR_RETURN(auto* http, client());
  auto answer = co_await http->fetch(url, std::move(request), 1 << 20);
  if (!answer.ok()) co_return std::move(answer).error();
  if (answer->status == 401 || answer->status == 403) {
    refusal_ =
        registryError(answer->body).value_or(Error(Code::kUnauthenticated, "unauthorized: authentication required"));
    co_return false;
  }
  if (answer->status != 200) {
    Code code = answer->status >= 500   ? Code::kUnavailable
                : answer->status == 429 ? Code::kTooManyRequests
                                        : Code::kUnauthenticated;
    co_return Error(code, "token server " + realm + " answers " + std::to_string(answer->status));
  }
  auto document = parseObject(answer->body, "token");
  if (!document.ok()) co_return Error(Code::kUnauthenticated, "token server " + realm + " sends no token");
  std::string token = stringAt(*document, "token");
  if (token.empty()) token = stringAt(*document, "access_token");
  if (token.empty() || token.find_first_of("\r\n") != std::string::npos)
    co_return Error(Code::kUnauthenticated, "token server " + realm + " sends no token");
  authorization_[scope] = "Bearer " + token;
  co_return true;
}

Task<Result<bool>> Endpoint::authenticate(std::string header, std::string scope) {
  auto challenges = parseChallenges(header);
  // After the given credentials one try without any: public content behind a token server.
  while (nextCredentials_ <= options_.credentials.size()) {
    Credentials credentials;
    if (nextCredentials_ < options_.credentials.size()) credentials = options_.credentials[nextCredentials_];
    ++nextCredentials_;
    for (const auto& challenge : challenges) {
      if (challenge.scheme == "bearer") {
        auto got = co_await fetchToken(challenge, scope, credentials);
        if (!got.ok()) co_return std::move(got).error();
        if (*got) co_return true;
      }
      if (challenge.scheme == "basic" && credentials.username.empty() && options_.credentials.empty())
        refusal_ = Error(Code::kUnauthenticated, "no basic auth credentials");
      if (challenge.scheme == "basic" && !credentials.username.empty()) {
        authorization_[scope] = "Basic " + toBase64(credentials.username + ":" + credentials.password);
        co_return true;
      }
    }
  }
  co_return false;
}

Task<Result<http::StreamingResponse>> Endpoint::follow(std::string method, std::string url, http::Headers headers,
                                                       BodyFactory body) {
  std::string origin;
  for (int hops = 0; hops < 10; ++hops) {
    auto parsed = boost::urls::parse_uri(url);
    if (!parsed || (parsed->scheme() != "http" && parsed->scheme() != "https"))
      co_return Error(Code::kUnavailable, "registry redirects to a bad address");
    std::string here = std::string(parsed->scheme()) + "://" + std::string(parsed->encoded_host_and_port());
    if (origin.empty()) origin = here;
    http::Request request;
    request.method = method;
    request.headers = headers;
    if (here != origin) request.headers.remove("Authorization");
    if (body) {
      CO_ASSIGN_OR_RETURN(request.body, body());
    }
    CO_ASSIGN_OR_RETURN(auto* http, client());
    auto answer = co_await http->send(url, std::move(request));
    if (!answer.ok()) co_return std::move(answer).error();
    int status = answer->status;
    bool redirect = status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
    if (!redirect || method == "PUT" || method == "POST" || method == "PATCH") co_return std::move(*answer);
    auto location = boost::urls::parse_uri_reference(answer->headers.get("Location"));
    if (!location) co_return Error(Code::kUnavailable, "registry redirects to a bad address");
    boost::urls::url next;
    auto resolved = boost::urls::resolve(*parsed, *location, next);
    if (!resolved) co_return Error(Code::kUnavailable, "registry redirects to a bad address");
    std::string target(next.buffer());
    if (url.starts_with("https://") && target.starts_with("http://") && !options_.insecure && !options_.loopback)
      co_return Error(Code::kUnavailable, "registry redirects from TLS to plain http");
    url = target;
  }
  co_return Error(Code::kUnavailable, "registry redirects without end");
}

Task<Result<http::StreamingResponse>> Endpoint::request(std::string method, std::string target, http::Headers headers,
                                                        BodyFactory body, std::string scope) {
  auto scheme = co_await findScheme();
  if (!scheme.ok()) co_return std::move(scheme).error();
  std::string url = target.find("://") == std::string::npos ? base_ + target : target;
  bool ours = url.starts_with(base_ + "/");
  nextCredentials_ = 0;
  refusal_.reset();
  bool reauthenticated = false;
  while (true) {
    http::Headers sent = headers;
    auto known = authorization_.find(scope);
    if (ours && known != authorization_.end()) sent.set("Authorization", known->second);
    auto answer = co_await follow(method, url, std::move(sent), body);
    if (!answer.ok() || answer->status != 401 || !ours) co_return answer;
    std::string challenge(answer->headers.get("WWW-Authenticate"));
    for (const auto& [name, value] : answer->headers.all()) {
      if (equalsIgnoreCase(name, "WWW-Authenticate") && value != challenge) challenge += ", " + value;
    }
    if (!reauthenticated) authorization_.erase(scope);
    reauthenticated = true;
    auto more = co_await authenticate(challenge, scope);
    auto asked = [&] { return http::attemptedRequest(method, url); };
    if (!more.ok()) co_return std::move(more).error().wrap(asked());
    if (!*more) {
      authorization_.erase(scope);
      if (refusal_) co_return std::move(*refusal_).wrap(asked());
      co_return answer;
    }
  }
}

}  // namespace dhow::image
