#include "wedge/fuse/mount_point.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/mounts.h"
#include "formats/base/process.h"
#include "formats/base/unique_fd.h"

namespace wedge {
namespace {

using base::Category;
using base::Error;

constexpr const char* kOverHint = "name an empty directory, or mount over it: --over";

base::UniqueFd open_path(const std::string& path) {
  return base::UniqueFd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
}

}  // namespace

std::optional<MountId> find_mount_at(const std::string& path) {
  const auto fd = open_path(path);
  const auto id = fd.get() >= 0 ? base::find_mount_id(fd.get()) : std::nullopt;
  if (!id) return std::nullopt;
  for (const auto& row : base::read_mounts())
    if (row.id == *id) return MountId{*id, row.device, row.type, base::find_unique_mount_id(fd.get())};
  return std::nullopt;
}

bool is_mounted(const MountId& mount) {
  const auto mounts = base::read_mounts();
  return std::any_of(mounts.begin(), mounts.end(), [&](const auto& row) {
    return row.id == mount.id && row.device == mount.device && row.type == mount.type;
  });
}

Unmounted unmount(const std::string& path, const MountId& mount) {
  const auto look = [&] {
    if (find_mount_at(path) != mount) return Unmounted::other;
    const auto mounts = base::read_mounts();
    return std::any_of(mounts.begin(), mounts.end(), [&](const auto& row) { return row.parent == mount.id; })
               ? Unmounted::in_use
               : Unmounted::done;
  };
  const auto fd = open_path(path);
  if (const auto state = look(); state != Unmounted::done) return state;
  // By the descriptor: what is mounted over the path from now on stays. The force has FUSE answer those who
  // wait in it.
  const auto self = "/proc/self/fd/" + std::to_string(fd.get());
  if (fd.get() >= 0 && ::umount2(self.c_str(), MNT_FORCE | MNT_DETACH) == 0) return Unmounted::done;
  if (errno != EPERM || ::geteuid() == 0) return Unmounted::denied;
  // It goes by the path. Only if that is busy it is asked to let go what is still open.
  for (const bool lazily : {false, true}) {
    if (const auto state = look(); state != Unmounted::done) return state;
    std::vector<std::string> command{"fusermount3", "-u", "-q", "--", path};
    if (lazily) command.insert(command.begin() + 2, "-z");
    base::Process helper(command);
    if (helper.finish() == 0) return Unmounted::done;
  }
  return Unmounted::denied;
}

void replace_dead_mount(const std::string& path) {
  const auto id = find_mount_at(path);
  const auto mounts = base::read_mounts();
  const auto there =
      std::find_if(mounts.begin(), mounts.end(), [&](const auto& mount) { return id && id->id == mount.id; });
  const bool is_ours = there != mounts.end() && there->type == "fuse.shrub";
  // What stat() says may be what the kernel remembers.
  struct stat info {};
  struct statfs system {};
  if ((is_ours ? ::statfs(path.c_str(), &system) : ::stat(path.c_str(), &info)) == 0 || errno != ENOTCONN)
    return;
  if (!is_ours)
    throw Error(Category::refused, path + ": what is mounted there does not answer, and is not shrub's",
                "unmount it: fusermount3 -u " + path);
  if (unmount(path, *id) == Unmounted::in_use)
    throw Error(Category::refused, path + ": a mount that was killed, with something mounted in it",
                "unmount what is in it");
}

void require_free_mount_point(const std::string& path) {
  const auto here = find_mount_at(path), above = find_mount_at(path + "/..");
  if (here && above && here->id != above->id)
    throw Error(Category::refused, path + ": something is mounted there already", kOverHint);
  if (!base::list_directory(base::open_directory(AT_FDCWD, path).get()).empty())
    throw Error(Category::refused, path + ": is not empty, and a mount would hide what is in it", kOverHint);
}

}  // namespace wedge
