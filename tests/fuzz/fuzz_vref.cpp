// Input: the text of a vref. What is accepted, written and read again, says the same.
#include "formats/vref/vref.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = base::as_chars(fuzz::input_of(data, size));
  formats::Vref vref;
  if (!fuzz::survives([&] { vref = formats::parse_vref(text); })) return 0;
  const auto written = formats::to_text(vref);
  if (written.size() > formats::kMaxVref) return 0;  // numbers and blanks may take more room than they did
  const auto again = formats::parse_vref(written);
  fuzz::require(again == vref && formats::same_but_for_fetch(again, vref), "a vref comes back");
  fuzz::require(formats::to_text(again) == written, "a vref has one text");
  return 0;
}
