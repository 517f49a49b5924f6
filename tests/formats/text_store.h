// Text blobs in memory, for tests of text objects.
#pragma once

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "formats/base/hash.h"
#include "tests/formats/damage.h"

namespace tests {

/// Must outlive the functions it hands out.
class TextStore {
 public:
  explicit TextStore(base::ObjectFormat format = base::ObjectFormat::sha256) : format_(format) {}

  auto put() {
    return [this](base::Bytes text, bool root) {
      const auto id = base::hash_blob(format_, text);
      blobs_[id] = base::Buffer(text.begin(), text.end());
      if (root) root_ = id;
      return id;
    };
  }
  /// Counts what it hands out in `fetched`.
  auto get() {
    return [this](const base::ObjectId& id) {
      fetched.push_back(id);
      return blob(id);
    };
  }
  base::Buffer blob(const base::ObjectId& id) const {
    const auto found = blobs_.find(id);
    if (found == blobs_.end()) throw base::Error(base::Category::corrupt, "no such blob");
    return found->second;
  }
  base::Buffer root() const { return blob(root_); }
  base::ObjectId add(std::string_view text) { return put()(base::as_bytes(text), false); }
  /// Ids of all blobs put so far.
  std::set<base::ObjectId> ids() const {
    std::set<base::ObjectId> all;
    for (const auto& [id, text] : blobs_) all.insert(id);
    return all;
  }

  std::vector<base::ObjectId> fetched;

 private:
  base::ObjectFormat format_;
  std::map<base::ObjectId, base::Buffer> blobs_;
  base::ObjectId root_;
};

/// The id of a blob that holds `number` in decimal: as good as random, and other tools can make it too.
inline base::ObjectId numbered_id(std::size_t number,
                                  base::ObjectFormat format = base::ObjectFormat::sha256) {
  return base::hash_blob(format, base::as_bytes(std::to_string(number)));
}

}  // namespace tests
