# Compiler, warnings, sanitizers, linker and compiler cache.

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  message(FATAL_ERROR "GCC ${CMAKE_CXX_COMPILER_VERSION} miscompiles coroutines; use clang 19 (scripts/install-deps) or GCC 14")
endif()

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(DHOW_SANITIZE "" CACHE STRING "Value for -fsanitize=, empty for none")

add_compile_options(-Wall -Wextra -Werror -Wno-missing-field-initializers -fno-omit-frame-pointer)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options(-Wthread-safety -Wno-missing-designated-field-initializers)
endif()
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -gline-tables-only")
set(CMAKE_C_FLAGS_DEBUG "-O0 -gline-tables-only")
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -gline-tables-only")
set(CMAKE_C_FLAGS_RELEASE "-O2 -gline-tables-only")
add_link_options($<$<CONFIG:Release>:-Wl,--gc-sections>)
# Tells builds of one version apart (base/version.h).
add_link_options(-Wl,--build-id=sha1)
add_compile_options($<$<CONFIG:Release>:-ffunction-sections> $<$<CONFIG:Release>:-fdata-sections>)

if(DHOW_SANITIZE)
  add_compile_options(-fsanitize=${DHOW_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${DHOW_SANITIZE})
endif()

option(DHOW_FUZZ "Build the fuzzers of the parsers (clang)" OFF)
if(DHOW_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link -O1)
endif()

find_program(DHOW_MOLD mold)
find_program(DHOW_LLD ld.lld-19)
if(DHOW_MOLD)
  add_link_options(-fuse-ld=mold)
elseif(DHOW_LLD)
  add_link_options(-fuse-ld=lld-19)
endif()

find_program(DHOW_CCACHE ccache)
if(DHOW_CCACHE)
  # The precompiled header carries no timestamp so that the cache can use it.
  set(_ccache ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${DHOW_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${_ccache})
  set(CMAKE_C_COMPILER_LAUNCHER ${_ccache})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
  endif()
endif()
