#include "seccomp.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <boost/json/parse.hpp>

#include <mutex>

#include "base/fd.h"
#include "base/strings.h"
#include "capabilities.h"

namespace dhow::runtime {

namespace {

// Newer than the library may be. Numbers from 424 on are the same on every architecture.
struct NewCall {
  const char* name;
  unsigned number;
};
constexpr NewCall kNewCalls[] = {
    {"cachestat", 451},         {"fchmodat2", 452},         {"map_shadow_stack", 453}, {"futex_wake", 454},
    {"futex_wait", 455},        {"futex_requeue", 456},     {"statmount", 457},        {"listmount", 458},
    {"lsm_get_self_attr", 459}, {"lsm_set_self_attr", 460}, {"lsm_list_modules", 461}, {"mseal", 462},
    {"setxattrat", 463},        {"getxattrat", 464},        {"listxattrat", 465},      {"removexattrat", 466}};
constexpr unsigned kFirstNewCall = 451;
constexpr unsigned kFirstUnknown = 467;  // programs are told ENOSYS and fall back

#if defined(__x86_64__)
constexpr uint32_t kAuditArch = AUDIT_ARCH_X86_64;
constexpr uint32_t kSubArches[] = {SCMP_ARCH_X86, SCMP_ARCH_X32};
#elif defined(__aarch64__)
constexpr uint32_t kAuditArch = AUDIT_ARCH_AARCH64;
constexpr uint32_t kSubArches[] = {SCMP_ARCH_ARM};
#endif

Result<uint32_t> actionOf(const std::string& name, int errnoRet) {
  auto data = static_cast<uint32_t>(errnoRet) & 0xffff;
  if (name == "SCMP_ACT_ALLOW") return SCMP_ACT_ALLOW;
  if (name == "SCMP_ACT_ERRNO") return SCMP_ACT_ERRNO(data);
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return SCMP_ACT_KILL;
  if (name == "SCMP_ACT_KILL_PROCESS") return SCMP_ACT_KILL_PROCESS;
  if (name == "SCMP_ACT_TRAP") return SCMP_ACT_TRAP;
  if (name == "SCMP_ACT_TRACE") return SCMP_ACT_TRACE(data);
  if (name == "SCMP_ACT_LOG") return SCMP_ACT_LOG;
  return Error(Code::kInvalid, "seccomp: unknown action \"" + name + "\"");
}

Result<scmp_arg_cmp> comparison(const SeccompArg& arg) {
  static constexpr std::pair<std::string_view, scmp_compare> kOps[] = {{"SCMP_CMP_NE", SCMP_CMP_NE},
                                                                       {"SCMP_CMP_LT", SCMP_CMP_LT},
                                                                       {"SCMP_CMP_LE", SCMP_CMP_LE},
                                                                       {"SCMP_CMP_EQ", SCMP_CMP_EQ},
                                                                       {"SCMP_CMP_GE", SCMP_CMP_GE},
                                                                       {"SCMP_CMP_GT", SCMP_CMP_GT},
                                                                       {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}};
  for (const auto& [name, op] : kOps) {
    if (name == arg.op) return scmp_arg_cmp{arg.index, op, arg.value, arg.valueTwo};
  }
  return Error(Code::kInvalid, "seccomp: unknown comparison \"" + arg.op + "\"");
}

Result<> addRule(scmp_filter_ctx context, const SeccompRule& rule, uint32_t defaultAction) {
  ASSIGN_OR_RETURN(uint32_t action, actionOf(rule.action, rule.errnoRet));
  if (action == defaultAction) return {};
  std::vector<scmp_arg_cmp> args;
  for (const auto& arg : rule.args) {
    if (arg.index > 5) return Error(Code::kInvalid, "seccomp: argument index above 5");
    ASSIGN_OR_RETURN(auto compared, comparison(arg));
    args.push_back(compared);
  }
  for (const auto& name : rule.names) {
    int number = ::seccomp_syscall_resolve_name(name.c_str());
    if (number == __NR_SCMP_ERROR) continue;
    int r = ::seccomp_rule_add_array(context, action, number, static_cast<unsigned>(args.size()), args.data());
    // -EDOM, -EEXIST: not on an architecture, or already so.
    if (r != 0 && r != -EDOM && r != -EEXIST && r != -EFAULT)
      return Error(Code::kInvalid, "seccomp: rule for " + name + " is not possible", -r);
  }
  return {};
}

// What the library cannot say: new calls by number, and ENOSYS for those that nobody here knows yet.
std::string newCalls(const SeccompProfile& profile, uint32_t defaultAction) {
  std::vector<sock_filter> code = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kAuditArch, 0, 0),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kFirstNewCall, 0, 0),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 0),
  };
  for (const auto& rule : profile.rules) {
    auto action = actionOf(rule.action, rule.errnoRet);
    if (!action.ok() || !rule.args.empty()) continue;
    for (const auto& name : rule.names) {
      for (const auto& call : kNewCalls) {
        if (name != call.name || ::seccomp_syscall_resolve_name(call.name) != __NR_SCMP_ERROR) continue;
        code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.number, 0, 1));
        code.push_back(BPF_STMT(BPF_RET | BPF_K, *action));
      }
    }
  }
  bool refuses = (defaultAction & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO;
  if (refuses) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kFirstUnknown, 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 38));
  }
  auto size = code.size();
  code[1].jf = static_cast<uint8_t>(size - 2);
  code[3].jf = static_cast<uint8_t>(size - 4);
  code[4].jt = static_cast<uint8_t>(size - 5);
  return std::string(reinterpret_cast<const char*>(code.data()), size * sizeof(sock_filter));
}

std::vector<std::string> strings(const boost::json::value* value) {
  std::vector<std::string> out;
  if (!value || !value->is_array()) return out;
  for (const auto& item : value->get_array()) {
    if (item.is_string()) out.emplace_back(item.get_string());
  }
  return out;
}

#if defined(__x86_64__)
constexpr std::string_view kArchNames[] = {"amd64", "x86", "x32"};
#else
constexpr std::string_view kArchNames[] = {"arm64", "arm"};
#endif

// Docker's conditions: includes all hold, excludes none.
bool conditionHolds(const boost::json::object& condition, uint64_t capabilities, bool include) {
  auto caps = strings(condition.if_contains("caps"));
  auto arches = strings(condition.if_contains("arches"));
  auto isOurs = [](const std::string& arch) {
    return std::find(std::begin(kArchNames), std::end(kArchNames), arch) != std::end(kArchNames);
  };
  auto held = [&](const std::string& cap) {
    auto bit = capabilityBit(cap);
    return bit.ok() && (capabilities & *bit) == *bit;
  };
  bool arch = std::any_of(arches.begin(), arches.end(), isOurs);
  if (include) return (arches.empty() || arch) && std::all_of(caps.begin(), caps.end(), held);
  return arch || std::any_of(caps.begin(), caps.end(), held);
}

uint64_t unsignedOf(const boost::json::value* value) {
  if (!value) return 0;
  if (value->is_uint64()) return value->get_uint64();
  if (value->is_int64()) return static_cast<uint64_t>(value->get_int64());
  return 0;
}

std::string stringOf(const boost::json::object& object, const char* key) {
  auto* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

Result<SeccompProfile> parseSeccomp(const std::string& json, uint64_t capabilities) {
  if (json.size() > 1 << 20) return Error(Code::kTooLarge, "seccomp profile is larger than 1 MiB");
  boost::system::error_code error;
  auto document = boost::json::parse(json, error);
  if (error || !document.is_object()) return Error(Code::kInvalid, "seccomp profile is not a JSON object");
  const auto& object = document.get_object();
  SeccompProfile profile;
  profile.defaultAction = stringOf(object, "defaultAction");
  if (profile.defaultAction.empty()) return Error(Code::kInvalid, "seccomp profile has no defaultAction");
  if (auto* value = object.if_contains("defaultErrnoRet")) profile.defaultErrno = static_cast<int>(unsignedOf(value));
  auto* calls = object.if_contains("syscalls");
  if (!calls || !calls->is_array()) return profile;
  for (const auto& item : calls->get_array()) {
    if (!item.is_object()) return Error(Code::kInvalid, "seccomp profile: a rule is not an object");
    const auto& source = item.get_object();
    auto* includes = source.if_contains("includes");
    if (includes && includes->is_object() && !conditionHolds(includes->get_object(), capabilities, true)) continue;
    auto* excludes = source.if_contains("excludes");
    if (excludes && excludes->is_object() && conditionHolds(excludes->get_object(), capabilities, false)) continue;
    SeccompRule rule;
    rule.names = strings(source.if_contains("names"));
    if (auto name = stringOf(source, "name"); !name.empty()) rule.names.push_back(name);
    rule.action = stringOf(source, "action");
    if (auto* value = source.if_contains("errnoRet"); value && !value->is_null())
      rule.errnoRet = static_cast<int>(unsignedOf(value));
    if (auto* args = source.if_contains("args"); args && args->is_array()) {
      for (const auto& arg : args->get_array()) {
        if (!arg.is_object()) continue;
        const auto& fields = arg.get_object();
        rule.args.push_back({static_cast<unsigned>(unsignedOf(fields.if_contains("index"))),
                             unsignedOf(fields.if_contains("value")), unsignedOf(fields.if_contains("valueTwo")),
                             stringOf(fields, "op")});
      }
    }
    profile.rules.push_back(std::move(rule));
  }
  return profile;
}

Result<std::string> compileSeccomp(const SeccompProfile& profile) {
  ASSIGN_OR_RETURN(uint32_t defaultAction, actionOf(profile.defaultAction, profile.defaultErrno));
  std::unique_ptr<void, void (*)(void*)> context(::seccomp_init(defaultAction), [](void* c) { ::seccomp_release(c); });
  if (!context) return Error(Code::kInternal, "seccomp: cannot start a filter");
  for (uint32_t arch : kSubArches) (void)::seccomp_arch_add(context.get(), arch);
  (void)::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);  // a tree, not a list
  for (const auto& rule : profile.rules) RETURN_IF_ERROR(addRule(context.get(), rule, defaultAction));
  UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) return Error::fromErrno("seccomp: memory file");
  if (int r = ::seccomp_export_bpf(context.get(), file.get()); r != 0) return Error::fromErrno(-r, "seccomp: compile");
  off_t size = ::lseek(file.get(), 0, SEEK_END);
  std::string compiled(static_cast<size_t>(size), '\0');
  if (::pread(file.get(), compiled.data(), compiled.size(), 0) != size) return Error::fromErrno("seccomp: read back");
  std::string filter = newCalls(profile, defaultAction) + compiled;
  if (filter.size() / sizeof(sock_filter) > BPF_MAXINSNS)
    return Error(Code::kTooLarge, "seccomp: the filter is too long for the kernel");
  return filter;
}

Result<std::string> seccompFilter(const ProcessSpec& process, uint64_t capabilities) {
  if (process.privileged || process.seccomp.mode == Seccomp::Mode::kUnconfined) return std::string();
  static std::mutex mutex;
  static std::map<std::pair<uint64_t, std::string>, std::string> known;
  std::pair key(capabilities,
                process.seccomp.mode == Seccomp::Mode::kProfile ? process.seccomp.profile : std::string());
  std::lock_guard lock(mutex);
  auto found = known.find(key);
  if (found != known.end()) return found->second;
  SeccompProfile profile;
  if (process.seccomp.mode == Seccomp::Mode::kProfile) {
    ASSIGN_OR_RETURN(profile, parseSeccomp(process.seccomp.profile, capabilities));
  } else {
    profile = defaultSeccomp(capabilities);
  }
  ASSIGN_OR_RETURN(std::string filter, compileSeccomp(profile));
  if (known.size() >= 64) known.clear();
  known.emplace(std::move(key), filter);
  return filter;
}

}  // namespace dhow::runtime
