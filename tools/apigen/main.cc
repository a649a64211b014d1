// apigen <api folder> <include folder> <schema source file>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "emit.h"

namespace {

namespace fs = std::filesystem;

bool writeIfChanged(const fs::path& path, const std::string& content) {
  std::stringstream old;
  {
    std::ifstream in(path, std::ios::binary);
    old << in.rdbuf();
  }
  if (fs::exists(path) && old.str() == content) return true;
  std::error_code ec;
  fs::create_directories(path.parent_path(), ec);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << content;
  out.close();
  if (!out) std::fprintf(stderr, "apigen: cannot write %s\n", path.c_str());
  return bool(out);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: apigen <api folder> <include folder> <schema source file>\n");
    return 2;
  }
  auto model = dhow::apigen::readModel(argv[1]);
  if (!model.ok()) {
    std::fprintf(stderr, "apigen: %s\n", model.error().message().c_str());
    return 1;
  }
  for (const auto& [name, content] : dhow::apigen::emitViews(*model))
    if (!writeIfChanged(fs::path(argv[2]) / name, content)) return 1;
  return writeIfChanged(argv[3], dhow::apigen::emitSchema(*model)) ? 0 : 1;
}
