// Tells when a small file may have changed: written, replaced, removed or there at last. Symbolic links on the way are
// followed, so that a file that is kept elsewhere (/etc/resolv.conf) is watched there, too (inotify(7)). On the loop's
// thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/fd.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"

namespace dhow {

class FileWatch {
 public:
  // `changed` is called for each change from now on; what is read then is no older than the change. A file that is
  // written in place is told when it is closed.
  static Result<std::unique_ptr<FileWatch>> start(Loop& loop, std::string path, std::function<void()> changed);
  Task<> stop();

 private:
  FileWatch(Loop& loop, std::string path, std::function<void()> changed);
  Result<> arm();
  bool concerned();  // reads what has been told
  static Task<> run(FileWatch* self);

  Loop& loop_;
  std::string path_;
  std::function<void()> changed_;
  UniqueFd notify_, wake_, poll_;
  std::map<int, std::set<std::string>> names_;  // in each watched folder; of the file itself ""
  bool stopping_ = false;
  Gate gate_;
};

}  // namespace dhow
