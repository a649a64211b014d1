#include "access_record.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

namespace dhow::ingress {
namespace {

constexpr std::string_view kLine =
    "R 1796055514 041 ::1 200 80 52 9 0 1 7 b_shop_web_http_0123456789 [fd00::1]:8001 c9db00ba TLSv1.3 -- 2 "
    "Ingress/shop/front 949110 Gateway/shop/g {A.test:80|#22#7B\\#01#FF#C3#A4|-|} GET https://a.test/x?y=#22 HTTP/2.0";

TEST(AccessRecord, IsTheRequestAsJson) {
  auto record = recordOf(kLine);
  ASSERT_TRUE(record.has_value());
  EXPECT_EQ(*record,
            R"({"time":"2026-11-30T16:18:34.041Z","client":"::1","method":"GET","host":"a.test","path":"/x?y=\"",)"
            R"("protocol":"HTTP/2.0","status":200,"bytes_in":80,"bytes_out":52,"duration_ms":9,"queue_ms":0,)"
            R"("connect_ms":1,"response_ms":7,"gateway":"Gateway/shop/g","route":"Ingress/shop/front",)"
            R"("namespace":"shop","service":"web","server":"[fd00::1]:8001","request_id":"c9db00ba","tls":"TLSv1.3",)"
            "\"user_agent\":\"\\\"{\\\\\\u0001\u00e4\","
            R"("referer":"-","waf":"949110","end":"--"})");
}

TEST(AccessRecord, OfWhatWasNoRequestIsARecordToo) {
  auto record = recordOf("R 1796055514 040 127.0.0.1 400 0 0 0 -1 -1 -1 edge_i -:- - - PR 1 - - - <BADREQ>");
  ASSERT_TRUE(record.has_value());
  boost::json::object object = boost::json::parse(*record).as_object();
  EXPECT_EQ(object["status"].as_int64(), 400);
  EXPECT_EQ(object["method"].as_string(), "");
  EXPECT_EQ(object["host"].as_string(), "-");
  EXPECT_EQ(object["response_ms"].as_int64(), -1);
}

TEST(AccessRecord, WhatIsCutIsNone) {
  const size_t whole = kLine.find("} GET") + 2;
  for (size_t i = 0; i < kLine.size(); ++i) {
    auto record = recordOf(kLine.substr(0, i));
    if (i < whole) EXPECT_FALSE(record.has_value()) << i;
    if (record) EXPECT_TRUE(boost::json::parse(*record).is_object()) << i;
  }
  EXPECT_FALSE(recordOf("").has_value());
}

}  // namespace
}  // namespace dhow::ingress
