// Named and anonymous volumes: folders under <root>/volumes/<name>/_data, each with a small record. Blocks.
#pragma once

#include <boost/json/object.hpp>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "image/store.h"

namespace dhow::engine {

struct Volume {
  std::string name;
  std::string mountpoint;
  WallTime created{};
  bool anonymous = false;
  boost::json::object labels, options;
};

// Any thread. What fails leaves nothing behind.
class Volumes {
 public:
  static Result<std::unique_ptr<Volumes>> open(std::string root);
  // An existing one is returned as it is. An empty name makes an anonymous one. `made`: whether this call made it.
  Result<Volume> create(std::string name, boost::json::object labels, boost::json::object options, WallTime now,
                        bool* made = nullptr);
  Result<Volume> get(const std::string& name) const;  // kNotFound "get x: no such volume"
  std::vector<Volume> list() const;
  Result<> remove(const std::string& name);
  // Fills an empty volume with what the image has at `path`, owners and modes kept.
  static Result<> copyUp(const image::Snapshot& snapshot, const std::string& path, const Volume& volume);

 private:
  explicit Volumes(std::string root) : root_(std::move(root)) {}
  std::string root_;
  std::mutex making_;  // held over the disk's work, where mutex_ is not
  mutable std::mutex mutex_;
  std::map<std::string, Volume> volumes_;
};

}  // namespace dhow::engine
