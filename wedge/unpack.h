// From an archive to a directory: what a vref with `unpack` becomes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/base/object_id.h"
#include "formats/compression/decoder.h"
#include "formats/text/manifest.h"
#include "wedge/tree_writer.h"

namespace wedge {

/// The compression of an `unpack` kind: tar, tar.gz, tar.bz2, tar.xz, tar.zst. Category::refused for others.
[[nodiscard]] formats::Codec archive_codec(const std::string& kind);

/// Bytes of holes that are hashed of an archive of `size` bytes: what costs nothing to state is to cost
/// whoever reads it no more than this, or what is `allowed`.
[[nodiscard]] std::uint64_t max_archive_holes(std::uint64_t size, std::uint64_t allowed) noexcept;

/// How an archive is packed ("tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst") by its first 512 bytes, or all
/// if it has fewer. What is compressed need not hold a tar. Refused: anything else.
[[nodiscard]] std::string archive_kind(base::Bytes beginning);

/// The rows of the tree that an archive unpacks to, in manifest order, on the calling thread. Members may
/// come in any order and the last of one name wins, as tar does it; directories nobody mentions get mode 755
/// and time 0. Refused: a malformed archive, names that can escape, a member below what is no directory, hard
/// links to what is no earlier file, sockets. Memory grows with the number of members (a row each). `archive`
/// yields the proven bytes of the archive, compressed as `kind` says. Refused, too: more than `max_holes`
/// bytes of holes in all its members. Returns of how many members an access control list is left out.
std::uint64_t list_archive(const formats::ByteSource& archive, const std::string& kind,
                           base::ObjectFormat format, std::uint64_t max_holes,
                           const std::function<void(const formats::Row&)>& on_row);

/// The same, written as a new directory `name` in `parent`, which keeps mode 0700 until the caller moves it
/// into place. Symlinks are never followed. Holes stay holes.
WriteSummary unpack_archive(const formats::ByteSource& archive, const std::string& kind,
                            base::ObjectFormat format, std::uint64_t max_holes, int parent,
                            const std::string& name, const WriteOptions& options);

}  // namespace wedge
