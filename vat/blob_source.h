// Where blobs come from: the one interface that readers of trees and content need.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/object_id.h"
#include "formats/base/unique_fd.h"
#include "formats/pack/pack.h"
#include "formats/text/manifest.h"

namespace vat {

/// What is known of a stored blob without reading it.
struct StoredBlob {
  std::uint64_t size = 0;  ///< content bytes
  formats::BlobKind kind = formats::BlobKind::data;
};

/// A recipe says: these bytes have that content id.
struct RecipeClaim {
  base::ObjectId recipe;
  std::uint64_t size = 0;
  bool proven = false;  ///< the whole content was hashed once, here
};

/// What a vref points at: a tree, a file or an image.
struct Root {
  std::optional<base::ObjectId> manifest, layout;  ///< a tree, or only one of its texts
  std::optional<base::ObjectId> blob, recipe;      ///< a file or image; the recipe, if it has one
  /// The id that names its map: manifest, else blob, recipe, layout. One of them is there.
  [[nodiscard]] const base::ObjectId& id() const;
  /// What decides in which pieces its content is stored: the layout, or the recipe of a file.
  [[nodiscard]] std::optional<base::ObjectId> detail() const {
    return manifest ? layout : blob ? recipe : std::nullopt;
  }
};

/// Where a blob lies in a pack.
struct PackedPlace {
  std::string pack;  ///< SHA-256 in hex
  formats::GroupPlace group{};
  std::uint32_t position = 0;
};

/// A root that is about to be read.
struct Expected {
  Root root;
  /// Asked for each file of a tree in order, on another thread, and not after the next expect(): whether its
  /// content will be read. Empty: all will be.
  std::function<bool(const formats::Row&)> is_read;
  /// What is at the place already, if it is of the same kind. Of a file or image that which is at the same
  /// offset in both is not read.
  std::optional<Root> base;
  bool content = true;  ///< false: only manifest and layout
};

/// Blobs by id. Whatever is returned was proven against its id.
///
/// Thread-safety: any member from any thread. Errors: base::Error; besides what members say, local and busy.
class BlobSource {
 public:
  virtual ~BlobSource() = default;
  BlobSource(const BlobSource&) = delete;
  BlobSource& operator=(const BlobSource&) = delete;

  [[nodiscard]] virtual base::ObjectFormat object_format() const noexcept = 0;

  /// Whether a good copy of `id` is stored as such (not merely describable by a recipe). Bytes are not read,
  /// except that a hand-filled file is hashed from end to end the first time it is asked for.
  [[nodiscard]] virtual std::optional<StoredBlob> find(const base::ObjectId& id) = 0;

  /// The bytes of a stored blob of at most formats::kMaxPackedBlob bytes. Throws not_found if absent, corrupt
  /// if no copy matches its id, refused if it is larger.
  [[nodiscard]] virtual base::Buffer read(const base::ObjectId& id) = 0;

  /// The bytes of a stored blob of any size, in pieces. A large one is read twice: it is hashed whole before
  /// the first byte is handed out. Errors as read().
  virtual void stream(const base::ObjectId& id, const base::ByteSink& sink) = 0;

  /// Recipes that claim to describe content `id`, proven ones first; but of several, those a local vat has
  /// all parts of before the others.
  [[nodiscard]] virtual std::vector<RecipeClaim> find_recipes(const base::ObjectId& id) = 0;
  /// Before it is said that nothing describes some content: whether what find_recipes() asks had rotted, and
  /// was made anew, so that it is worth to ask again.
  [[nodiscard]] virtual bool renew_recipes() { return false; }
  /// Remembers that hashing what `recipe` describes gave `content`.
  virtual void note_proven(const base::ObjectId& content, const base::ObjectId& recipe,
                           std::uint64_t size) = 0;

  /// A file on this machine that holds just these bytes, which were proven when it was last changed; nullopt
  /// if there is none, or that would take asking others.
  [[nodiscard]] virtual std::optional<base::UniqueFd> find_file(const base::ObjectId& id) {
    (void)id;
    return std::nullopt;
  }

  /// Says what will be read next, in the order in which it will be, so that a source that fetches can fetch
  /// ahead. Takes the place of what was said before; an empty one only ends that.
  virtual void expect(const Expected& expected) { (void)expected; }
  /// Nothing more will be read.
  virtual void expect_nothing() {}

  /// Says that blobs of a root will be read one by one, in any order, so that a source that fetches can find
  /// out at once where all of them lie. Reads all texts of the root, without `content` only manifest and
  /// layout. Memory: about 100 bytes a blob that is not here. Not while something is expected.
  virtual void learn(const Root& root, bool content) { (void)root, (void)content; }
  /// Says that these will be read soon. Returns at once; what goes wrong shows when they are read.
  virtual void prefetch(const std::vector<base::ObjectId>& ids) { (void)ids; }

 protected:
  BlobSource() = default;
};

/// Several sources as one: a blob that is missing or bad in one is taken from another.
class SourceSet final : public BlobSource {
 public:
  /// At least one source, all of one object format (Category::usage otherwise). Asked in this order.
  explicit SourceSet(
      std::vector<std::shared_ptr<BlobSource>> sources);  // shared: the writable vat is also used alone

  [[nodiscard]] base::ObjectFormat object_format() const noexcept override;
  [[nodiscard]] std::optional<StoredBlob> find(const base::ObjectId& id) override;
  [[nodiscard]] base::Buffer read(const base::ObjectId& id) override;
  void stream(const base::ObjectId& id, const base::ByteSink& sink) override;
  [[nodiscard]] std::vector<RecipeClaim> find_recipes(const base::ObjectId& id) override;
  void note_proven(const base::ObjectId& content, const base::ObjectId& recipe, std::uint64_t size) override;
  [[nodiscard]] std::optional<base::UniqueFd> find_file(const base::ObjectId& id) override;

 private:
  std::vector<std::shared_ptr<BlobSource>> sources_;
};

}  // namespace vat
