# The parts that we take, each as one target. All come from Debian's packages.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(OpenSSL 3 REQUIRED)
# CMake 3.30 leaves finding Boost to Boost.
if(POLICY CMP0167)
  cmake_policy(SET CMP0167 NEW)
endif()
find_package(Boost 1.81 REQUIRED COMPONENTS json url system)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(GTest REQUIRED)
find_package(benchmark REQUIRED)
find_package(SQLite3 REQUIRED)

# Its functions are looked up when they are needed (src/ingress/waf.cc).
find_path(MODSECURITY_INCLUDE modsecurity/modsecurity.h REQUIRED)
add_library(modsecurity_headers INTERFACE)
target_include_directories(modsecurity_headers SYSTEM INTERFACE ${MODSECURITY_INCLUDE})
add_library(parts::modsecurity_headers ALIAS modsecurity_headers)

foreach(_part nghttp2:libnghttp2 archive:libarchive zstd:libzstd zlib:zlib isal:libisal
        fyaml:libfyaml nl3:libnl-3.0 nlroute3:libnl-route-3.0 nftnl:libnftnl mnl:libmnl
        seccomp:libseccomp capng:libcap-ng ldns:ldns)
  string(REPLACE ":" ";" _pair ${_part})
  list(GET _pair 0 _name)
  list(GET _pair 1 _module)
  pkg_check_modules(${_name} REQUIRED IMPORTED_TARGET ${_module})
  add_library(parts::${_name} ALIAS PkgConfig::${_name})
endforeach()
