// What tests of a component share: virtual time, an API without a server, one component at a time.
#pragma once

#include <gtest/gtest.h>

#include "client/fake_client.h"
#include "client/fields.h"
#include "component.h"
#include "object/resource_names.h"

namespace dhow::controllers {

struct ComponentTest : testing::Test {
  void TearDown() override {
    if (component) runOn(loop, component->stop());
  }
  template <class T, class... Args>
  void run(Args... args) {
    component = std::make_unique<T>(Context{loop, api, api}, std::move(args)...);
    component->start();
    loop.advance(std::chrono::seconds(1));
  }
  SimLoop loop;
  client::FakeClient api{loop};
  std::unique_ptr<Component> component;
};

}  // namespace dhow::controllers
