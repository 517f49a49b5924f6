# Tests of the formats, and their fuzzers.
shrub_test(compression SOURCES formats/compression_test.cpp LIBRARIES shrub::compression)
shrub_test(text SOURCES formats/text_object_test.cpp formats/recipe_test.cpp formats/manifest_test.cpp formats/layout_test.cpp
           LIBRARIES shrub::text)
shrub_test(pack SOURCES formats/pack_test.cpp LIBRARIES shrub::pack)
shrub_test(map SOURCES formats/map_test.cpp LIBRARIES shrub::map shrub::compression)
shrub_test(json SOURCES formats/json_test.cpp LIBRARIES shrub::json)
shrub_test(vref SOURCES formats/vref_test.cpp LIBRARIES shrub::vref)
shrub_test(vat_json SOURCES formats/vat_json_test.cpp LIBRARIES shrub::vat_json)

# shrub_fuzz(NAME LIBRARIES ...): fuzz/fuzz_NAME.cpp with its corpus. With SHRUB_FUZZ the test fuzzes for
# SHRUB_FUZZ_SECONDS and writes what it finds to the build directory; else it replays the corpus and seeded changes of it.
set(SHRUB_FUZZ_SECONDS 10 CACHE STRING "How long each fuzzer runs, in seconds")
function(shrub_fuzz name)
  cmake_parse_arguments(ARG "" "" "LIBRARIES" ${ARGN})
  set(target fuzz_${name})
  set(corpus "${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name}")
  add_executable(${target} fuzz/${target}.cpp)
  shrub_flags(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${target} PRIVATE ${ARG_LIBRARIES})
  if(SHRUB_FUZZ)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    set(found "${CMAKE_CURRENT_BINARY_DIR}/${target}.found")
    file(MAKE_DIRECTORY "${found}")
    add_test(NAME ${target}
             COMMAND ${target} "-max_total_time=${SHRUB_FUZZ_SECONDS}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
                     "-artifact_prefix=${found}/" "${found}" "${corpus}")
  else()
    target_sources(${target} PRIVATE fuzz/replay.cpp)
    file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/${target}.at")
    add_test(NAME ${target} COMMAND ${target} "${corpus}" WORKING_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/${target}.at")
  endif()
  set_tests_properties(${target} PROPERTIES TIMEOUT 600)
endfunction()

shrub_fuzz(decoder LIBRARIES shrub::compression)
shrub_fuzz(text LIBRARIES shrub::text)
shrub_fuzz(pack LIBRARIES shrub::pack)
shrub_fuzz(vref LIBRARIES shrub::vref)
shrub_fuzz(vat_json LIBRARIES shrub::vat_json)
shrub_fuzz(map LIBRARIES shrub::map shrub::compression)
shrub_fuzz(tar LIBRARIES shrub::wedge)
