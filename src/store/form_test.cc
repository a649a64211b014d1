#include "store/form.h"

#include <gtest/gtest.h>

#include "base/loop.h"
#include "store/memory_store.h"

namespace dhow::store {
namespace {

ProgramInfo program(const char* version, int writes, int reads) {
  return {*parseVersion(version), "", {writes, reads}};
}

FormMark markOf(RealLoop& loop, Store& store) {
  auto found = runOn(loop, store.get(kFormKey));
  return found.ok() && *found ? parseFormMark(*(*found)->value.bytes) : FormMark{0, ""};
}

TEST(StoreForm, IsWrittenOnceAndRaisedByNewerPrograms) {
  RealLoop loop;
  MemoryStore store(loop);
  ASSERT_TRUE(runOn(loop, enterForm(store, program("0.1.0", 1, 1))).ok());
  EXPECT_EQ(markOf(loop, store).form, 1);
  EXPECT_EQ(markOf(loop, store).version, "0.1.0");
  const Revision before = store.revision();
  // Reads the next form already, and writes the old one: both versions work on.
  ASSERT_TRUE(runOn(loop, enterForm(store, program("0.2.0", 1, 2))).ok());
  EXPECT_EQ(store.revision(), before);
  ASSERT_TRUE(runOn(loop, enterForm(store, program("0.3.0", 2, 2))).ok());
  EXPECT_EQ(markOf(loop, store).form, 2);
  ASSERT_TRUE(runOn(loop, enterForm(store, program("0.2.0", 1, 2))).ok());
  EXPECT_EQ(markOf(loop, store).form, 2);
}

TEST(StoreForm, NewerThanTheProgramReadsIsRefusedAndNothingChanges) {
  RealLoop loop;
  MemoryStore store(loop);
  ASSERT_TRUE(runOn(loop, enterForm(store, program("0.3.0", 2, 2))).ok());
  const Revision before = store.revision();
  auto refused = runOn(loop, enterForm(store, program("0.1.0", 1, 1)));
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(refused.error().is(Code::kFailedPrecondition));
  EXPECT_NE(refused.error().message().find("0.3.0"), std::string::npos);
  EXPECT_NE(refused.error().message().find("0.1.0"), std::string::npos);
  EXPECT_EQ(store.revision(), before);
}

TEST(StoreForm, WhatIsNoMarkIsTheFirstForm) {
  for (const char* text : {"", "{}", "[]", R"({"form":-4})", R"({"form":"7"})"}) EXPECT_EQ(parseFormMark(text).form, 1);
}

}  // namespace
}  // namespace dhow::store
