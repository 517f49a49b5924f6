#include "vat/vat.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "formats/base/atomic_file.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/text/recipe.h"
#include "vat/content.h"
#include "vat/internal/own_directory.h"
#include "vat/internal/vat_impl.h"

namespace vat {
namespace {

using base::Category;
using base::Error;
using base::ObjectId;
using internal::IndexedBlob;
using internal::PackRecord;
using internal::Place;

constexpr const char* kSettingsFile = "vat.json";
constexpr std::size_t kGroupBudget = std::size_t{32} << 20;  ///< decoded groups kept, content bytes
constexpr std::size_t kOpenPacks = 128;
constexpr std::size_t kRowsTogether = std::size_t{1} << 18;  ///< of packs that are indexed at once
constexpr std::string_view kBlobSuffix = ".blob";

std::int64_t mtime_of(const struct stat& info) {
  return std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string random_uuid() {
  auto hex = base::random_name();
  hex[12] = '4';
  hex[16] = "89ab"[hex[16] % 4];
  return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) + "-" + hex.substr(16, 4) + "-" +
         hex.substr(20);
}

}  // namespace

std::string Vat::Impl::new_settings(base::ObjectFormat format, const chunker::Parameters& parameters,
                                    bool is_shared) {
  return formats::to_text({format, parameters.id(), random_uuid(), is_shared});
}

std::string LooseFile::path() const {
  const auto hex = id.hex();
  return "primary/" + hex.substr(0, 2) + "/" + hex.substr(2) + std::string(kBlobSuffix) +
         std::string(formats::suffix_of(codec));
}

Vat::Impl::Impl(std::string vat_path, OpenOptions options)
    : path(std::move(vat_path)), options_(std::move(options)), groups_(kGroupBudget) {
  const auto missing = [&] {
    return Error(Category::no_store, path + ": no vat here (no vat.json)", "make one: vat init " + path);
  };
  auto directory = base::find_open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (!directory || !base::find_open_at(directory->get(), kSettingsFile, O_RDONLY)) throw missing();
  dir = std::move(*directory);
  base::named(path + "/" + kSettingsFile, [&] {
    settings = formats::parse_vat_settings(base::read_file(dir.get(), kSettingsFile, std::size_t{64} << 10));
    const auto known = chunker::find_parameters(settings.chunker);
    if (!known) throw Error(Category::no_store, "unknown chunker profile '" + settings.chunker + "'");
    parameters = *known;
  });
  format = settings.object_format;
  refresh(false);
}

void Vat::Impl::note(const std::string& text) {
  const std::lock_guard lock(note_mutex_);
  if (options_.on_note && noted_.insert(text).second) options_.on_note(text);
}

// --- the index
// ------------------------------------------------------------------------------------------------------

std::shared_ptr<internal::Index> Vat::Impl::index() {
  const std::lock_guard lock(mutex_);
  if (index_ == nullptr) index_ = open_index();
  return index_;
}

std::shared_ptr<internal::Index> Vat::Impl::open_index() {
  // A vat may have come with a repository: what lies in it does not say where else to write.
  const auto is_plain = [&](const std::string& file, mode_t type) {
    struct stat info;
    return ::fstatat(dir.get(), file.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0
               ? errno == ENOENT
               : (info.st_mode & S_IFMT) == type;
  };
  std::vector<internal::IndexLocation> candidates;
  try {
    (void)internal::open_own(dir.get(), internal::kLocal);
    (void)internal::open_public(dir.get(), "cache/index");
    if (settings.is_shared)
      (void)base::open_as_parent(internal::open_own(dir.get(), internal::kLocal).get(), "index.db");
  } catch (const Error&) {  // elsewhere, then
  }
  // What was found damaged is in the database: that of the vat is used if it can be, wherever the tables go.
  const bool database_here = is_plain("local", S_IFDIR) && is_plain("local/index.db", S_IFREG) &&
                             is_plain("local/index.db-wal", S_IFREG) &&
                             is_plain("local/index.db-shm", S_IFREG);
  const bool tables_here = is_plain("cache", S_IFDIR) && is_plain("cache/index", S_IFDIR);
  const auto database = path + "/local/index.db";
  if (database_here && tables_here) candidates.push_back({database, path + "/cache/index"});
  if (!options_.cache_dir.empty()) {
    const auto key =
        base::hash_blob(base::ObjectFormat::sha256, base::as_bytes(settings.uuid + path)).hex().substr(0, 32);
    const auto directory = options_.cache_dir + "/" + key;
    if (database_here) candidates.push_back({database, directory + "/index"});
    candidates.push_back({directory + "/index.db", directory + "/index"});
  }
  for (auto& candidate : candidates)
    if (auto opened = find_index(candidate)) {
      index_location_ = std::move(candidate);
      return opened;
    }
  index_location_ = {};
  return std::make_shared<internal::Index>(index_location_, format);
}

/// The index of that place, made anew if it is damaged; nullptr if it cannot be written.
std::shared_ptr<internal::Index> Vat::Impl::find_index(const internal::IndexLocation& location) const {
  for (int attempt = 0; attempt < 2; ++attempt) {
    try {
      base::make_directories(location.database.substr(0, location.database.rfind('/')));
      return std::make_shared<internal::Index>(location, format);
    } catch (const Error& error) {
      if (error.category() == Category::busy) throw;
      if (error.category() != Category::corrupt) break;
      location.remove();
    }
  }
  return nullptr;
}

/// What was proven is kept with the user, not with the vat: a vat may come from somebody else, index and all.
std::shared_ptr<internal::Index> Vat::Impl::proofs() {
  const std::lock_guard lock(mutex_);
  if (proofs_ == nullptr && !options_.cache_dir.empty())
    proofs_ =
        find_index({options_.cache_dir + "/proofs-" + std::string(base::to_string(format)) + ".db", {}});
  if (proofs_ == nullptr) proofs_ = std::make_shared<internal::Index>(internal::IndexLocation(), format);
  return proofs_;
}

bool Vat::Impl::is_proven(const ObjectId& content, const ObjectId& recipe) {
  try {
    for (const auto& claim : proofs()->find_claims(content))
      if (claim.proven && claim.recipe == recipe) return true;
  } catch (const Error& error) {
    note(error.what());  // proving again is all it costs
  }
  return false;
}

void Vat::Impl::note_proven(const std::vector<internal::Claim>& claims) {
  try {
    if (!claims.empty()) proofs()->put_claims(claims);
  } catch (const Error& error) {
    note(error.what());
  }
}

void Vat::Impl::begin_reading() {
  std::bitset<256> prefixes;
  if (const auto primary = base::find_open_at(dir.get(), "primary", O_RDONLY | O_DIRECTORY))
    for (const auto& name : base::list_directory(primary->get()))
      if (const auto byte = base::from_hex(name); byte && byte->size() == 1)
        prefixes.set(std::to_integer<std::size_t>(byte->front()));
  with_index([](internal::Index& index) { index.begin_reading(); });
  const std::lock_guard lock(mutex_);
  if (readings_++ == 0) loose_prefixes_ = prefixes;
}

void Vat::Impl::end_reading() noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (--readings_ > 0) return;
    loose_prefixes_.reset();
  }
  try {
    with_index([](internal::Index& index) { index.end_reading(); });
  } catch (const std::exception&) {  // an index that fails is read no more
  }
}

bool Vat::Impl::replace_index(const Error& error) {
  if (error.category() == Category::busy || !std::string_view(error.what()).starts_with("index:"))
    return false;
  {
    const std::lock_guard lock(mutex_);
    index_.reset();
    pack_fds_.clear();
    const bool tables = internal::Index::is_of_tables(error);
    if ((tables ? index_location_.tables : index_location_.database).empty())
      return false;  // in memory: nothing is left to go to
    // The database has what was found damaged, which is not to be lost with a table.
    if (tables && error.category() == Category::corrupt) {
      index_location_.remove_tables();
    } else if (tables) {
      index_location_.tables.clear();
      index_ = std::make_shared<internal::Index>(index_location_, format);
    } else {
      // What is left of it may lack what could not be written; other processes do as this one does.
      index_location_.remove();
      if (error.category() != Category::corrupt) {
        index_location_ = {};
        index_ = std::make_shared<internal::Index>(index_location_, format);
      }
    }
  }
  if (error.category() != Category::corrupt)
    note(error.what() + std::string("; going on without a file of it"));
  refresh(false);
  return true;
}

bool Vat::Impl::is_pack_name(std::string_view name) {
  return name.size() == 68 && name.ends_with(".zst") && is_hex(name.substr(0, 64));
}

void Vat::Impl::refresh(bool again) {
  std::map<std::string, PackRecord> known;
  with_index([&](internal::Index& index) {
    for (auto& pack : index.packs()) known[pack.name] = pack;
  });
  const auto packs = base::find_open_at(dir.get(), kPackDir, O_RDONLY | O_DIRECTORY);
  std::vector<internal::IndexedPack> found;
  std::size_t rows = 0;
  const auto damage = again ? internal::Index::Damage::keep : internal::Index::Damage::same;
  const auto put_found = [&] {
    if (!found.empty()) with_index([&](internal::Index& index) { index.put_packs(found, damage); });
    found.clear();
    rows = 0;
  };
  if (packs) {
    for (const auto& name : base::list_directory(packs->get())) {
      if (!is_pack_name(name)) continue;
      const auto before = known.find(name);
      try {
        const auto info = base::find_stat(packs->get(), name, true);
        if (!info || !S_ISREG(info->st_mode)) continue;
        const PackRecord there{0, name, static_cast<std::uint64_t>(info->st_size), mtime_of(*info)};
        const bool same =
            before != known.end() && before->second.size == there.size && before->second.mtime == there.mtime;
        auto pack = same && !again ? std::nullopt : read_pack(there);
        if (pack) {
          rows += pack->blobs.size();
          found.push_back(*std::move(pack));
        }
        if (rows >= kRowsTogether) put_found();
      } catch (const Error& error) {
        if (error.category() != Category::local) throw;
        note("pack " + name + ": " + error.what());  // as good as absent; others may have what is in it
        const std::lock_guard lock(mutex_);
        unreadable_ = "pack " + name + " cannot be read";
      }
      if (before != known.end()) known.erase(before);
    }
  }
  put_found();
  for (const auto& [name, gone] : known)
    with_index([&, &pack = name](internal::Index& index) { index.forget_pack(pack); });
}

std::optional<internal::IndexedPack> Vat::Impl::read_pack(const PackRecord& pack) {
  const auto opened = base::find_regular_at(dir.get(), std::string(kPackDir) + "/" + pack.name);
  if (!opened) return std::nullopt;
  const auto& file = *opened;
  std::vector<IndexedBlob> blobs;
  const auto collect = [&](const formats::GroupPlace& group, const std::vector<formats::PackedBlob>& rows) {
    for (std::uint32_t i = 0; i < rows.size(); ++i)
      blobs.push_back({rows[i].id, {0, group, i, rows[i].size, rows[i].kind, false}});
  };
  try {
    formats::read_trailer(format, base::reader_of(file.get()), pack.size, collect);
  } catch (const Error& error) {
    if (error.category() != Category::corrupt) throw;
    blobs.clear();
    struct stat info;
    if (::fstat(file.get(), &info) == 0 && info.st_mtim.tv_sec > std::time(nullptr) - kArriving) {
      note("pack " + pack.name + ": " + error.what() +
           "; changed less than an hour ago, taken as still arriving");
    } else {
      note("pack " + pack.name + ": " + error.what() + "; indexed by hashing its groups");
    }
    // What can be read is proven by its hash, whatever became of the rest.
    (void)formats::walk_pack(base::reader_of(file.get()), pack.size, [&](const auto& group, const auto&) {
      try {
        auto decoded = decode(file.get(), group);
        formats::name_blobs(format, decoded);
        collect(group, decoded.blobs);
      } catch (const Error& bad) {
        if (bad.category() != Category::corrupt && bad.category() != Category::refused) throw;
      }
    });
  }

  std::vector<internal::Claim> claims;
  std::optional<std::uint64_t> decoded_at;
  formats::DecodedGroup decoded;
  for (const auto& blob : blobs) {
    if (blob.place.kind != formats::BlobKind::recipe) continue;
    try {
      if (decoded_at != blob.place.group.offset) {
        decoded_at.reset();
        decoded = decode(file.get(), blob.place.group);
        decoded_at = blob.place.group.offset;
      }
      if (blob.place.position >= decoded.blobs.size()) continue;
      const auto header = formats::find_recipe_header(decoded.blob(blob.place.position), format);
      if (header && header->blob) claims.push_back({*header->blob, blob.id, header->size, false});
    } catch (const Error& error) {
      if (error.category() != Category::corrupt) throw;  // whoever needs the recipe will hear of it
    }
  }
  return internal::IndexedPack{pack, std::move(blobs), std::move(claims)};
}

// --- reading
// --------------------------------------------------------------------------------------------------------

std::shared_ptr<base::UniqueFd> Vat::Impl::open_pack(std::int64_t number) {
  const auto name = with_index([&](internal::Index& index) { return index.find_pack_name(number); });
  if (!name) return nullptr;
  const std::lock_guard lock(mutex_);
  if (const auto known = pack_fds_.find(number); known != pack_fds_.end()) return known->second;
  auto file = base::find_regular_at(dir.get(), std::string(kPackDir) + "/" + *name);
  if (!file) return nullptr;
  if (pack_fds_.size() >= kOpenPacks) pack_fds_.erase(pack_fds_.begin());
  packs_read_.insert(*name);
  return pack_fds_[number] = std::make_shared<base::UniqueFd>(std::move(*file));
}

std::set<std::string> Vat::Impl::packs_read() {
  const std::lock_guard lock(mutex_);
  return packs_read_;
}

base::Buffer Vat::Impl::read_group(int fd, const formats::GroupPlace& place) const {
  if (place.size > formats::kMaxStoredGroup || place.offset > formats::kMaxPackSize)
    throw Error(Category::corrupt, "group: impossible place");
  base::Buffer bytes(place.size);
  if (!base::read_exact_at(fd, place.offset, bytes))
    throw Error(Category::corrupt, "pack ends within a group");
  return bytes;
}

formats::DecodedGroup Vat::Impl::decode(int fd, const formats::GroupPlace& place) const {
  formats::ZstdDecompressor decompressor;
  return formats::decode_group(read_group(fd, place), decompressor);
}

internal::ProvenBlob Vat::Impl::read_place(const ObjectId& id, const Place& place) {
  auto group = groups_.find_or({place.pack, place.group.offset}, [&] {
    const auto file = open_pack(place.pack);
    if (file == nullptr) throw Error(Category::corrupt, "pack is gone");
    auto decoded = std::make_shared<formats::DecodedGroup>(decode(file->get(), place.group));
    formats::name_blobs(format, *decoded);
    return decoded;
  });
  if (place.position >= group->blobs.size())
    throw Error(Category::corrupt, "group holds fewer blobs than indexed");
  if (group->blobs[place.position].id != id) throw Error(Category::corrupt, "bytes do not match the id");
  return {std::move(group), place.position};
}

bool Vat::Impl::known_good(const ObjectId& id, std::uint64_t size, const std::set<std::string>* others) {
  const bool found = with_index([&](internal::Index& index) {
    for (const auto& place : index.find(id)) {
      if (place.damaged) break;
      if (place.size != size) continue;
      if (others == nullptr) return true;
      const auto name = index.find_pack_name(place.pack);
      if (name && !others->contains(*name)) return true;
    }
    return false;
  });
  if (found || others != nullptr) return found;
  for (const auto& file : loose_files(id)) {
    const auto record = check_loose(file);
    if (record && record->good) return true;
  }
  return false;
}

void Vat::Impl::mark_damaged(const ObjectId& id, const std::string& pack) {
  with_index([&](internal::Index& index) {
    for (const auto& place : index.find(id))
      if (index.find_pack_name(place.pack) == pack) index.mark_damaged(id, place);
  });
}

bool Vat::Impl::has_proven_copy(const ObjectId& id, const std::set<std::string>& others, Copies copies) {
  for (const auto& place : with_index([&](internal::Index& index) { return index.find(id); })) {
    const auto pack = with_index([&](internal::Index& index) { return index.find_pack_name(place.pack); });
    if (!pack || others.contains(*pack)) continue;
    try {
      (void)read_place(id, place);
      return true;
    } catch (const Error& error) {
      if (error.category() != Category::corrupt && error.category() != Category::refused) throw;
      with_index([&](internal::Index& index) { index.mark_damaged(id, place); });
    }
  }
  if (copies == Copies::in_packs) return false;
  for (const auto& file : loose_files(id))
    if (read_loose(file, {})) return true;
  return false;
}

std::optional<StoredBlob> Vat::Impl::find(const ObjectId& id) {
  const auto places = with_index([&](internal::Index& index) { return index.find(id); });
  if (!places.empty() && !places.front().damaged) return StoredBlob{places.front().size, places.front().kind};
  for (const auto& file : loose_files(id)) {
    const auto record = check_loose(file);
    if (record && record->good) return StoredBlob{record->content_size, formats::BlobKind::data};
  }
  return std::nullopt;
}

std::optional<internal::ProvenBlob> Vat::Impl::find_packed(const ObjectId& id, std::string& damage) {
  if (auto blob = groups_.find(id)) return blob;
  while (true) {
    const bool last = is_rescanned();
    // Known-damaged places are tried last: a file may have been healed from outside.
    for (const auto& place : with_index([&](internal::Index& index) { return index.find(id); })) {
      try {
        return read_place(id, place);
      } catch (const Error& error) {
        if (error.category() != Category::corrupt && error.category() != Category::refused) throw;
        const auto pack =
            with_index([&](internal::Index& index) { return index.find_pack_name(place.pack); });
        if (!pack) continue;  // the index was made anew meanwhile
        damage = "pack " + *pack + ", group at " + std::to_string(place.group.offset) + ": " + error.what();
        if (place.damaged) continue;
        note("blob " + id.hex() + ": " + damage);
        with_index([&](internal::Index& index) { index.mark_damaged(id, place); });
      }
    }
    if (last) return std::nullopt;
    // Before giving up, look once whether the index is what is wrong; who comes meanwhile waits for that.
    const std::lock_guard rescan(rescan_mutex_);
    if (is_rescanned()) continue;
    {
      const std::lock_guard lock(mutex_);
      pack_fds_.clear();
    }
    refresh(true);
    const std::lock_guard lock(mutex_);
    rescanned_ = true;
  }
}

bool Vat::Impl::is_rescanned() {
  const std::lock_guard lock(mutex_);
  return rescanned_;
}

base::UniqueFd Vat::Impl::lock_removal() const {
  auto file = base::open_as_parent(internal::open_own(dir.get(), internal::kLocal).get(), "removal.lock");
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  if (errno != EWOULDBLOCK) base::throw_errno(path + "/local/removal.lock", errno);
  throw Error(Category::busy, path + ": another process repairs or repacks this vat");
}

int Vat::Impl::open_tmp() {
  const std::lock_guard lock(mutex_);
  if (tmp_.get() < 0) tmp_ = internal::open_own(dir.get(), internal::kTmp);
  return tmp_.get();
}

void Vat::Impl::put_aside(const std::string& file, const std::string& name) const {
  const auto quarantine = internal::open_own(dir.get(), internal::kLocal, "quarantine");
  if (::renameat(dir.get(), file.c_str(), quarantine.get(), name.c_str()) != 0)
    base::throw_errno(file, errno);
  base::sync_directory(quarantine.get());
}

// --- hand-filled blobs
// ----------------------------------------------------------------------------------------------

void Vat::Impl::refuse_unreadable() const {
  const std::lock_guard lock(mutex_);
  if (!unreadable_.empty()) throw Error(Category::local, unreadable_);
}

void Vat::Impl::fail_to_find(const ObjectId& id) {
  const std::lock_guard lock(mutex_);
  const auto what = "blob " + id.hex() + ": not in vat " + path;
  if (unreadable_.empty()) throw Error(Category::not_found, what);
  throw Error(Category::local, what + ", as far as it can be read: " + unreadable_);
}

std::vector<LooseFile> Vat::Impl::loose_files(const ObjectId& id) const {
  std::vector<LooseFile> files;
  {
    const std::lock_guard lock(mutex_);
    if (loose_prefixes_ && !loose_prefixes_->test(std::to_integer<std::size_t>(id.raw().front())))
      return files;
  }
  const auto hex = id.hex();
  if (!base::find_stat(dir.get(), "primary/" + hex.substr(0, 2), true)) return files;
  for (const auto codec : {formats::Codec::none, formats::Codec::zstd, formats::Codec::gzip,
                           formats::Codec::xz, formats::Codec::bzip2}) {
    const LooseFile file{id, codec};
    const auto info = base::find_stat(dir.get(), file.path(), true);
    if (info && S_ISREG(info->st_mode)) files.push_back(file);
  }
  return files;
}

std::vector<LooseFile> Vat::Impl::all_loose_files() const {
  std::vector<LooseFile> files;
  const auto primary = base::find_open_at(dir.get(), "primary", O_RDONLY | O_DIRECTORY);
  if (!primary) return files;
  for (const auto& prefix : base::list_directory(primary->get())) {
    if (prefix.size() != 2 || !is_hex(prefix)) continue;
    const auto below = base::find_open_at(primary->get(), prefix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!below) continue;
    for (const auto& name : base::list_directory(below->get())) {
      const auto dot = name.find('.');
      if (dot == std::string::npos || !std::string_view(name).substr(dot).starts_with(kBlobSuffix)) continue;
      const auto id = ObjectId::parse(format, prefix + name.substr(0, dot));
      const auto codec = formats::find_codec(std::string_view(name).substr(dot + kBlobSuffix.size()));
      const auto info = id && codec ? base::find_stat(below->get(), name, true) : std::nullopt;
      if (info && S_ISREG(info->st_mode)) files.push_back({*id, *codec});
    }
  }
  return files;
}

bool Vat::Impl::read_loose(const LooseFile& file, const base::ByteSink& sink) const {
  // The git id begins with the size, which only the end of a compressed file tells: two passes.
  const auto pass = [&](const base::ByteSink& to) {
    const auto fd = base::open_at(dir.get(), file.path(), O_RDONLY);
    const auto decoder = formats::make_decoder(
        file.codec, [&](base::MutableBytes buffer) { return base::read_some(fd.get(), buffer); });
    base::Buffer buffer(std::size_t{256} << 10);
    while (const std::size_t count = decoder->read(buffer)) to(base::Bytes(buffer).subspan(0, count));
  };
  bool in_sink = false;  // what goes wrong there says nothing of the file
  try {
    std::uint64_t size = 0;
    pass([&](base::Bytes bytes) { size += bytes.size(); });
    base::ObjectHasher hasher(format);
    hasher.reset(size);
    pass([&](base::Bytes bytes) {
      if (bytes.size() > size) throw Error(Category::corrupt, "grew while it was read");
      size -= bytes.size();
      hasher.update(bytes);
      in_sink = true;
      if (sink) sink(bytes);
      in_sink = false;
    });
    return hasher.finish() == file.id;
  } catch (const Error& error) {
    // Damaged, changing, or not to be decompressed in bounded memory: in no case a copy to rely on.
    if (!in_sink && (error.category() == Category::corrupt || error.category() == Category::internal ||
                     error.category() == Category::refused))
      return false;
    throw;
  }
}

Vat::Impl::FileState Vat::Impl::state_of(const LooseFile& file, const struct stat& info) {
  const auto file_path = file.path();
  std::uint64_t system = 0;
  {
    const std::lock_guard lock(systems_mutex_);
    system = systems_.look_at(info.st_dev, {dir.get(), file_path.c_str()}).name;
  }
  FileState state;
  state.is_vouched = system != 0 && info.st_ctim.tv_nsec != 0;
  formats::Guard guard;
  if (!state.is_vouched) guard.add(base::as_bytes(run_));
  guard.add(state.is_vouched ? system : info.st_dev)
      .add(info.st_ino)
      .add(static_cast<std::uint64_t>(info.st_size))
      .add(static_cast<std::uint64_t>(mtime_of(info)))
      .add(static_cast<std::uint64_t>(info.st_ctim.tv_sec))
      .add(static_cast<std::uint64_t>(info.st_ctim.tv_nsec));
  state.value = guard.value();
  return state;
}

std::optional<internal::LooseRecord> Vat::Impl::check_loose(const LooseFile& file) {
  const auto there = base::find_stat(dir.get(), file.path(), true);
  if (!there) return std::nullopt;
  const auto& info = *there;
  const std::string suffix(formats::suffix_of(file.codec));
  const auto known = with_index([&](internal::Index& index) { return index.find_loose(file.id, suffix); });
  const auto state = state_of(file, info).value;
  if (known && known->file_size == static_cast<std::uint64_t>(info.st_size) && known->state == state)
    return known;
  internal::LooseRecord record{suffix, static_cast<std::uint64_t>(info.st_size), state, 0, false};
  std::uint64_t size = 0;
  timespec begun{};
  (void)::clock_gettime(CLOCK_REALTIME_COARSE, &begun);
  record.good = read_loose(file, [&](base::Bytes bytes) { size += bytes.size(); });
  record.content_size = size;
  if (!record.good) {
    if (info.st_mtim.tv_sec > std::time(nullptr) - kArriving) {
      note(file.path() + ": does not match its name; changed less than an hour ago, taken as still arriving");
      return record;
    }
    note(file.path() + ": does not match its name");
  }
  // A change in the tick in which it was read would show by nothing.
  if (info.st_ctim.tv_sec < begun.tv_sec ||
      (info.st_ctim.tv_sec == begun.tv_sec && info.st_ctim.tv_nsec < begun.tv_nsec))
    with_index([&](internal::Index& index) { index.put_loose(file.id, record); });
  return record;
}

// --- the public face
// ------------------------------------------------------------------------------------------------

bool Vat::would_create(const std::string& path, base::ObjectFormat format,
                       const chunker::Parameters& parameters, const std::optional<Sharing>& share) {
  // Another process may be making it meanwhile: then we look again.
  for (int attempt = 0; attempt < 100; ++attempt) {
    const auto dir = base::find_open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    if (!dir) {
      struct stat info;
      if (::lstat(path.c_str(), &info) != 0) return true;
      if (S_ISDIR(info.st_mode)) continue;
      throw Error(Category::refused, path + ": not a directory");
    }
    if (base::find_open_at(dir->get(), kSettingsFile, O_RDONLY)) {
      const auto there = open(path);
      if (share && !there->impl().settings.is_shared)
        throw Error(Category::refused, path + ": already a vat, and not shared: what a vat is never changes",
                    "make another, and copy this one: vat sync " + path + " OTHER");
      if (there->object_format() == format && there->parameters() == parameters) return false;
      throw Error(Category::refused, path + ": already a vat, of object format " +
                                         std::string(base::to_string(there->object_format())) +
                                         " and chunker " + there->parameters().id());
    }
    bool is_vat = false;
    for (const auto& name : base::list_directory(dir->get())) {
      is_vat = is_vat || name == kSettingsFile;
      if (name != kSettingsFile && name != "primary" && name != "cache" && name != "local" && name != "tmp" &&
          !name.starts_with(".vat-tmp-"))
        throw Error(Category::refused, path + ": not empty and not a vat", "name a new directory");
    }
    if (!is_vat) return true;
  }
  throw Error(Category::refused, path + "/vat.json: cannot be opened");
}

void Vat::create(const std::string& path, base::ObjectFormat format, const chunker::Parameters& parameters,
                 const std::optional<Sharing>& share) {
  if (!would_create(path, format, parameters, share)) return;
  base::make_directories(path);
  const auto dir = base::open_directory(AT_FDCWD, path);
  if (share) {
    if (share->group && ::fchown(dir.get(), static_cast<uid_t>(-1), *share->group) != 0)
      base::throw_errno(path + ": change group", errno);
    base::share(dir.get());
    if (!base::is_shared(dir.get()))
      throw Error(
          Category::local,
          path +
              ": cannot be made set-group-id: you are not in its group, or the file system keeps no modes");
  }
  for (const auto* name :
       {Impl::kPackDir, "cache/index", "cache/condemned"})  // a full disk may have no room later
    (void)internal::open_public(dir.get(), name);
  for (const auto* name : {internal::kLocal, internal::kTmp}) {
    const auto own = base::ensure_directory(dir.get(), name, 0700);
    if (share) base::share(own.get());
  }
  base::write_file_atomically(dir.get(), kSettingsFile,
                              base::as_bytes(Impl::new_settings(format, parameters, share.has_value())));
}

std::unique_ptr<Vat> Vat::open(const std::string& path, OpenOptions options) {
  return std::unique_ptr<Vat>(new Vat(std::make_unique<Impl>(path, std::move(options))));
}

Vat::Vat(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Vat::~Vat() = default;

base::ObjectFormat Vat::object_format() const noexcept {
  return impl_->format;
}
const chunker::Parameters& Vat::parameters() const noexcept {
  return impl_->parameters;
}
const std::string& Vat::uuid() const noexcept {
  return impl_->settings.uuid;
}
const std::string& Vat::path() const noexcept {
  return impl_->path;
}

std::optional<StoredBlob> Vat::find(const ObjectId& id) {
  return impl_->find(id);
}

base::Buffer Vat::read(const ObjectId& id) {
  std::string damage;
  if (const auto blob = impl_->find_packed(id, damage)) {
    const auto bytes = blob->bytes();
    return {bytes.begin(), bytes.end()};
  }
  for (const auto& file : impl_->loose_files(id)) {
    const auto record = impl_->check_loose(file);
    if (!record) continue;
    if (record->good && record->content_size > formats::kMaxPackedBlob)
      throw Error(Category::refused,
                  "blob " + id.hex() + ": larger than " + base::human_size(formats::kMaxPackedBlob));
    base::Buffer bytes;
    if (record->good && impl_->read_loose(file, [&](base::Bytes part) { base::append(bytes, part); }))
      return bytes;
    damage = file.path() + ": does not match its name";
  }
  if (damage.empty()) impl_->fail_to_find(id);
  throw Error(Category::corrupt, "blob " + id.hex() + ": " + damage,
              "vat verify --repair, or add the content again");
}

void Vat::stream(const ObjectId& id, const base::ByteSink& sink) {
  std::string damage;
  if (const auto blob = impl_->find_packed(id, damage)) return sink(blob->bytes());
  for (const auto& file : impl_->loose_files(id)) {
    const auto record = impl_->check_loose(file);
    if (record && record->good && record->content_size > formats::kMaxPackedBlob) {
      if (!impl_->read_loose(file, {})) {
        // It rotted since it was hashed; forgetting that makes read() look again.
        impl_->with_index([&, suffix = std::string(formats::suffix_of(file.codec))](internal::Index& index) {
          index.put_loose(id, {suffix, 0, 0, 0, false});
        });
        continue;
      }
      if (!impl_->read_loose(file, sink))
        throw Error(Category::corrupt,
                    "blob " + id.hex() + ": " + file.path() + " changed while it was read");
      return;
    }
  }
  sink(read(id));
}

std::vector<RecipeClaim> Vat::find_recipes(const ObjectId& id) {
  std::vector<RecipeClaim> found;
  for (const auto& claim : impl_->with_index([&](internal::Index& index) { return index.find_claims(id); })) {
    if (!impl_->find(claim.recipe)) continue;  // its pack is gone or damaged
    const bool proven = impl_->is_proven(id, claim.recipe);
    found.insert(proven ? found.begin() : found.end(), {claim.recipe, claim.size, proven});
  }
  if (found.size() > 1)  // what one needs may have gone since it was proven
    std::stable_partition(found.begin(), found.end(),
                          [&](const RecipeClaim& claim) { return holds(*this, id, claim.recipe); });
  return found;
}

bool Vat::renew_recipes() {
  int runs = 0;  // a second one is of a new index
  impl_->with_index([&](internal::Index& index) {
    ++runs;
    index.check_claims();
  });
  return runs > 1;
}

void Vat::note_proven(const ObjectId& content, const ObjectId& recipe, std::uint64_t size) {
  impl_->note_proven({{content, recipe, size, true}});
}

std::optional<base::UniqueFd> Vat::find_file(const ObjectId& id) {
  for (const auto& file : impl_->loose_files(id)) {
    if (file.codec != formats::Codec::none) continue;
    auto opened = base::find_regular_at(impl_->dir.get(), file.path());
    const auto record = impl_->check_loose(file);
    struct stat info {};
    if (!opened || !record || !record->good || ::fstat(opened->get(), &info) != 0) continue;
    const auto state = impl_->state_of(file, info);
    if (state.is_vouched && state.value == record->state) return opened;
  }
  return std::nullopt;
}

Vat::States Vat::states() {
  const auto primary = base::find_open_at(impl_->dir.get(), "primary", O_RDONLY | O_DIRECTORY);
  if (!primary) return {};
  for (const auto& name : base::list_directory(primary->get()))
    if (name.size() == 2 && is_hex(name)) return {};
  auto state = impl_->with_index([](internal::Index& index) { return index.state(); });
  return {std::move(state.epoch), std::move(state.milestones)};
}

std::string Vat::mark_state(const std::string& now) {
  if (now.empty()) return {};
  return impl_->with_index([&](internal::Index& index) { return index.add_milestone(now); });
}

void Vat::list(const std::function<void(const ObjectId&, const StoredBlob&)>& visit,
               const std::function<void(const ObjectId&, const RecipeClaim&)>& content) {
  constexpr std::size_t kPage = 4096;
  auto loose = impl_->all_loose_files();
  std::sort(loose.begin(), loose.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  auto next_loose = loose.begin();
  std::optional<ObjectId> last;
  const auto visit_loose_before = [&](const ObjectId* id) {
    for (; next_loose != loose.end() && (id == nullptr || next_loose->id <= *id); ++next_loose) {
      const auto record = impl_->check_loose(*next_loose);
      if (!record || !record->good || (id != nullptr && next_loose->id == *id) || last == next_loose->id)
        continue;
      last = next_loose->id;
      visit(next_loose->id, {record->content_size, formats::BlobKind::data});
    }
  };
  std::optional<ObjectId> after;
  while (true) {
    const auto page = impl_->with_index(
        [&](internal::Index& index) { return index.list_after(after ? &*after : nullptr, kPage); });
    if (page.empty()) break;
    for (const auto& blob : page) {
      visit_loose_before(&blob.id);
      visit(blob.id, {blob.place.size, blob.place.kind});
    }
    after = page.back().id;
  }
  visit_loose_before(nullptr);
  after.reset();
  while (true) {
    const auto page = impl_->with_index(
        [&](internal::Index& index) { return index.list_claims_after(after ? &*after : nullptr, kPage); });
    if (page.empty()) break;
    for (const auto& claim : page) content(claim.content, {claim.recipe, claim.size, claim.proven});
    after = page.back().content;
  }
}

}  // namespace vat
