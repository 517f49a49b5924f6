#include "vat/internal/pack_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "vat/internal/condemned.h"
#include "vat/internal/own_directory.h"

namespace vat::internal {

PackFile::PackFile(Vat::Impl& vat)
    : vat_(vat),
      packs_(open_public(vat.dir.get(), Vat::Impl::kPackDir)),
      file_(vat.open_tmp(), 0444),
      writer_(vat.format, [this](base::Bytes bytes) { file_.write(bytes); }) {}

formats::GroupPlace PackFile::append(const formats::EncodedGroup& group) {
  const auto place = writer_.append(group);
  for (std::uint32_t i = 0; i < group.blobs.size(); ++i)
    blobs_.push_back({group.blobs[i].id, {0, place, i, group.blobs[i].size, group.blobs[i].kind, false}});
  return place;
}

std::string PackFile::publish(const std::vector<Claim>& claims) {
  const auto digest = writer_.finish();
  const auto name = base::to_hex(digest) + ".zst";
  // A file of that name holds these bytes or is damaged; then it is replaced, from wrong to right.
  const auto there = base::find_regular_at(packs_.get(), name);
  bool good = there && base::sha256_of_file(there->get()) == digest;
  // One that is condemned may be deleted at any moment: this takes its place, and is not condemned.
  std::optional<CondemnedLock> lock;
  if (has_mark(vat_.dir.get(), name)) {
    lock.emplace(vat_.dir.get());
    remove_marks(vat_.dir.get(), {name});
    good = false;
  }
  (void)file_.publish(packs_.get(), name,
                      good ? base::AtomicFile::Existing::keep : base::AtomicFile::Existing::replace);
  lock.reset();
  struct stat info;
  if (::fstatat(packs_.get(), name.c_str(), &info, 0) != 0) base::throw_errno(name, errno);
  const IndexedPack indexed{{0, name, static_cast<std::uint64_t>(info.st_size),
                             std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec},
                            std::move(blobs_),
                            claims};
  // Who is ended here leaves a pack that is indexed with all it says, claims too, or not at all.
  vat_.with_index([&](Index& index) { index.put_packs({indexed}, Index::Damage::forget); });
  return base::to_hex(digest);
}

}  // namespace vat::internal
