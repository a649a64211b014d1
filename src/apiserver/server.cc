#include "apiserver/server.h"

#include "base/log.h"
#include "bootstrap.h"
#include "front.h"

namespace dhow::apiserver {

struct ApiServer::Rep {
  Rep(Loop& loop, store::Store& store, const object::Kinds& kinds, ServerOptions given)
      : options(std::move(given)), caches(loop, store, options.cipher ? &*options.cipher : nullptr) {
    for (const auto& kind : kinds.all()) {
      if (kind.stored && kind.storedAsKind.empty() && !kind.plural.empty()) caches.add(kind.resource());
    }
    registry = std::make_unique<Registry>(loop, store, caches, kinds, options.services, options.podSecurity);
    authorizer = std::make_unique<Authorizer>(caches);
    tokens = std::make_unique<Tokens>(loop, caches, options.tokens);
    front = std::make_unique<Front>(loop, *registry, *authorizer, *tokens, store, options.clusterId,
                                    fmt::format("{}:{}", options.advertiseAddress, options.advertisePort));
    front->setAudit(options.audit);
    front->setPool(options.pool);
  }

  ServerOptions options;
  WatchCache caches;
  std::unique_ptr<Registry> registry;
  std::unique_ptr<Authorizer> authorizer;
  std::unique_ptr<Tokens> tokens;
  std::unique_ptr<Front> front;
};

ApiServer::ApiServer(Loop& loop, store::Store& store, const object::Kinds& kinds, ServerOptions options)
    : rep_(std::make_unique<Rep>(loop, store, kinds, std::move(options))) {}
ApiServer::~ApiServer() = default;

Task<Result<>> ApiServer::start() {
  CO_RETURN_IF_ERROR(co_await rep_->caches.start());
  rep_->front->start();
  CO_RETURN_IF_ERROR(co_await rep_->registry->mendClaims());
  // Those that stay as they are can be read all the same.
  if (auto sealed = co_await rep_->registry->sealAnew(); !sealed.ok())
    log::warn("apiserver", "not all that should be encrypted is: {}", sealed.error().message());
  LocalClient client(*rep_->registry, systemCaller());
  auto made = co_await bootstrap(client, rep_->caches, rep_->options.services, rep_->options.advertiseAddress,
                                 rep_->options.advertisePort, rep_->options.sharedStore);
  if (!made.ok()) co_return std::move(made).error().wrap("make the objects that every cluster has");
  rep_->front->setReady(true);
  co_return Result<>();
}

Task<Result<>> ApiServer::publishMasters(std::vector<std::string> addresses) {
  if (addresses.empty()) co_return Error(Code::kInvalid, "no master is left to be published");
  LocalClient client(*rep_->registry, systemCaller());
  co_return co_await apiserver::publishMasters(client, rep_->caches, std::move(addresses), true,
                                               rep_->options.advertisePort);
}

Task<> ApiServer::stop() {
  co_await rep_->front->stop();
  co_await rep_->caches.stop();
}

http::Handler ApiServer::handler() {
  return [front = rep_->front.get()](http::Request& request, http::ResponseWriter& writer) {
    return front->serve(request, writer);
  };
}

client::Caches& ApiServer::caches() {
  return rep_->caches;
}
WatchCache& ApiServer::watchCache() {
  return rep_->caches;
}
Registry& ApiServer::registry() {
  return *rep_->registry;
}
Tokens& ApiServer::tokens() {
  return *rep_->tokens;
}
std::unique_ptr<client::Client> ApiServer::clientFor(std::string component) {
  return std::make_unique<LocalClient>(*rep_->registry, systemCaller(std::move(component)));
}
void ApiServer::addConsumers(EndpointConsumers& consumers) {
  rep_->front->barrier().add(consumers);
}
size_t ApiServer::connectedAgents() const {
  return rep_->front->tunnels().size();
}

}  // namespace dhow::apiserver
