# What is installed beside programs and libraries, and the Debian packages: vat-shrub (programs, man pages, completions) and
# vat-shrub-dev (libraries and headers).
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/shrub")
install(EXPORT shrubTargets NAMESPACE shrub:: DESTINATION "${package_dir}" COMPONENT dev)
configure_package_config_file(cmake/shrubConfig.cmake.in "${PROJECT_BINARY_DIR}/shrubConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}" NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/shrubConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/shrubConfig.cmake" "${PROJECT_BINARY_DIR}/shrubConfigVersion.cmake"
        DESTINATION "${package_dir}" COMPONENT dev)

# Users before what they use, as static libraries want it.
set(SHRUB_PC_LIBRARIES)
foreach(name shrub wedge vat vref yaml vat_json tar disk delta map pack table text database compression json chunker base)
  string(APPEND SHRUB_PC_LIBRARIES " -lshrub_${name}")
endforeach()
string(STRIP "${SHRUB_PC_LIBRARIES}" SHRUB_PC_LIBRARIES)
# The prefix is known when it is installed.
install(CODE "set(SHRUB_PC_LIBRARIES \"${SHRUB_PC_LIBRARIES}\")
set(PROJECT_DESCRIPTION \"${PROJECT_DESCRIPTION}\")
set(PROJECT_VERSION \"${PROJECT_VERSION}\")
set(CMAKE_INSTALL_LIBDIR \"${CMAKE_INSTALL_LIBDIR}\")
set(CMAKE_INSTALL_INCLUDEDIR \"${CMAKE_INSTALL_INCLUDEDIR}\")
configure_file(\"${PROJECT_SOURCE_DIR}/cmake/shrub.pc.in\" \"${PROJECT_BINARY_DIR}/shrub.pc\" @ONLY)" COMPONENT dev)
install(FILES "${PROJECT_BINARY_DIR}/shrub.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT dev)
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT runtime)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME vat-shrub)
set(CPACK_PACKAGE_CONTACT "The vat & shrub authors <vat-shrub@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL runtime dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME vat-shrub)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_RECOMMENDS git)
set(CPACK_DEBIAN_DEV_PACKAGE_NAME vat-shrub-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS
    "libssl-dev, libzstd-dev, liblzma-dev, zlib1g-dev, libbz2-dev, libsqlite3-dev, libarchive-dev, libcurl4-openssl-dev, libfuse3-dev, libgit2-dev, libxxhash-dev, libyaml-dev, nlohmann-json3-dev, libcli11-dev, pkg-config")
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "${PROJECT_DESCRIPTION}\n The programs vat and shrub.")
set(CPACK_COMPONENT_DEV_DESCRIPTION "${PROJECT_DESCRIPTION}\n Static libraries and headers.")
include(CPack)
