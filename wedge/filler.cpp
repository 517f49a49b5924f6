#include "wedge/filler.h"

#include <vector>

#include "formats/base/error.h"
#include "vat/copy.h"

namespace wedge {

namespace {

struct Over {};

/// Blobs that are named and not read yet.
class Window {
 public:
  Window(vat::BlobSource& source, const std::function<bool()>& is_over,
         const std::function<void(std::uint64_t)>& progress)
      : source_(source), is_over_(is_over), progress_(progress) {}

  void add(const base::ObjectId& id) {
    named_.push_back(id);
    if (named_.size() >= kNamed) read_all();
  }

  void read_all() {
    source_.prefetch(named_);
    for (const auto& id : named_) {
      if (is_over_()) throw Over();
      source_.stream(id, [&](base::Bytes bytes) { done_ += bytes.size(); });
      if (progress_) progress_(done_);
    }
    named_.clear();
  }

 private:
  static constexpr std::size_t kNamed = 128;  ///< blobs that are named before they are read
  vat::BlobSource& source_;
  const std::function<bool()>& is_over_;
  const std::function<void(std::uint64_t)>& progress_;
  std::vector<base::ObjectId> named_;
  std::uint64_t done_ = 0;
};

/// Peers of whom none is asked.
class HereOnly final : public vat::BlobSource {
 public:
  explicit HereOnly(vat::PeerSet& peers) : peers_(peers) {}
  [[nodiscard]] base::ObjectFormat object_format() const noexcept override { return peers_.object_format(); }
  [[nodiscard]] std::optional<vat::StoredBlob> find(const base::ObjectId& id) override {
    return peers_.find_here(id);
  }
  [[nodiscard]] base::Buffer read(const base::ObjectId& id) override {
    require(id);
    return peers_.read(id);
  }
  void stream(const base::ObjectId& id, const base::ByteSink& sink) override {
    require(id);
    peers_.stream(id, sink);
  }
  [[nodiscard]] std::vector<vat::RecipeClaim> find_recipes(const base::ObjectId& /*id*/) override {
    return {};
  }
  void note_proven(const base::ObjectId& /*content*/, const base::ObjectId& /*recipe*/,
                   std::uint64_t /*size*/) override {}

 private:
  void require(const base::ObjectId& id) {
    if (!find(id)) throw base::Error(base::Category::not_found, "blob " + id.hex() + ": not here");
  }
  vat::PeerSet& peers_;
};

}  // namespace

double share_here(vat::PeerSet& peers, const vat::Root& root, const std::function<bool()>& is_over) {
  HereOnly here(peers);
  std::uint64_t all = 0, found = 0;
  try {
    vat::for_each_blob(here, root, [&](const base::ObjectId& id) {
      if (is_over()) throw Over();
      ++all;
      if (here.find(id)) ++found;
    });
  } catch (const Over&) {
    return 0;
  } catch (const base::Error&) {  // a list that is not here, or was evicted in between
    return 0;
  }
  return all == 0 ? 1 : static_cast<double>(found) / static_cast<double>(all);
}

void fill(vat::BlobSource& source, const vat::Root& root, const std::function<bool()>& is_over,
          const std::function<void(std::uint64_t)>& progress) {
  source.learn(root, true);
  Window window(source, is_over, progress);
  try {
    vat::for_each_blob(source, root, [&](const base::ObjectId& id) { window.add(id); });
    window.read_all();
  } catch (const Over&) {
  }
}

}  // namespace wedge
