#include "wedge/filler.h"

#include <vector>

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

}  // namespace

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
