// Input: what a wedge remembers of an entry. Damage makes it as if it were not there, or refused; nothing in
// it leads out of the wedge.
#include <sys/mman.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "tests/fuzz/target.h"
#include "wedge/internal/record.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  base::UniqueFd file(::memfd_create("record", MFD_CLOEXEC));
  base::write_at(file.get(), 0, fuzz::input_of(data, size));
  wedge::internal::RecordReader reader(std::move(file));
  const auto head = reader.head();
  if (!head) return 0;
  fuzz::require(head->workspace.find_first_not_of("0123456789abcdef") == std::string::npos,
                "a workspace is a name");
  fuzz::survives([&] {
    for (formats::Row row; reader.next(row);)
      fuzz::require(row.path.find('\0') == std::string::npos && row.path.find("/../") == std::string::npos,
                    "a path stays below");
  });
  return 0;
}
