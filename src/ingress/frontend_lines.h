// The lines of a frontend's section: how what comes in finds its backend. Private to this folder.
#pragma once

#include "ingress/config.h"
#include "render.h"

namespace dhow::ingress {

struct FrontendLine {
  std::string text;
  // Where it comes from, when it is one of the frontend's own: one that HAProxy refuses can be left out.
  std::vector<std::string> Frontend::* list = nullptr;
  size_t index = 0;
};
std::vector<FrontendLine> frontendLines(const Frontend& frontend, const Layout& layout);
// The section by which a worker that is replaced hands requests over to the next; empty where it has none.
std::vector<std::string> handoverLines(const Frontend& frontend, const Layout& layout);

}  // namespace dhow::ingress
