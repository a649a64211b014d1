// Pages that stand in for errors, HAProxy's own and those of backends, from a config map whose keys are statuses:
// "404", or "404.html", "503.json", "500.txt" to say what a page is. Private to this folder.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ingress/config.h"
#include "object/object.h"

namespace dhow::ingress {

struct ErrorPage {
  int status = 0;
  std::string file;    // of Config::files
  bool whole = false;  // with head, for a status of which HAProxy has errors of its own; else the body alone
  std::string type;
};
// Sorted by status. Adds to `files`; what cannot be used is told in `problems`.
std::vector<ErrorPage> errorPagesOf(const object::Object& map, std::map<std::string, std::string>& files,
                                    std::vector<std::string>& problems);
// What answers with the page of this status, if there is one: a line of a backend's section.
std::optional<std::string> errorPageAnswer(const std::vector<ErrorPage>& pages, int status);
// Of a backend's section.
void errorPageLines(std::vector<std::string>& out, const std::vector<ErrorPage>& pages);

}  // namespace dhow::ingress
