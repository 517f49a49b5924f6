// A vat on the local disk: reading blobs out of it. Start reading vat/ here; adder.h writes, content.h
// follows recipes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "chunker/chunker.h"
#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/pack/pack.h"
#include "vat/blob_source.h"

namespace vat {

/// Something worth telling the user that is no error: a file that is still arriving, a damaged copy that was
/// passed over.
using NoteSink = std::function<void(const std::string&)>;

struct OpenOptions {
  std::string
      cache_dir;     ///< for what was proven, and for the index if the vat cannot be written; empty: memory
  NoteSink on_note;  ///< called from any thread, one call at a time
};

/// Who shares a vat with its owner.
struct Sharing {
  std::optional<gid_t> group;  ///< none: that of the directory it is made in, or the user's
};

/// One open vat. Packs and hand-filled blobs under primary/ are the truth; the index in local/ (or in the
/// cache, or in memory) is brought up to date when the vat is opened and rebuilt whenever it does not fit.
///
/// Everything read is proven against its id before it is returned. A copy found bad is remembered as such,
/// another copy is used if there is one, and a later add of the same content stores it again.
///
/// Thread-safety: any member from any thread. Errors: base::Error; besides what members say, local and busy.
class Vat final : public BlobSource {
 public:
  /// False if create() has nothing to do. Throws refused as create() would.
  [[nodiscard]] static bool would_create(const std::string& path, base::ObjectFormat format,
                                         const chunker::Parameters& parameters,
                                         const std::optional<Sharing>& share = std::nullopt);
  /// Makes a new vat in `path`, which must not exist or be an empty directory (refused otherwise). Making the
  /// same vat again is fine. With `share` its group may do with it what its owner may.
  static void create(const std::string& path, base::ObjectFormat format,
                     const chunker::Parameters& parameters,
                     const std::optional<Sharing>& share = std::nullopt);

  /// Throws no_store if there is no vat, or one of an unknown version.
  [[nodiscard]] static std::unique_ptr<Vat> open(const std::string& path, OpenOptions options = {});

  ~Vat() override;

  [[nodiscard]] base::ObjectFormat object_format() const noexcept override;
  [[nodiscard]] const chunker::Parameters& parameters() const noexcept;
  [[nodiscard]] const std::string& uuid() const noexcept;
  [[nodiscard]] const std::string& path() const noexcept;

  [[nodiscard]] std::optional<StoredBlob> find(const base::ObjectId& id) override;
  [[nodiscard]] base::Buffer read(const base::ObjectId& id) override;
  void stream(const base::ObjectId& id, const base::ByteSink& sink) override;
  [[nodiscard]] std::vector<RecipeClaim> find_recipes(const base::ObjectId& id) override;
  [[nodiscard]] bool renew_recipes() override;
  void note_proven(const base::ObjectId& content, const base::ObjectId& recipe, std::uint64_t size) override;

  [[nodiscard]] std::optional<base::UniqueFd> find_file(const base::ObjectId& id) override;

  /// Names of states of which all is still there: what was stored when mark_state() returned one of them need
  /// not be looked up. `now` goes to mark_state(). Both are empty if that cannot be told, as with hand-filled
  /// blobs, which may go at any time.
  struct States {
    std::string now;
    std::set<std::string> kept;
  };
  [[nodiscard]] States states();
  /// Names the present state, in which all is there that was relied on since `now` was told, and all that was
  /// stored since. Empty if something was lost meanwhile.
  [[nodiscard]] std::string mark_state(const std::string& now);

  /// Calls `visit` for each stored id once, in order of ids, then `content` for each content id that recipes
  /// describe.
  void list(const std::function<void(const base::ObjectId&, const StoredBlob&)>& visit,
            const std::function<void(const base::ObjectId&, const RecipeClaim&)>& content);

  class Impl;
  /// For the other parts of this library.
  [[nodiscard]] Impl& impl() noexcept { return *impl_; }

 private:
  explicit Vat(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vat
