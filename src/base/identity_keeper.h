// Keeps an identity's certificate from ending while its process runs, and an identity as a file.
//
// It is renewed when about a third of its life is left, a little earlier by chance, so that those of a cluster do not
// all come at once. What fails comes again with back-off, and is told with the time that is left. Time and chance are
// the loop's; all on the loop's thread.
#pragma once

#include <functional>
#include <string>

#include "base/blocking.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/pki.h"
#include "base/result.h"

namespace dhow {

// The certificate chain, then its key, PEM, for its owner alone. One file, so that no crash parts a key from its
// certificate; programs that want two files are given it twice. They block; writing is durable.
Result<Identity> readIdentityFile(const std::string& path);
Result<> writeIdentityFile(const std::string& path, const Identity& identity);

class IdentityKeeper {
 public:
  struct Options {
    std::string name;            // who is meant, in the log: "the API server"
    std::string certificatePem;  // the one in use; it may have ended
    // A new one, signed.
    std::function<Task<Result<Identity>>()> issue;
    // Makes it last and puts it to use. After an Error another is issued.
    std::function<Task<Result<>>(Identity identity)> take;
  };
  IdentityKeeper(Loop& loop, Options options);

  void start();
  // Waits for `issue` and `take` when they are under way: what these wait for is stopped first.
  Task<> stop();
  // Renewed since start().
  int renewals() const { return renewals_; }

 private:
  static Task<> run(IdentityKeeper* self);
  Task<Result<>> renew();
  Result<> use(const std::string& certificatePem);
  void complain(const Error& error) const;
  Duration pause();

  Loop& loop_;
  Options options_;
  WallTime due_{}, end_{};
  int failures_ = 0;
  int renewals_ = 0;
  bool stopping_ = false;
  Signal wake_;
  Gate gate_;
};

// A `take` that writes the file on the pool, then calls `use` on the loop. All outlive the keeper.
std::function<Task<Result<>>(Identity)> takeIntoFile(Loop& loop, BlockingPool& pool, std::string path,
                                                     std::function<Result<>(const Identity&)> use);

}  // namespace dhow
