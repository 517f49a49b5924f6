// Input: kind (recipe, manifest, layout, escapes, trace), then blobs divided by NUL NUL: a root and its
// pieces. An id of pieces is 64 equal hex digits: the digit is the piece's number, so that input can refer to
// itself.
#include <string>
#include <vector>

#include "formats/text/layout.h"
#include "formats/text/manifest.h"
#include "formats/text/recipe.h"
#include "formats/text/trace.h"
#include "tests/fuzz/target.h"

namespace {

constexpr auto kFormat = base::ObjectFormat::sha256;
constexpr std::size_t kEnough = 20000;  ///< rows; lists that name one list often stand for very many

struct Input {
  std::vector<base::Buffer> blobs;

  explicit Input(std::string_view text) {
    while (true) {
      const auto end = text.find(std::string_view("\0\0", 2));
      const auto blob = base::as_bytes(text.substr(0, end));
      blobs.emplace_back(blob.begin(), blob.end());
      if (end == std::string_view::npos) return;
      text.remove_prefix(end + 2);
    }
  }
  formats::GetText get() {
    return [this](const base::ObjectId& id) {
      const std::size_t number = std::to_integer<std::size_t>(id.raw()[0]) & 15;
      if (number >= blobs.size()) throw base::Error(base::Category::corrupt, "no such piece");
      return blobs[number];
    };
  }
  [[nodiscard]] std::string_view root() const { return base::as_chars(blobs[0]); }
  /// Whether the root is no list: then what was read, written again, must be the same bytes.
  [[nodiscard]] bool short_root() const {
    const auto header = root().substr(0, root().find('\n'));
    return header.find(" level ") == std::string_view::npos && root().size() < formats::kPieceByteGoal;
  }
  formats::PutText check_same() {
    return [this](base::Bytes text, bool root_blob) {
      if (root_blob && short_root())
        fuzz::require(base::as_chars(text) == root(), "what is accepted is canonical");
      return base::ObjectId();
    };
  }
};

void read_recipe(Input& input) {
  formats::RecipeWriter writer(kFormat, input.check_same());
  formats::RecipeReader reader(input.blobs[0], kFormat, input.get());
  const auto header = reader.header();
  formats::RecipeItem item;
  std::size_t rows = 0;
  for (std::uint64_t end = 0; reader.next(item); ++rows) {
    end += item.size;
    fuzz::require(reader.offset() == end && end <= header.size, "offsets add up");
    writer.add(item);
    if (rows == kEnough) return;
  }
  if (rows <= formats::kMaxPieceLines) (void)writer.finish(header);
  formats::RecipeReader seeker(input.blobs[0], kFormat, input.get());
  seeker.seek(header.size / 2);
  while (seeker.next(item)) {
  }
}

void read_manifest(Input& input) {
  formats::ManifestWriter writer(kFormat, input.check_same());
  formats::ManifestReader reader(input.blobs[0], kFormat, input.get());
  formats::Row row;
  std::size_t rows = 0;
  for (; reader.next(row); ++rows) {
    fuzz::require(formats::is_safe_path(row.path), "paths are safe");
    fuzz::require((row.path == ".") == (rows == 0), "only the first row is the tree itself");
    writer.add(row);
    if (rows == kEnough) return;
  }
  if (rows <= formats::kMaxPieceLines) (void)writer.finish();
}

void read_layout(Input& input) {
  formats::LayoutWriter writer(kFormat, input.check_same());
  formats::LayoutReader reader(input.blobs[0], kFormat, input.get());
  base::ObjectId blob, recipe;
  std::size_t rows = 0;
  for (; reader.next(blob, recipe); ++rows) {
    writer.add(blob, recipe);
    if (rows == kEnough) return;
  }
  if (rows <= formats::kMaxPieceLines) (void)writer.finish();
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto bytes = fuzz::input_of(data, size);
  const unsigned kind = fuzz::take_choice(bytes) % 5;
  const auto text = base::as_chars(bytes);
  if (kind == 3) {
    fuzz::require(formats::unescape(formats::escape(text, true), true) == text, "escapes come back");
    fuzz::survives([&] { fuzz::require(formats::escape(formats::unescape(text)) == text, "one spelling"); });
    return 0;
  }
  if (kind == 4) {
    fuzz::survives([&] {
      auto same = formats::trace_header(kFormat) + "\n";
      for (const auto& id : formats::parse_trace(text, kFormat)) same += id.hex() + "\n";
      fuzz::require(same == text || same == std::string(text) + "\n", "one spelling");
    });
    return 0;
  }
  Input input(text);
  fuzz::survives([&] {
    kind == 0 ? read_recipe(input) : kind == 1 ? read_manifest(input) : read_layout(input);
  });
  return 0;
}
