#include "accepted_config.h"

#include <cerrno>
#include <cstdio>

#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"

namespace dhow::ingress {

namespace {

constexpr size_t kPatientRounds = 10;  // then a frontend loses all lines of its own; HAProxy tells of 50 at most

// What HAProxy refuses: "[ALERT] (pid) : config : parsing [file:line] : why".
struct Complaint {
  std::string text;
  std::optional<size_t> line;
};
std::vector<Complaint> complaintsOf(std::string_view said, const std::string& path) {
  std::vector<Complaint> out;
  const std::string mark = "[" + path + ":";
  for (const std::string& one : split(said, '\n')) {
    if (!one.starts_with("[ALERT]")) continue;
    // This one names a line that is innocent.
    if (one.find("too many fatal errors") != std::string::npos) continue;
    Complaint complaint{one, std::nullopt};
    if (const size_t at = one.find(mark); at != std::string::npos) {
      const size_t from = at + mark.size();
      auto line = parseInt(std::string_view(one).substr(from, one.find(']', from) - from));
      if (line && *line > 0) complaint.line = static_cast<size_t>(*line);
    }
    out.push_back(std::move(complaint));
  }
  return out;
}

bool close(Config& wanted, const std::string& name, std::string_view why) {
  auto found = wanted.backends.find(name);
  if (found == wanted.backends.end()) return false;
  Backend& backend = found->second;
  const std::vector<std::string> closed{backend.tcp ? "tcp-request content reject"
                                                    : "http-request deny deny_status 503"};
  if (backend.lines == closed) return false;
  log::error("ingress", "{} answers 503, as HAProxy refuses it: {}", name, why);
  backend.lines = closed;
  backend.serverOptions.clear();
  backend.sessions.reset();
  return true;
}

// The lines of frontends that are complained of, the last first, so that those before keep their places.
bool leaveOut(Config& wanted, const Rendered& rendered, const std::map<size_t, std::string>& lines, bool whole) {
  bool done = false;
  for (auto one = lines.rbegin(); one != lines.rend(); ++one) {
    auto own = rendered.lines.find(one->first);
    if (own == rendered.lines.end()) continue;
    Frontend& frontend = wanted.frontends[own->second.frontend];
    if (whole) {
      log::error("ingress", "frontend {} does without its conditions: HAProxy refuses too many", frontend.name);
      for (auto list : {&Frontend::acls, &Frontend::afterExact, &Frontend::afterPrefixes}) (frontend.*list).clear();
      return true;
    }
    auto& list = frontend.*(own->second.list);
    log::error("ingress", "\"{}\" is left out, as HAProxy refuses it: {}", list[own->second.index], one->second);
    list.erase(list.begin() + static_cast<ptrdiff_t>(own->second.index));
    done = true;
  }
  return done;
}

bool mend(Config& wanted, const Rendered& rendered, const std::vector<Complaint>& complaints, bool whole) {
  std::map<size_t, std::string> lines;
  bool done = false;
  for (const Complaint& one : complaints) {
    if (one.line) {
      lines.emplace(*one.line, one.text);
      auto above = rendered.backends.upper_bound(*one.line);
      if (above != rendered.backends.begin()) done = close(wanted, std::prev(above)->second, one.text) || done;
      continue;
    }
    // What shows only when all is read has a name: "Proxy 'name': ...", "'server name/s0' : ...".
    for (const std::string& word : split(one.text, '\'')) {
      const std::string name = word.substr(word.starts_with("server ") ? 7 : 0);
      done = close(wanted, name.substr(0, name.find('/')), one.text) || done;
    }
  }
  return leaveOut(wanted, rendered, lines, whole) || done;
}

}  // namespace

Result<> writeAccepted(const std::string& program, const std::string& path, Config& wanted,
                       const std::map<std::string, Slots>& slots, const Layout& layout) {
  const std::string next = path + ".next";
  // Each round takes something out.
  for (size_t round = 0;; ++round) {
    const Rendered rendered = renderConfig(wanted, slots, layout);
    RETURN_IF_ERROR(writeFile(next, rendered.config, 0600));
    ASSIGN_OR_RETURN(CommandOutput checked, runCommand({program, "-c", "-f", next}));
    if (checked.status.code == 0) {
      if (::rename(next.c_str(), path.c_str()) != 0) return Error::fromErrno(errno, "rename " + next);
      return {};
    }
    if (!mend(wanted, rendered, complaintsOf(checked.errors, next), round >= kPatientRounds))
      return Error(Code::kInvalid, "HAProxy refuses its configuration: " + std::string(trim(checked.errors)));
  }
}

}  // namespace dhow::ingress
