// The checks of names and values that Kubernetes has, with its own texts. Each gives "" when the text passes.
#pragma once

#include <string>
#include <string_view>

namespace dhow::object {

std::string checkDns1123Label(std::string_view text);
std::string checkDns1123Subdomain(std::string_view text);
std::string checkWildcardDns1123Subdomain(std::string_view text);  // "*." and a subdomain
std::string checkDns1035Label(std::string_view text);
std::string checkQualifiedName(std::string_view text);  // label and annotation keys
std::string checkLabelValue(std::string_view text);
std::string checkPathSegment(std::string_view text);  // names of roles and bindings
std::string checkEnvName(std::string_view text);
std::string checkConfigKey(std::string_view text);  // keys of config maps and secrets
std::string checkPortName(std::string_view text);
std::string checkPort(int64_t port);
std::string checkIp(std::string_view text);
std::string checkCidr(std::string_view text);
// Whether every address of one range is in the other, which has more.
bool strictlyInside(std::string_view cidr, std::string_view other);

}  // namespace dhow::object
