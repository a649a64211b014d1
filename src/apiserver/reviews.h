// Reviews: questions about tokens and rights, asked as objects that are never stored.
#pragma once

#include "apiserver/tokens.h"
#include "authorizer.h"

namespace dhow::apiserver {

class Reviews {
 public:
  Reviews(Authorizer& authorizer, Tokens& tokens, Loop& loop) : authorizer_(authorizer), tokens_(tokens), loop_(loop) {}
  // The answered review. `ns` for LocalSubjectAccessReview.
  Result<json::object> answer(const Caller& caller, std::string_view kind, std::string_view ns, json::object review);

 private:
  Result<json::object> reviewAccess(const Caller& subject, json::object review);

  Authorizer& authorizer_;
  Tokens& tokens_;
  Loop& loop_;
};

}  // namespace dhow::apiserver
