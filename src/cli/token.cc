// token: bootstrap tokens, by which machines join.
#include <unistd.h>

#include <cstdio>

#include "base/files.h"
#include "base/time.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "commands.h"
#include "host/config.h"
#include "host/tokens.h"
#include "platform/config.h"

namespace dhow::cli {

namespace {

struct TokenOptions {
  std::string kubeconfig = host::kKubeconfig;
  std::string data = platform::kDefaultDataDir;
  std::string life, description, token;
  bool print = false, master = false;
};

// Runs `work` with a client of the cluster's administrator.
template <class T, class Work>
Result<T> withCluster(const TokenOptions& options, Work work) {
  if (!pathExists(options.kubeconfig))
    return Error(Code::kNotFound,
                 fmt::format("there is no {}: run this on a master, or give --kubeconfig", options.kubeconfig));
  ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(options.kubeconfig));
  ASSIGN_OR_RETURN(auto http, client::httpOptions(kubeconfig));
  RealLoop loop;
  client::HttpClient api(loop, std::move(http));
  auto done = runOn(loop, work(loop, api));
  runOn(loop, api.stop());
  return done;
}

Result<host::TokenRequest> requestOf(const TokenOptions& options) {
  host::TokenRequest request;
  request.description = options.description;
  request.life = options.master ? host::kMasterTokenLife : host::kTokenLife;
  if (options.life.empty()) return request;
  request.life.reset();
  if (options.life == "0") return request;
  auto parsed = platform::parseInterval(options.life);
  if (!parsed.ok() || *parsed == std::chrono::seconds(0))
    return Error(Code::kInvalid, fmt::format("--ttl {}: give a time as 30m or 24h, or 0: never", options.life));
  request.life = *parsed;
  return request;
}

int create(const TokenOptions& options) {
  auto request = requestOf(options);
  if (!request.ok()) return fail(request.error());
  auto made = withCluster<host::NewToken>(
      options, [&](Loop& loop, client::Client& api) { return host::createToken(loop, api, *request); });
  if (!made.ok()) return fail(made.error());
  if (!options.print) {
    std::printf("%s\n", made->record.token.str().c_str());
    return 0;
  }
  auto kubeconfig = client::loadKubeconfig(options.kubeconfig);
  if (!kubeconfig.ok()) return fail(kubeconfig.error());
  std::printf("%s\n", host::joinCommand(kubeconfig->server, made->record.token, kubeconfig->caPem).c_str());
  return 0;
}

int createForMaster(const TokenOptions& options) {
  if (::geteuid() != 0) return fail(Error(Code::kPermissionDenied, "this needs root: the masters' keys are root's"));
  auto request = requestOf(options);
  if (!request.ok()) return fail(request.error());
  auto config = host::loadHost(options.data);
  if (!config.ok()) return fail(config.error());
  if (!config->master) return fail(Error(Code::kFailedPrecondition, "this machine is a node; run this on a master"));
  auto made = withCluster<host::MasterToken>(
      options, [&](Loop& loop, client::Client& api) { return host::createMasterToken(loop, api, *config, *request); });
  if (!made.ok()) return fail(made.error());
  auto kubeconfig = client::loadKubeconfig(options.kubeconfig);
  if (!kubeconfig.ok()) return fail(kubeconfig.error());
  std::printf("%s --master --certificate-key %s\n",
              host::joinCommand(kubeconfig->server, made->token, kubeconfig->caPem).c_str(),
              made->certificateKey.c_str());
  return 0;
}

std::string leftOf(const client::BootstrapTokenRecord& record, WallTime now) {
  if (!record.expires) return "<forever>";
  if (record.expired(now)) return "<invalid>";
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(*record.expires - now).count();
  if (seconds >= 3600) return fmt::format("{}h", seconds / 3600);
  return seconds >= 60 ? fmt::format("{}m", seconds / 60) : fmt::format("{}s", seconds);
}

int list(const TokenOptions& options) {
  auto records = withCluster<std::vector<client::BootstrapTokenRecord>>(
      options, [](Loop&, client::Client& api) { return host::listTokens(api); });
  if (!records.ok()) return fail(records.error());
  const WallTime now = std::chrono::system_clock::now();
  std::printf("%-24s  %-10s  %-22s  %-24s  %s\n", "TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION");
  for (const auto& record : *records) {
    const std::string usages = record.authenticates && record.signs ? "authentication,signing"
                               : record.authenticates               ? "authentication"
                               : record.signs                       ? "signing"
                                                                    : "<none>";
    std::printf("%-24s  %-10s  %-22s  %-24s  %s\n", record.token.str().c_str(), leftOf(record, now).c_str(),
                record.expires ? formatTime(*record.expires).c_str() : "<never>", usages.c_str(),
                record.description.empty() ? "<none>" : record.description.c_str());
  }
  return 0;
}

int remove(const TokenOptions& options) {
  auto removed =
      withCluster<void>(options, [&](Loop&, client::Client& api) { return host::deleteToken(api, options.token); });
  if (!removed.ok()) return fail(removed.error());
  const std::string id = options.token.substr(0, options.token.find('.'));
  std::printf("bootstrap token \"%s\" deleted\n", id.c_str());
  return 0;
}

}  // namespace

void addToken(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("token", "make, list and delete the tokens by which machines join");
  command->require_subcommand(1);
  auto options = std::make_shared<TokenOptions>();
  command->add_option("--kubeconfig", options->kubeconfig, "an administrator's")->capture_default_str();
  auto* creating = command->add_subcommand("create", "make a token and print it");
  creating->add_option("--ttl", options->life,
                       "how long it is good: 30m, 24h (of a node's by itself; of a master's 2h); 0: "
                       "until it is deleted");
  creating->add_option("--description", options->description, "for those who read `dhow token list`");
  creating->add_flag("--print-join-command", options->print, "print all that the machine needs that joins");
  creating->add_flag("--master", options->master,
                     "for a further master: print all that it needs, its keys' key among it");
  creating->add_option("--data", options->data, "with --master: where this machine keeps its data")
      ->capture_default_str();
  creating->callback([=] { *chosen = [=] { return options->master ? createForMaster(*options) : create(*options); }; });
  auto* listing = command->add_subcommand("list", "list the tokens");
  listing->callback([=] { *chosen = [=] { return list(*options); }; });
  auto* deleting = command->add_subcommand("delete", "delete a token; nodes that have joined by it stay");
  deleting->add_option("token", options->token, "the token, or its first part")->required();
  deleting->callback([=] { *chosen = [=] { return remove(*options); }; });
}

}  // namespace dhow::cli
