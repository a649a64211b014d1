// Which form the content of a store has (StoreForm in base/version.h): an entry of its own says so, and who gave it
// that form. It goes along with snapshots and copies.
#pragma once

#include "base/version.h"
#include "store/store.h"

namespace dhow::store {

inline constexpr const char* kFormKey = "/dhow/form";

struct FormMark {
  int form = 1;
  std::string version;  // of the program that wrote it
};
FormMark parseFormMark(std::string_view value);

// kFailedPrecondition, naming both versions, where the form is newer than what `program` reads.
Result<> checkForm(const FormMark& mark, const ProgramInfo& program);
// For a master that opens the store: checks the form, and raises it to the one that the program writes.
Task<Result<>> enterForm(Store& store, ProgramInfo program);

}  // namespace dhow::store
