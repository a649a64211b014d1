# One library per folder.
#
#   dhow_library(http
#     PUBLIC server.h client.h        headers that other folders may include, as "http/server.h"
#     DEPS base                       floors that this one may use
#     LINKS parts::nghttp2)           parts from outside
#
# Every *.cc in the folder is compiled; *_test.cc go into <name>_test, and with DHOW_FUZZ *_fuzz.cc
# into <name>_fuzz. Other folders see only a view of this one that holds its public headers, so an include that is not declared does not build.

function(dhow_library name)
  cmake_parse_arguments(ARG "" "" "PUBLIC;DEPS;LINKS;SOURCES;TEST_LINKS;TEST_DEPS" ${ARGN})
  file(GLOB_RECURSE _sources CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} *.cc)
  set(_tests ${_sources})
  set(_fuzzers ${_sources})
  list(FILTER _sources EXCLUDE REGEX "(_test|_fuzz|_bench)\\.cc$")
  list(FILTER _tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER _fuzzers INCLUDE REGEX "_fuzz\\.cc$")

  set(_view ${CMAKE_BINARY_DIR}/include/${name})
  foreach(_header ${ARG_PUBLIC})
    get_filename_component(_dir ${_view}/${name}/${_header} DIRECTORY)
    file(MAKE_DIRECTORY ${_dir})
    file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR}/${_header} ${_view}/${name}/${_header} SYMBOLIC)
  endforeach()

  if(_sources OR ARG_SOURCES)
    add_library(dhow_${name} STATIC ${_sources} ${ARG_SOURCES})
    set(_scope PUBLIC)
    target_precompile_headers(dhow_${name} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/pch.h)
  else()
    add_library(dhow_${name} INTERFACE)
    set(_scope INTERFACE)
  endif()
  file(MAKE_DIRECTORY ${_view})
  target_include_directories(dhow_${name} ${_scope} ${_view})
  foreach(_dep ${ARG_DEPS})
    target_link_libraries(dhow_${name} ${_scope} dhow_${_dep})
  endforeach()
  target_link_libraries(dhow_${name} ${_scope} ${ARG_LINKS})

  if(DHOW_FUZZ AND _fuzzers)
    add_executable(${name}_fuzz ${_fuzzers})
    target_precompile_headers(${name}_fuzz PRIVATE ${CMAKE_SOURCE_DIR}/cmake/pch.h)
    target_link_libraries(${name}_fuzz PRIVATE dhow_${name})
    target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
    set_target_properties(${name}_fuzz PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
    set_property(GLOBAL APPEND PROPERTY DHOW_FUZZERS ${name}_fuzz)
  endif()

  if(_tests)
    add_executable(${name}_test ${_tests})
    target_precompile_headers(${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/cmake/pch.h)
    target_link_libraries(${name}_test PRIVATE dhow_${name} GTest::gtest GTest::gmock GTest::gtest_main ${ARG_TEST_LINKS})
    foreach(_dep ${ARG_TEST_DEPS})
      target_link_libraries(${name}_test PRIVATE dhow_${_dep})
    endforeach()
    target_compile_definitions(${name}_test PRIVATE DHOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}" DHOW_BINARY_DIR="${CMAKE_BINARY_DIR}")
    add_test(NAME ${name} COMMAND ${name}_test)
    set(_limit 300)
    if(DHOW_SANITIZE)
      set(_limit 1800)
    endif()
    set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT ${_limit} SKIP_REGULAR_EXPRESSION "every test was skipped")
  endif()
endfunction()
