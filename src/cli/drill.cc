// drill: breaks one thing of a running cluster under load, and tells what came of it.
#include <boost/asio/signal_set.hpp>
#include <boost/json/serialize.hpp>

#include <csignal>
#include <cstdio>

#include "base/log.h"
#include "base/strings.h"
#include "cluster_option.h"
#include "commands.h"
#include "platform/drill.h"

namespace dhow::cli {

namespace {

constexpr int64_t kLongest = 3600;

struct Options {
  std::string kind, target, span = "30s", output;
};

// "30s", "2m", "45": seconds.
Result<Duration> parseSpan(const std::string& text) {
  std::string digits = text;
  int64_t unit = 1;
  if (text.ends_with('s') || text.ends_with('m')) {
    unit = text.back() == 'm' ? 60 : 1;
    digits.pop_back();
  }
  const auto number = parseUint(digits);
  if (!number || *number == 0 || static_cast<int64_t>(*number) > kLongest / unit)
    return Error(Code::kInvalid, fmt::format("--for {}: give a time of 1s to 60m", text));
  return std::chrono::seconds(static_cast<int64_t>(*number) * unit);
}

// The first puts things back and ends soon; the second does not wait until the cluster has healed.
void onInterrupt(boost::asio::signal_set& signals, platform::Drill& drill) {
  signals.async_wait([&](const boost::system::error_code& error, int) {
    if (error) return;
    std::fprintf(stderr, "dhow: ending: what was broken is put back, and the load removed\n");
    drill.interrupt();
    onInterrupt(signals, drill);
  });
}

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

int drill(Workbench& workbench, const platform::ClusterConfig& config, const Options& options) {
  auto span = parseSpan(options.span);
  if (!span.ok()) return fail(span.error());
  const bool json = options.output == "json";
  // What a drill breaks breaks connections of ours as well: only the report tells of it.
  if (!log::enabled(log::Level::kDebug)) log::configure(log::Level::kError, "");
  auto& loop = workbench.loop;
  platform::Drill drill(loop, workbench.pool, config, workbench.programs);
  if (!json) {
    drill.onStep = [](const std::string& step) { print(fmt::format("  {}\n", step)); };
    drill.onEvent = [](const platform::DrillEvent& event) { print(platform::eventLine(event)); };
  }
  boost::asio::signal_set signals(loop.executor(), SIGINT, SIGTERM, SIGHUP);
  onInterrupt(signals, drill);
  auto report = runOn(loop, drill.run({*platform::drillNamed(options.kind), options.target, *span}));
  if (!report.ok()) return fail(report.error());
  const auto failures = report->failures();
  if (json) {
    print(boost::json::serialize(report->toJson()) + "\n");
  } else {
    print("\n" + report->summary());
    for (const auto& failure : failures) print(fmt::format("  FAILED: {}\n", failure));
    if (failures.empty())
      print(report->interrupted ? "  interrupted; nothing that was promised was broken\n" : "  passed\n");
  }
  return failures.empty() ? 0 : 1;
}

}  // namespace

void addDrill(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand(
      "drill", "break one thing of a running cluster under load, put it back, and report what came of it");
  auto option = addClusterOption(command);
  auto options = std::make_shared<Options>();
  command
      ->add_option("kind", options->kind,
                   "zone: cut off; node, master: its power fails; link: a node's, cut; store: killed")
      ->required()
      ->check(CLI::IsMember({"zone", "node", "master", "link", "store"}));
  command->add_option("target", options->target, "the zone or machine; one is chosen where none is named");
  command->add_option("--for", options->span, "how long it stays broken")->capture_default_str();
  command->add_option("-o,--output", options->output, "json: the report for programs")->check(CLI::IsMember({"json"}));
  command->callback([=] {
    *chosen = [=] {
      return withCluster(*option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
        return drill(workbench, config, *options);
      });
    };
  });
}

}  // namespace dhow::cli
