#include "waf.h"

#include <dlfcn.h>
#include <modsecurity/modsecurity.h>
#include <modsecurity/rules_set.h>
#include <modsecurity/transaction.h>

#include <algorithm>
#include <list>
#include <mutex>

#include "base/strings.h"

namespace dhow::ingress {

namespace {

constexpr const char* kLibrary = "libmodsecurity.so.3";
constexpr size_t kMostRuleSets = 16;
constexpr size_t kMostMatches = 64;
constexpr size_t kLongestText = 256;  // of a match

// The functions of the library's C interface.
struct Library {
  decltype(&modsecurity::msc_init) init;
  decltype(&modsecurity::msc_set_log_cb) setLog;
  decltype(&modsecurity::msc_cleanup) cleanup;
  decltype(&modsecurity::msc_create_rules_set) createRules;
  decltype(&modsecurity::msc_rules_add) addRules;
  decltype(&modsecurity::msc_rules_cleanup) cleanupRules;
  decltype(&modsecurity::msc_new_transaction) begin;
  decltype(&modsecurity::msc_process_connection) connection;
  decltype(&modsecurity::msc_process_uri) uri;
  decltype(&modsecurity::msc_add_n_request_header) header;
  decltype(&modsecurity::msc_process_request_headers) headers;
  decltype(&modsecurity::msc_append_request_body) appendBody;
  decltype(&modsecurity::msc_process_request_body) body;
  decltype(&modsecurity::msc_intervention) intervention;
  decltype(&modsecurity::msc_process_logging) logging;
  decltype(&modsecurity::msc_transaction_cleanup) end;
};

std::string_view between(std::string_view text, std::string_view begin, std::string_view end) {
  const size_t at = text.find(begin);
  if (at == std::string_view::npos) return {};
  text.remove_prefix(at + begin.size());
  return text.substr(0, std::min({text.find(end), text.size(), kLongestText}));
}

void collect(void* verdict, const void* line) {
  auto& matches = static_cast<WafVerdict*>(verdict)->matches;
  if (line == nullptr || matches.size() >= kMostMatches) return;
  WafVerdict::Match match = readMatch(static_cast<const char*>(line));
  if (!match.rule.empty()) matches.push_back(std::move(match));
}

}  // namespace

WafVerdict::Match readMatch(std::string_view line) {
  return {std::string(between(line, "[id \"", "\"]")), std::string(between(line, "[msg \"", "\"]")),
          std::string(between(line, "[data \"", "\"]"))};
}

struct Waf::Rep {
  struct Rules {
    std::string text;
    modsecurity::RulesSet* set = nullptr;
    const Library* library = nullptr;
    ~Rules() {
      if (set != nullptr) library->cleanupRules(set);
    }
  };

  // Who asks first reads them while the others wait.
  Result<std::shared_ptr<Rules>> rulesOf(const std::string& text) {
    const std::lock_guard hold(lock);
    auto found = std::find_if(kept.begin(), kept.end(), [&](const auto& one) { return one->text == text; });
    if (found != kept.end()) {
      kept.splice(kept.begin(), kept, found);
      return kept.front();
    }
    auto fresh = std::make_shared<Rules>();
    fresh->text = text;
    fresh->library = &library;
    fresh->set = library.createRules();
    const char* why = nullptr;
    if (library.addRules(fresh->set, text.c_str(), &why) < 0) {
      Error error(Code::kInvalid, fmt::format("ModSecurity refuses the rules: {}", why != nullptr ? why : ""));
      std::free(const_cast<char*>(why));
      return error;
    }
    kept.push_front(std::move(fresh));
    if (kept.size() > kMostRuleSets) kept.pop_back();
    return kept.front();
  }

  void* handle = nullptr;
  Library library{};
  modsecurity::ModSecurity* engine = nullptr;
  std::mutex lock;
  std::list<std::shared_ptr<Rules>> kept;  // the last used first
};

Waf::Waf() : rep_(std::make_unique<Rep>()) {}
Waf::~Waf() {
  rep_->kept.clear();
  if (rep_->engine != nullptr) rep_->library.cleanup(rep_->engine);
}

Result<std::unique_ptr<Waf>> Waf::load() {
  std::unique_ptr<Waf> out(new Waf);
  Rep& r = *out->rep_;
  r.handle = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (r.handle == nullptr) return Error(Code::kUnavailable, fmt::format("load {}: {}", kLibrary, ::dlerror()));
  bool all = true;
  auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(r.handle, name));
    all = all && function != nullptr;
  };
  Library& l = r.library;
  find(l.init, "msc_init");
  find(l.setLog, "msc_set_log_cb");
  find(l.cleanup, "msc_cleanup");
  find(l.createRules, "msc_create_rules_set");
  find(l.addRules, "msc_rules_add");
  find(l.cleanupRules, "msc_rules_cleanup");
  find(l.begin, "msc_new_transaction");
  find(l.connection, "msc_process_connection");
  find(l.uri, "msc_process_uri");
  find(l.header, "msc_add_n_request_header");
  find(l.headers, "msc_process_request_headers");
  find(l.appendBody, "msc_append_request_body");
  find(l.body, "msc_process_request_body");
  find(l.intervention, "msc_intervention");
  find(l.logging, "msc_process_logging");
  find(l.end, "msc_transaction_cleanup");
  if (!all) return Error(Code::kUnavailable, fmt::format("{} is of another version", kLibrary));
  r.engine = l.init();
  l.setLog(r.engine, collect);
  return out;
}

Result<WafVerdict> Waf::inspect(const std::string& rules, const WafRequest& request) {
  ASSIGN_OR_RETURN(std::shared_ptr<Rep::Rules> set, rep_->rulesOf(rules));
  const Library& l = rep_->library;
  WafVerdict out;
  std::unique_ptr<modsecurity::Transaction, decltype(l.end)> transaction(l.begin(rep_->engine, set->set, &out), l.end);
  modsecurity::Transaction* t = transaction.get();
  auto bytes = [](std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); };
  auto refused = [&] {
    modsecurity::ModSecurityIntervention it{};
    it.status = 200;
    l.intervention(t, &it);
    const bool disruptive = it.disruptive != 0;
    std::free(it.url);
    std::free(it.log);
    return disruptive;
  };
  l.connection(t, request.client.c_str(), request.port, "127.0.0.1", 80);
  out.blocked = refused();
  const std::string uri(request.uri), method(request.method), version(request.version);
  if (!out.blocked) {
    l.uri(t, uri.c_str(), method.c_str(), version.c_str());
    for (const auto& [name, value] : request.headers) l.header(t, bytes(name), name.size(), bytes(value), value.size());
    l.headers(t);
    out.blocked = refused();
  }
  if (!out.blocked) {
    if (!request.body.empty()) l.appendBody(t, bytes(request.body), request.body.size());
    l.body(t);
    out.blocked = refused();
  }
  l.logging(t);
  return out;
}

}  // namespace dhow::ingress
