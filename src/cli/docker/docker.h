// `dhow docker ...`: Docker's commands without Docker's program, through the engine's socket, with the same columns,
// texts and exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "cli/command.h"
#include "http/client.h"

namespace dhow::cli::docker {

namespace json = boost::json;

// One engine, as a command talks to it. For the loop's thread.
class Engine {
 public:
  // unix:///path or tcp://host:port
  static Result<std::unique_ptr<Engine>> connect(const std::string& host);

  // Errors are as Docker prints them: "Error response from daemon: ...". kNotFound, kConflict and kInvalid are told
  // apart.
  Task<Result<http::Response>> call(std::string method, std::string path, http::Query query = {},
                                    json::value body = nullptr);
  Task<Result<json::value>> get(std::string path, http::Query query = {});
  Task<Result<http::StreamingResponse>> stream(std::string method, std::string path, http::Query query = {});
  Task<Result<std::unique_ptr<http::Stream>>> upgrade(std::string path, http::Query query, json::value body = nullptr);

  RealLoop loop;

 private:
  explicit Engine(std::string host) : host_(std::move(host)) {}
  Error unreachable(const Error& error) const;
  std::string host_, base_;
  std::unique_ptr<http::Client> client_;
};

// A command: adds its options to `app` and sets *run to what it does.
using Run = std::function<int(Engine&)>;
using Add = void (*)(CLI::App& app, Run* run);
void addVersion(CLI::App& app, Run* run);
void addInfo(CLI::App& app, Run* run);
void addPull(CLI::App& app, Run* run);
void addImages(CLI::App& app, Run* run);
void addRmi(CLI::App& app, Run* run);
void addRun(CLI::App& app, Run* run);
void addStart(CLI::App& app, Run* run);
void addPs(CLI::App& app, Run* run);
void addLogs(CLI::App& app, Run* run);
void addExec(CLI::App& app, Run* run);
void addInspect(CLI::App& app, Run* run);
void addStop(CLI::App& app, Run* run);
void addKill(CLI::App& app, Run* run);
void addRm(CLI::App& app, Run* run);
void addWait(CLI::App& app, Run* run);

// --- shared by commands
// Prints the error on standard error, as docker does; gives `code`.
int complain(const Error& error, int code = 1);
// An option that may be given many times, one value each.
CLI::Option* addMany(CLI::App* app, const std::string& names, std::vector<std::string>& into, const std::string& help);
// Pulls with progress on standard output (or error); the last line of a failure is the Result's.
Task<Result<>> pull(Engine& engine, std::string reference, std::string platform, bool quiet, int outFd);
// Splits bytes that a container wrote (framed unless a terminal) to standard output and error, until the end.
Task<Result<>> copyOutput(http::BodyReader& from, bool framed);

// Standard streams joined with a container's, until its output ends; raw terminal mode and the terminal's size while it
// lasts.
struct Conversation {
  std::string resizePath;  // "/containers/x/resize"
  std::string killPath;    // signals go there when there is no terminal; empty: nowhere
  bool tty = false, input = false;
};
// Gives true when the user detached by ctrl-p ctrl-q.
Task<Result<bool>> converse(Engine& engine, http::Stream& stream, Conversation how);

// --- display.cc
std::string table(const std::vector<std::vector<std::string>>& rows);
std::string humanSize(double bytes);
std::string humanAgo(int64_t unixSeconds);
std::string shortId(std::string_view id);
std::string pretty(const json::value& value);
std::string stringAt(const json::value& object, std::string_view name);
int64_t numberAt(const json::value& object, std::string_view name);
bool boolAt(const json::value& object, std::string_view name);
const json::value& at(const json::value& object, std::string_view name);  // null when missing
// "64m", "1.5g" in bytes.
Result<int64_t> parseSize(const std::string& text);

}  // namespace dhow::cli::docker
