// libFuzzer entry for the JSON bodies of Docker's API. The first byte chooses what they are read as.
#include <boost/json/parse.hpp>

#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/files.h"
#include "create.h"
#include "docker/api.h"
#include "fields.h"
#include "launch.h"

using namespace dhow;
using namespace dhow::engine;

namespace {

// A folder in memory, in which the engine may make what it wants.
struct World {
  World() : dir(makeTempDir("/dev/shm", "dhow-engine-fuzz-").value()) {
    for (const char* name : {"/lower", "/lower/etc", "/upper", "/work", "/folder"}) CHECK(makeDirs(dir + name).ok());
    CHECK(writeFile(dir + "/lower/etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").ok());
    snapshot.lowers = {dir + "/lower"};
    snapshot.upper = dir + "/upper";
    snapshot.work = dir + "/work";
    image.config.run.cmd = {"sh"};
    image.config.run.env = {"PATH=/bin"};
    image.config.run.exposedPorts = {"80/tcp"};
  }
  ~World() { (void)removeTree(dir).ok(); }
  const std::string dir;
  image::Snapshot snapshot;
  image::Image image;
};

// Folders of this machine are left alone.
void dropBinds(json::object& body) {
  auto* host = body.if_contains("HostConfig");
  if (!host || !host->is_object()) return;
  auto& fields = host->get_object();
  for (const char* name : {"Binds", "Mounts"}) {
    auto* values = fields.if_contains(name);
    if (!values) continue;
    if (!values->is_array()) {
      fields.erase(name);
      continue;
    }
    auto& array = values->get_array();
    for (size_t i = array.size(); i-- > 0;) {
      const bool path = array[i].is_string() && array[i].get_string().starts_with('/');
      const bool bind = array[i].is_object() && text(array[i].get_object(), "Type") == "bind";
      if (path || bind) array.erase(array.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

void create(World& world, json::object body) {
  SimLoop loop;
  dropBinds(body);
  static int count = 0;
  // New volumes from time to time, so that the folder stays small.
  const std::string root = world.dir + "/volumes";
  if (++count % 500 == 0) CHECK(removeTree(root).ok());
  CHECK(makeDirs(root).ok());
  auto volumes = Volumes::open(root);
  CHECK(volumes.ok(), "{}", volumes.error().message());
  Container container(loop);
  container.id = std::string(64, 'a');
  container.name = "fuzz";
  container.imageId = "sha256:0";
  std::vector<std::string> warnings;
  if (!configure(container, body, world.image, world.snapshot, **volumes, warnings).ok()) return;
  for (const auto& mount : container.mounts)
    CHECK(mount.type != "volume" || mount.source.starts_with(root + "/"), "a volume outside: {}", mount.source);
  (void)wantedPorts(container).ok();
  (void)sandboxSpec(container);
  (void)containerSpec(container, world.snapshot, {world.dir + "/folder", world.dir + "/log"}).ok();
  CHECK(fromRecord(loop, toRecord(container)).ok(), "a container's record does not survive a round trip");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  constexpr std::string_view kFilters[] = {"label", "name", "status"};
  if (data[0] % 5 == 0) {
    auto filters = docker::Filters::parse(bytes, kFilters);
    if (filters.ok()) (void)filters->labelsMatch({{"a", "b"}});
    (void)signalOf(bytes);
    (void)validContainerName(bytes);
    return 0;
  }
  boost::system::error_code error;
  auto body = json::parse(bytes, error);
  if (error || !body.is_object()) return 0;
  SimLoop loop;
  switch (data[0] % 5) {
    case 1: create(world, std::move(body.get_object())); break;
    case 2: {
      Container container(loop);
      container.config = {{"Env", {"PATH=/bin"}}, {"User", "web"}};
      (void)execSpec(container, world.snapshot, body.get_object()).ok();
      break;
    }
    case 3: {
      auto made = fromRecord(loop, body.get_object());
      if (made.ok()) (void)toRecord(**made);
      break;
    }
    default:
      if (!body.get_object().contains("HostConfig")) body = json::object{{"HostConfig", std::move(body)}};
      create(world, std::move(body.get_object()));
  }
  return 0;
}
