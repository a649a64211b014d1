// Puts an example onto a cluster: builds its image, pushes it to the cluster's registry, applies its manifests.
//
// The folder holds *.yaml (applied in order of name) and, where it has an image of its own, image.json:
//   {"tag": "...", "files": {"/in/the/image": "file"}, "entrypoint": [...], "expose": ["8080/tcp"], "user": "1:1"}
// Files are looked for in the folder, then beside the dhow program (built ones).
#pragma once

#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "image/store.h"
#include "platform/config.h"

namespace dhow::platform {

// Builds an image and pushes it under its first tag.
Task<Result<image::Pushed>> publishImage(Loop& loop, BlockingPool& pool, const ClusterConfig& config,
                                         image::AssembleOptions options);
// The image.json of a folder; nothing when there is none.
Result<std::optional<image::AssembleOptions>> exampleImage(const std::string& folder, const std::string& programs);
// kInvalid where a folder holds neither an image nor a manifest, or one that cannot be read.
Result<> checkExample(const std::string& folder, const std::string& programs);
// Server-side apply of all manifests; applying what already holds changes nothing.
Task<Result<>> applyManifests(Loop& loop, const ClusterConfig& config, std::string folder);
// Waits until the folder's Deployments are complete and its LoadBalancer Services have addresses; gives the addresses
// as URLs.
Task<Result<std::vector<std::string>>> waitDeployed(Loop& loop, const ClusterConfig& config, std::string folder,
                                                    Duration limit);

}  // namespace dhow::platform
