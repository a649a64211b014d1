#include "store/form.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

namespace dhow::store {

namespace json = boost::json;

FormMark parseFormMark(std::string_view value) {
  FormMark mark;
  boost::system::error_code failed;
  auto read = json::parse(value, failed);
  if (failed || !read.is_object()) return mark;
  const auto* form = read.get_object().if_contains("form");
  const auto* version = read.get_object().if_contains("version");
  if (form && form->is_int64() && form->get_int64() > 0 && form->get_int64() < 1'000'000)
    mark.form = static_cast<int>(form->get_int64());
  if (version && version->is_string()) mark.version = version->get_string();
  return mark;
}

Result<> checkForm(const FormMark& mark, const ProgramInfo& program) {
  if (mark.form <= program.store.reads) return {};
  return Error(Code::kFailedPrecondition,
               fmt::format("the content of the store has form {}, which dhow {} has given it; this is dhow {}, which "
                           "reads forms up to {}. Nothing was changed",
                           mark.form, mark.version, program.version.text(), program.store.reads));
}

Task<Result<>> enterForm(Store& store, ProgramInfo program) {
  while (true) {
    auto found = co_await store.get(kFormKey);
    CO_RETURN_IF_ERROR(found);
    const FormMark mark = *found ? parseFormMark(*(*found)->value.bytes) : FormMark{};
    CO_RETURN_IF_ERROR(checkForm(mark, program));
    if (*found && mark.form >= program.store.writes) co_return Result<>();
    Txn txn;
    txn.compares.push_back({kFormKey, *found ? (*found)->modified : 0});
    Operation put{Operation::Type::kPut, kFormKey, {}};
    put.value.bytes = std::make_shared<const std::string>(
        json::serialize(json::object{{"form", program.store.writes}, {"version", program.version.text()}}));
    txn.operations.push_back(std::move(put));
    auto done = co_await store.txn(std::move(txn));
    if (done.ok()) co_return Result<>();
    // Another master was first, or nobody knows whether it was done: it is looked at again.
    if (!done.error().is(Code::kConflict) && !done.error().is(Code::kDeadlineExceeded))
      co_return std::move(done).error();
  }
}

}  // namespace dhow::store
