# The only two ways a target is made here, so that flags, installation and the header check are the same everywhere.

find_program(SHRUB_CCACHE ccache)
if(SHRUB_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${SHRUB_CCACHE}")
endif()

function(shrub_flags target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  target_compile_definitions(${target} PRIVATE _FILE_OFFSET_BITS=64)
  # g++ 12 sees uninitialised members in moved variants where there are none; asan and the tests look for real ones.
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion)
  if(SHRUB_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
endfunction()

# shrub_library(NAME SOURCES ... HEADERS ... PUBLIC ... PRIVATE ...): one library per folder (per format in
# formats/), known to others as shrub::NAME. HEADERS are exactly what is installed; each must compile alone.
function(shrub_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;HEADERS;PUBLIC;PRIVATE" ${ARGN})
  set(target shrub_${name})
  add_library(${target} STATIC ${ARG_SOURCES})
  add_library(shrub::${name} ALIAS ${target})
  shrub_flags(${target})
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}" FILES ${ARG_HEADERS})
  target_link_libraries(${target} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ON)
  install(TARGETS ${target} EXPORT shrubTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT dev
          FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/shrub" COMPONENT dev)
endfunction()

# shrub_program(NAME SOURCES ... PRIVATE ...): one of the two programs.
function(shrub_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PRIVATE" ${ARGN})
  add_executable(${name}_program ${ARG_SOURCES})
  shrub_flags(${name}_program)
  set_target_properties(${name}_program PROPERTIES OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
  target_compile_definitions(${name}_program PRIVATE SHRUB_VERSION="${PROJECT_VERSION}")
  target_link_libraries(${name}_program PRIVATE ${ARG_PRIVATE})
  install(TARGETS ${name}_program RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT runtime)
  shrub_documents(${name})
endfunction()

# Man pages and completions, written by the program itself from its table of commands.
function(shrub_documents name)
  if(CMAKE_CROSSCOMPILING AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
    message(STATUS "cross-compiling without an emulator: no man pages and completions of ${name}")
    return()
  endif()
  set(dir "${PROJECT_BINARY_DIR}/documents/${name}")
  set(commands)
  foreach(kind man bash zsh fish)
    list(APPEND commands COMMAND ${name}_program documents ${kind} "${dir}/${kind}")
  endforeach()
  add_custom_command(OUTPUT "${dir}.stamp"
    COMMAND "${CMAKE_COMMAND}" -E rm -rf "${dir}"
    ${commands}
    COMMAND "${CMAKE_COMMAND}" -E touch "${dir}.stamp"
    DEPENDS ${name}_program
    COMMENT "Writing man pages and completions of ${name}" VERBATIM)
  add_custom_target(${name}_documents ALL DEPENDS "${dir}.stamp")
  install(DIRECTORY "${dir}/man/" DESTINATION "${CMAKE_INSTALL_MANDIR}/man1" COMPONENT runtime)
  install(DIRECTORY "${dir}/bash/" DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions" COMPONENT runtime)
  install(DIRECTORY "${dir}/zsh/" DESTINATION "${CMAKE_INSTALL_DATADIR}/zsh/site-functions" COMPONENT runtime)
  install(DIRECTORY "${dir}/fish/" DESTINATION "${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d" COMPONENT runtime)
endfunction()
