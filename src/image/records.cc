#include "json_read.h"
#include "store_rep.h"

namespace dhow::image {

namespace json = boost::json;
using namespace jsonread;

Result<Records> parseRecords(std::string_view text) {
  ASSIGN_OR_RETURN(auto document, parseObject(text, "images.json"));
  if (intAt(document, "version", 0) != 1) return Error(Code::kDataLoss, "images.json has an unknown version");
  const auto* images = arrayAt(document, "images");
  if (!images) return Error(Code::kDataLoss, "images.json has no images");
  Records out;
  for (const auto& value : *images) {
    if (!value.is_object()) return Error(Code::kDataLoss, "images.json has an entry that is not an object");
    const auto& entry = value.get_object();
    ImageRecord record;
    record.id = stringAt(entry, "id");
    record.manifest = stringAt(entry, "manifest");
    record.target = stringAt(entry, "target");
    for (auto& tag : stringsAt(entry, "tags")) record.tags.insert(std::move(tag));
    for (auto& digest : stringsAt(entry, "digests")) record.digests.insert(std::move(digest));
    record.lastTagged = intAt(entry, "lastTagged", 0);
    if (!isDigest(record.id) || !isDigest(record.manifest))
      return Error(Code::kDataLoss, "images.json has a bad entry");
    out[record.id] = std::move(record);
  }
  return out;
}

std::string toJson(const Records& records) {
  json::array images;
  for (const auto& [id, record] : records) {
    images.push_back(json::object{{"id", record.id},
                                  {"manifest", record.manifest},
                                  {"target", record.target},
                                  {"tags", toArray({record.tags.begin(), record.tags.end()})},
                                  {"digests", toArray({record.digests.begin(), record.digests.end()})},
                                  {"lastTagged", record.lastTagged}});
  }
  return json::serialize(json::object{{"version", 1}, {"images", std::move(images)}});
}

}  // namespace dhow::image
