// One round of fuzzing: the first byte picks the reader, the rest is its input. Shared by the fuzzer and the unit test.
#pragma once

#include <boost/json/object.hpp>

#include <string_view>

#include "object/apply.h"
#include "object/decode.h"
#include "object/defaults.h"
#include "object/object.h"
#include "object/patch.h"
#include "object/quantity.h"
#include "object/selector.h"
#include "object/table.h"
#include "object/validate.h"

namespace dhow::object {

// A document that came through decoding passes through all that follows.
inline void fuzzDocument(const KindInfo& kind, boost::json::object document) {
  applyDefaults(kind, document);
  (void)validate(kind, document);
  auto applied = applyConfig(kind, nullptr, document, {.manager = {"a", ""}, .force = true, .now = WallTime()});
  if (applied.ok())
    (void)applyConfig(kind, &*applied, boost::json::object{{"metadata", boost::json::object()}},
                      {.manager = {"a", ""}, .force = true, .now = WallTime()});
  boost::json::object tracked = document;
  trackUpdate(kind, nullptr, tracked, {"b", ""}, WallTime());
  ObjectPtr object = Object::make(std::move(document));
  (void)renderTable(kind, std::span(&object, 1), {});
}

inline void fuzzOne(std::string_view data) {
  if (data.empty()) return;
  const Kinds& kinds = Kinds::builtin();
  std::string_view rest = data.substr(1);
  constexpr std::string_view kTypes[] = {"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"};
  unsigned choice = static_cast<unsigned char>(data[0]) % 7;
  if (choice < 3) {
    auto out = decodeBody(kinds, rest, kTypes[choice], {});
    if (out.ok()) fuzzDocument(*out->kind, std::move(out->document));
    return;
  }
  if (choice == 3) {
    (void)LabelSelector::parse(rest);
    (void)FieldSelector::parse(rest, *kinds.findKind("v1", "Pod"));
    (void)Quantity::parse(rest);
    return;
  }
  auto patch = parseJson(rest);
  if (!patch.ok()) return;
  const boost::json::value& document = *patch;
  if (choice == 4) (void)applyJsonPatch(document, *patch);
  if (choice == 5) (void)applyMergePatch(document, *patch);
  if (choice == 6 && patch->is_object())
    (void)applyStrategicPatch(*kinds.type("core.v1.Pod"), patch->get_object(), patch->get_object());
}

}  // namespace dhow::object
