# Tests of the blob store and of what turns ids into trees.
shrub_test(vat SOURCES vat/stream_cutter_test.cpp vat/group_cache_test.cpp vat/ingest_test.cpp vat/store_test.cpp
           vat/damage_test.cpp vat/repack_test.cpp vat/content_test.cpp vat/maps_test.cpp
           LIBRARIES shrub::vat shrub::text shrub::vat_json shrub::map SQLite::SQLite3)
shrub_test(source SOURCES vat/host_test.cpp vat/download_test.cpp vat/source_test.cpp LIBRARIES shrub::vat shrub::text shrub::vat_json)
target_compile_definitions(source_test PRIVATE SHRUB_SERVE="${CMAKE_CURRENT_SOURCE_DIR}/e2e/serve")
shrub_test(wedge SOURCES wedge/tree_test.cpp wedge/unpack_test.cpp wedge/wedge_test.cpp wedge/stat_cache_test.cpp wedge/lazy_test.cpp
           wedge/record_test.cpp
           LIBRARIES shrub::wedge shrub::text SQLite::SQLite3)
shrub_test(shrub SOURCES shrub/shrub_test.cpp shrub/repository_test.cpp LIBRARIES shrub::shrub)
