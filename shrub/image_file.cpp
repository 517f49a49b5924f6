#include "shrub/image_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "formats/base/endian.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/process.h"
#include "formats/disk/qcow2.h"
#include "formats/json/json.h"

namespace shrub {
namespace {

using base::Category;
using base::Error;

constexpr std::size_t kMaxDepth = 64;  ///< disks below one another

struct stat state_of(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0) base::throw_errno("stat", errno);
  return info;
}

base::Buffer read_begin(int fd) {
  base::Buffer begin(512);
  begin.resize(base::read_some_at(fd, 0, begin));
  return begin;
}

/// How QEMU calls the format, if it is one that qemu-img has to read. Throws refused for a file that only
/// names others.
const char* find_foreign_format(base::Bytes begin) {
  const auto text = base::as_chars(begin);
  if (text.starts_with("# Disk DescriptorFile"))
    throw Error(Category::refused, "a VMDK that names other files",
                "qemu-img convert -O qcow2 makes one file of it");
  if (text.starts_with("KDMV") && begin.size() >= 20) {
    if (base::load_le<std::uint64_t>(begin.data() + 12) == 0)
      throw Error(Category::refused, "a VMDK that names other files");
    return "vmdk";
  }
  if (begin.size() >= 0x44 && base::load_le<std::uint32_t>(begin.data() + 0x40) == 0xbeda107f) return "vdi";
  if (text.starts_with("vhdxfile")) return "vhdx";
  if (text.starts_with("conectix")) return "vpc";
  return nullptr;
}

/// The name of a format that would be taken for raw; nullptr if the file looks like none of these.
const char* find_unreadable_format(int fd, base::Bytes begin) {
  using namespace std::string_view_literals;
  static constexpr std::pair<std::string_view, const char*> kBegins[] = {
      {"QED\0"sv, "QED"},
      {"WithoutFreeSpace"sv, "Parallels"},
      {"WithouFreSpacExt"sv, "Parallels"},
      {"COWD"sv, "COWD (VMDK of ESX)"},
      {"Bochs Virtual HD Image"sv, "Bochs"},
      {"QFI\xfb\0\0\0\1"sv, "qcow, version 1"},
      {"\x1f\x8b"sv, "gzip"},
      {"\xfd"
       "7zXZ\0"sv,
       "xz"},
      {"\x28\xb5\x2f\xfd"sv, "zstd"},
      {"\x50\x2a\x4d\x18"sv, "zstd or lz4"},  // a frame to be skipped, as pzstd begins with
      {"BZh"sv, "bzip2"},
      {"\x04\x22\x4d\x18"sv, "lz4"},
      {"PK\3\4"sv, "zip"},
      {"7z\xbc\xaf\x27\x1c"sv, "7z"}};
  const auto text = base::as_chars(begin);
  for (const auto& [magic, name] : kBegins)
    if (text.starts_with(magic)) return name;
  if (text.size() >= 262 && text.substr(257, 5) == "ustar") return "tar (an OVA, perhaps)";
  // A fixed VHD and a DMG say at their ends what they are; old programs wrote 511 bytes.
  base::Buffer end(512);
  const auto size = base::file_size(fd);
  if (size < end.size() || !base::read_exact_at(fd, size - end.size(), end)) return nullptr;
  const auto last = base::as_chars(end);
  if (last.starts_with("conectix") || last.substr(1).starts_with("conectix")) return "VHD of fixed size";
  if (last.starts_with("koly")) return "DMG";
  return nullptr;
}

/// Throws refused for a file that is no raw disk, though nothing here reads its format.
void refuse_unreadable_format(int fd, base::Bytes begin) {
  const auto* name = find_unreadable_format(fd, begin);
  if (name != nullptr)
    throw Error(Category::refused, "looks like " + std::string(name) + ", not like a raw disk",
                "unpack it, or qemu-img convert -O qcow2; --exact stores the bytes as they are");
}

/// Throws busy if a machine may write to the file: QEMU (block/file-posix.c) holds a lock on byte 100 + n of
/// an image for each permission n that it has; 1 is to write, 3 to resize.
void refuse_open_by_machine(int fd) {
  for (const off_t permission : {1, 3}) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = 100 + permission;
    lock.l_len = 1;
    if (::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
      throw Error(Category::busy, "QEMU has it open and may write to it",
                  "end the machine, or take a snapshot; --force reads it all the same");
  }
}

/// The path as QEMU is to have it: never an option, a protocol or JSON.
std::string plain_path(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

std::string run_qemu_img(const std::vector<std::string>& arguments, const std::string& path) {
  base::Process child(arguments);
  const auto text = child.read_rest();
  if (child.finish() == 0) return text;
  auto said = child.errors();
  if (said.find('\n') != std::string::npos) said.resize(said.find('\n'));
  throw Error(Category::refused, path + ": " + (said.empty() ? "qemu-img failed" : said));
}

}  // namespace

ImageFile::ImageFile(const std::string& path, ImageFileOptions options)
    : path_(path), options_(std::move(options)) {
  auto fd = base::find_regular_at(AT_FDCWD, path);
  if (!fd) return;  // whoever opens it says what is wrong
  const auto* format = base::named(path, [&]() -> const char* {
    if (!options_.force) refuse_open_by_machine(fd->get());
    if (options_.exact) return nullptr;
    const auto begin = read_begin(fd->get());
    const auto* foreign = find_foreign_format(begin);
    if (foreign == nullptr) refuse_unreadable_format(fd->get(), begin);
    return foreign;
  });
  if (format != nullptr) convert(format);
  named_ = std::move(*fd);
}

ImageFile::~ImageFile() {
  if (is_copy_) (void)::unlink(path_.c_str());
}

void ImageFile::convert(const char* format) {
  const auto source = plain_path(path_);
  // Only this file is opened, as this format only, and nothing below it.
  formats::json::Object node{{"driver", format},
                             {"file", formats::json::Object{{"driver", "file"}, {"filename", source}}}};
  if (std::string_view(format) == "vmdk") node.emplace_back("backing", formats::json::Value());
  const auto image = "json:" + formats::json::to_line(node);
  const auto command = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "qemu-img");
    if (options_.force) words.insert(words.begin() + 2, "-U");  // share it with who writes
    return words;
  };
  const auto told = formats::json::parse(run_qemu_img(command({"info", "--output=json", image}), path_));
  const auto* members = told.find_object();
  if (members == nullptr || formats::json::find(*members, "backing-filename") != nullptr)
    throw Error(Category::refused, path_ + ": a " + format + " image with another below it",
                "qemu-img convert -O qcow2 makes one file of it");
  const auto copy = options_.scratch + "/" + base::random_name();
  is_copy_ = true;
  const auto named = std::exchange(path_, copy);
  (void)run_qemu_img(command({"convert", "-O", "raw", "-S", "4k", image, plain_path(copy)}), named);
}

std::unique_ptr<formats::Disk> ImageFile::open(int fd) {
  below_.clear();
  auto disk = open(fd, path_, options_.exact || is_copy_, 0);
  if (below_.size() < options_.backing.size())
    throw Error(Category::usage, "--backing " + options_.backing[below_.size()] + ": there is no disk below");
  return disk;
}

std::unique_ptr<formats::Disk> ImageFile::open(int fd, const std::string& path, bool is_raw,
                                               std::size_t depth) {
  if (is_raw || !formats::is_qcow2(read_begin(fd))) return formats::open_raw_disk(fd);
  const auto size = base::file_size(fd);
  const auto backing = formats::find_backing(base::reader_of(fd), size);
  std::unique_ptr<formats::Disk> below;
  if (backing) below = open_below(path, backing->name, backing->format, depth + 1);
  return formats::open_qcow2(base::reader_of(fd), size, std::move(below));
}

std::unique_ptr<formats::Disk> ImageFile::open_below(const std::string& path, const std::string& name,
                                                     const std::string& format, std::size_t depth) {
  if (depth > kMaxDepth) throw Error(Category::refused, "more than 64 disks below one another, or a loop");
  const bool given = depth <= options_.backing.size();
  const auto shown = "the disk below, '" + (given ? options_.backing[depth - 1] : name) + "'";
  std::string file;
  base::UniqueFd fd;
  if (given) {
    file = options_.backing[depth - 1];
    fd = base::open_at(AT_FDCWD, file, O_RDONLY | O_NONBLOCK);
    if (find_foreign_format(read_begin(fd.get())) != nullptr)
      throw Error(Category::refused, shown + ", is neither raw nor qcow2",
                  "qemu-img convert -O qcow2 makes one of it");
    base::named(shown, [&] { refuse_unreadable_format(fd.get(), read_begin(fd.get())); });
  } else {
    const auto directory = std::filesystem::path(plain_path(path)).parent_path();
    if (name.front() == '/' || name.find(':') != std::string::npos || name.find('\0') != std::string::npos)
      throw Error(Category::refused, shown + ", is not named by a path beside the image",
                  "if it is to be read: --backing FILE");
    if (format != "raw" && format != "qcow2")
      throw Error(Category::refused,
                  shown + ", is of " + (format.empty() ? "no known format" : "format '" + format + "'"),
                  "qemu-img rebase -u -b NAME -F FORMAT IMAGE says which it is");
    file = (directory / name).string();
    fd = base::named(shown, [&] {
      return base::open_beneath(base::open_directory(AT_FDCWD, directory.string()).get(), name,
                                O_RDONLY | O_NONBLOCK);
    });
  }
  const auto state = state_of(fd.get());
  if (!S_ISREG(state.st_mode)) throw Error(Category::refused, shown + ", is not a regular file");
  for (const auto& other : below_)
    if (other.state.st_dev == state.st_dev && other.state.st_ino == state.st_ino)
      throw Error(Category::refused, shown + ", lies below itself");
  if (!options_.force) base::named(shown, [&] { refuse_open_by_machine(fd.get()); });
  const int raw = fd.get();
  below_.push_back({shown, std::move(fd), state});
  if (!given && format == "qcow2" && !formats::is_qcow2(read_begin(raw)))
    throw Error(Category::refused, shown + ", is said to be qcow2, and is not");
  return base::named(shown, [&] { return open(raw, file, format == "raw", depth); });
}

void ImageFile::require_unchanged() const {
  if (!options_.force && named_) refuse_open_by_machine(named_.get());
  for (const auto& [name, fd, before] : below_) {
    const auto now = state_of(fd.get());
    if (now.st_size != before.st_size || now.st_mtim.tv_sec != before.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != before.st_mtim.tv_nsec)
      throw Error(Category::local, name + ": changed while it was read");
  }
}

}  // namespace shrub
