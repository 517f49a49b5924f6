// Files that hold disk images, whatever their format.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/base/unique_fd.h"
#include "formats/disk/disk.h"

namespace shrub {

struct ImageFileOptions {
  bool exact = false;                ///< the bytes of the file are the disk, whatever they look like
  bool force = false;                ///< read also what a running machine may write to meanwhile
  std::vector<std::string> backing;  ///< files to be used for the disks below, in place of those it names
  std::string scratch;               ///< directory for a copy, if qemu-img has to make one
};

/// A disk in a file: raw; qcow2, which is read here; or VMDK, VDI, VHDX and VHD, of which qemu-img makes a
/// raw copy. What begins or ends like another format, or is compressed, is not taken for raw. What such a
/// file names is read only if it lies in the directory of the file, or below, and only as the format the file
/// says; `backing` is the user's word for others.
///
/// One thread at a time. Errors: busy for a file that QEMU has open for writing; refused for what is
/// malformed, of a format that is not known, or names what it may not; local.
class ImageFile {
 public:
  ImageFile(const std::string& path, ImageFileOptions options);
  ~ImageFile();
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;

  /// The file to be opened: the one that was named, or a raw copy, which goes with this.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// The disk in that file. Both outlive it.
  [[nodiscard]] std::unique_ptr<formats::Disk> open(int fd);
  /// Throws local if one of the files below has changed since, busy if QEMU has opened the file meanwhile.
  void require_unchanged() const;

 private:
  struct Below {
    std::string name;
    base::UniqueFd fd;
    struct stat state;
  };
  std::unique_ptr<formats::Disk> open(int fd, const std::string& path, bool is_raw, std::size_t depth);
  std::unique_ptr<formats::Disk> open_below(const std::string& path, const std::string& name,
                                            const std::string& format, std::size_t depth);
  void convert(const char* format);

  std::string path_;
  const ImageFileOptions options_;
  bool is_copy_ = false;
  base::UniqueFd named_;  ///< the file that was named
  std::vector<Below> below_;
};

}  // namespace shrub
