#include "platform/deploy.h"

#include <sys/stat.h>

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "base/strings.h"
#include "base/time.h"
#include "base/url_host.h"
#include "base/yaml.h"
#include "client/fields.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "http/stream.h"
#include "object/kinds.h"
#include "platform/machines.h"

namespace dhow::platform {

namespace json = boost::json;
using client::HttpClient;
using object::ObjectPtr;

namespace {

constexpr Duration kConnectLimit = std::chrono::milliseconds(250);
constexpr int kApplyTries = 5;
constexpr Duration kApplyPause = std::chrono::milliseconds(500);

struct Manifest {
  const object::KindInfo* kind;
  std::string ns, name;
  json::object document;
};

Result<std::vector<Manifest>> readManifests(const std::string& folder) {
  std::vector<Manifest> manifests;
  ASSIGN_OR_RETURN(auto names, listDir(folder));
  for (const auto& file : names) {
    if (!file.ends_with(".yaml")) continue;
    ASSIGN_OR_RETURN(auto content, readFile(folder + "/" + file, 16 << 20));
    std::string_view rest = content;
    while (!rest.empty()) {
      auto end = rest.find("\n---\n");
      auto text = rest.substr(0, end);
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 5);
      auto value = parseYaml(text);
      if (!value.ok()) return std::move(value).error().wrap(file);
      if (!value->is_object()) continue;
      Manifest manifest{nullptr, "", "", std::move(value->as_object())};
      manifest.kind = object::Kinds::builtin().findKind(client::text(manifest.document, "apiVersion"),
                                                        client::text(manifest.document, "kind"));
      if (!manifest.kind)
        return Error(Code::kInvalid, fmt::format("{}: unknown kind {}", file, client::text(manifest.document, "kind")));
      manifest.name = client::text(manifest.document, {"metadata", "name"});
      manifest.ns = client::text(manifest.document, {"metadata", "namespace"});
      if (manifest.kind->resource().namespaced && manifest.ns.empty()) manifest.ns = "default";
      manifests.push_back(std::move(manifest));
    }
  }
  return manifests;
}

Result<std::unique_ptr<HttpClient>> clientOf(Loop& loop, const ClusterConfig& config) {
  ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(config.paths().kubeconfig()));
  ASSIGN_OR_RETURN(auto options, client::httpOptions(kubeconfig));
  options.fieldManager = "dhow-up";
  return std::make_unique<HttpClient>(loop, std::move(options));
}

bool complete(const object::Object& deployment) {
  const auto& root = deployment.root();
  auto wanted = client::number(root, {"spec", "replicas"}, 1);
  return client::number(root, {"status", "observedGeneration"}, 0) >=
             client::number(root, {"metadata", "generation"}, 0) &&
         client::number(root, {"status", "availableReplicas"}, 0) >= wanted &&
         client::number(root, {"status", "updatedReplicas"}, 0) >= wanted;
}

// Where the load balancer answers for a service.
struct Front {
  std::string address;  // empty: it has none yet
  uint16_t port = 0;

  std::string url() const {
    return port == 80 ? fmt::format("http://{}/", urlHost(address))
                      : fmt::format("http://{}:{}/", urlHost(address), port);
  }
};

Front frontOf(const object::Object& service) {
  const auto& ingress = client::array(service.root(), {"status", "loadBalancer", "ingress"});
  const auto& ports = client::array(service.root(), {"spec", "ports"});
  if (ingress.empty() || ports.empty()) return {};
  return {std::string(client::text(ingress[0].get_object(), "ip")),
          static_cast<uint16_t>(client::number(ports[0].get_object(), {"port"}, 80))};
}

// What still has to happen to the object; an empty text when nothing has.
std::string missing(const object::Object& object) {
  if (object.kind() == "Deployment" && !complete(object))
    return fmt::format("deployment {}: {} of {} available", object.name(),
                       client::number(object.root(), {"status", "availableReplicas"}, 0),
                       client::number(object.root(), {"spec", "replicas"}, 1));
  bool balanced = object.kind() == "Service" && client::text(object.root(), {"spec", "type"}) == "LoadBalancer";
  if (balanced && frontOf(object).address.empty()) return fmt::format("service {}: no address yet", object.name());
  return "";
}

// Watches one object until nothing is missing.
Task<Result<ObjectPtr>> waitFor(Loop& loop, HttpClient& api, const Manifest& manifest, TimePoint deadline) {
  const auto& resource = manifest.kind->resource();
  auto read = co_await api.get(resource, manifest.ns, manifest.name);
  CO_RETURN_IF_ERROR(read);
  ObjectPtr current = *read;
  if (missing(*current).empty()) co_return current;
  client::ListOptions select;
  select.ns = manifest.ns;
  select.fieldSelector = "metadata.name=" + manifest.name;
  auto watcher = co_await api.watch(resource, select, std::to_string(current->resourceVersion()));
  CO_RETURN_IF_ERROR(watcher);
  bool late = false;
  auto timer = loop.after(deadline - loop.now(), [&] {
    late = true;
    (*watcher)->close();
  });
  while (!missing(*current).empty()) {
    auto event = co_await (*watcher)->next();
    if (!event.ok() && late) co_return Error(Code::kDeadlineExceeded, missing(*current));
    CO_RETURN_IF_ERROR(event);
    if (event->object && event->type != client::WatchEvent::Type::kBookmark) current = event->object;
  }
  (*watcher)->close();
  co_return current;
}

}  // namespace

Task<Result<image::Pushed>> publishImage(Loop& loop, BlockingPool& pool, const ClusterConfig& config,
                                         image::AssembleOptions options) {
  CO_ASSIGN_OR_RETURN(auto root, makeTempDir(config.paths().root, "image-"));
  image::ImageStore::Options store;
  store.root = root;
  CO_ASSIGN_OR_RETURN(store.hosts, clusterRegistries(config));
  CO_ASSIGN_OR_RETURN(auto images, image::ImageStore::open(loop, pool, std::move(store)));
  CO_ASSIGN_OR_RETURN(auto reference, image::Reference::parse(options.tags.at(0)));
  auto made = co_await images->assemble(std::move(options));
  Result<image::Pushed> pushed(Error(Code::kInternal, "nothing was pushed"));
  if (made.ok()) pushed = co_await images->push(reference.withDefaultTag(), {});
  co_await images->stop();
  images.reset();
  (void)removeTree(root);
  if (!made.ok()) co_return std::move(made).error();
  co_return pushed;
}

Result<std::optional<image::AssembleOptions>> exampleImage(const std::string& folder, const std::string& programs) {
  auto path = folder + "/image.json";
  if (!pathExists(path)) return std::optional<image::AssembleOptions>();
  ASSIGN_OR_RETURN(auto content, readFile(path, 1 << 20));
  boost::system::error_code error;
  auto value = json::parse(content, error);
  if (error || !value.is_object()) return Error(Code::kInvalid, path + ": not a JSON object");
  const auto& object = value.get_object();
  image::AssembleOptions options;
  options.tags = {std::string(client::text(object, "tag"))};
  options.config.entrypoint = client::strings(client::array(object, {"entrypoint"}));
  options.config.exposedPorts = client::strings(client::array(object, {"expose"}));
  options.config.user = client::text(object, "user");
  time_t newest = 0;
  for (const auto& [target, source] : client::object(object, {"files"})) {
    if (!source.is_string()) return Error(Code::kInvalid, path + ": files are texts");
    std::string name(source.get_string());
    std::string file = pathExists(folder + "/" + name) ? folder + "/" + name : programs + "/" + name;
    struct stat info;
    if (::stat(file.c_str(), &info) != 0) return Error::fromErrno("find " + file);
    newest = std::max(newest, info.st_mtime);
    options.additions.push_back({file, std::string(target)});
  }
  // The same files give the same image.
  options.created = formatTime(WallTime(std::chrono::seconds(newest)));
  return std::optional(std::move(options));
}

Result<> checkExample(const std::string& folder, const std::string& programs) {
  ASSIGN_OR_RETURN(auto image, exampleImage(folder, programs));
  ASSIGN_OR_RETURN(auto manifests, readManifests(folder));
  if (!image && manifests.empty())
    return Error(Code::kInvalid, fmt::format("--deploy {}: there is neither image.json nor a *.yaml manifest", folder));
  return {};
}

namespace {

// To apply the same twice does no harm, so a connection that ends is no reason to give up.
Task<Result<>> applyOne(Loop& loop, HttpClient& api, const Manifest& manifest) {
  for (int tried = 1;; ++tried) {
    auto applied = co_await api.patch(manifest.kind->resource(), manifest.ns, manifest.name, "",
                                      client::PatchType::kApply, manifest.document);
    if (applied.ok()) co_return Result<>();
    if (!applied.error().is(Code::kUnavailable) || tried == kApplyTries)
      co_return std::move(applied).error().wrap("apply " + manifest.name);
    co_await loop.sleep(kApplyPause);
  }
}

}  // namespace

Task<Result<>> applyManifests(Loop& loop, const ClusterConfig& config, std::string folder) {
  CO_ASSIGN_OR_RETURN(auto manifests, readManifests(folder));
  CO_ASSIGN_OR_RETURN(auto api, clientOf(loop, config));
  Result<> done;
  for (auto& manifest : manifests) {
    done = co_await applyOne(loop, *api, manifest);
    if (!done.ok()) break;
  }
  co_await api->stop();
  co_return done;
}

namespace {

// The load balancer learns of a service as everybody does, a moment after the API knows it.
Task<Result<>> waitReached(Loop& loop, Front front, TimePoint deadline) {
  while (true) {
    auto connected = co_await http::connectTcp(loop, front.address, front.port, kConnectLimit);
    if (connected.ok()) co_return Result<>();
    if (loop.now() >= deadline) co_return std::move(connected).error().wrap("reach " + front.url());
    co_await loop.sleep(kConnectLimit / 10);
  }
}

}  // namespace

Task<Result<std::vector<std::string>>> waitDeployed(Loop& loop, const ClusterConfig& config, std::string folder,
                                                    Duration limit) {
  CO_ASSIGN_OR_RETURN(auto manifests, readManifests(folder));
  CO_ASSIGN_OR_RETURN(auto api, clientOf(loop, config));
  auto deadline = loop.now() + limit;
  std::vector<Front> fronts;
  std::optional<Error> failure;
  for (const auto& manifest : manifests) {
    auto done = co_await waitFor(loop, *api, manifest, deadline);
    if (!done.ok()) {
      failure = std::move(done).error();
      break;
    }
    if ((*done)->kind() != "Service") continue;
    if (Front front = frontOf(**done); !front.address.empty()) fronts.push_back(std::move(front));
  }
  co_await api->stop();
  if (failure) co_return std::move(*failure);
  std::vector<std::string> urls;
  for (const Front& front : fronts) {
    auto reached = co_await waitReached(loop, front, deadline);
    CO_RETURN_IF_ERROR(reached);
    urls.push_back(front.url());
  }
  co_return urls;
}

}  // namespace dhow::platform
