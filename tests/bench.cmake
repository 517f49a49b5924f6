# Rates of the parts, where Google Benchmark is installed. The test runs each for a moment, on a small file, so that none rots.
find_package(benchmark QUIET)
if(benchmark_FOUND)
  add_executable(micro_bench bench/micro_bench.cpp)
  shrub_flags(micro_bench)
  target_link_libraries(micro_bench PRIVATE test_support shrub::vat shrub::pack OpenSSL::Crypto benchmark::benchmark)
  add_test(NAME micro_bench COMMAND micro_bench --benchmark_min_time=0.01)
  set_tests_properties(micro_bench PROPERTIES ENVIRONMENT "SHRUB_BENCH_FILE=$<TARGET_FILE:micro_bench>")
endif()
