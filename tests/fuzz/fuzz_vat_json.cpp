// Input: the text of VAT.json or of vat.json. What is accepted, written and read again, is written the same.
#include "formats/vat_json/vat_list.h"
#include "formats/vat_json/vat_settings.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = base::as_chars(fuzz::input_of(data, size));
  formats::VatList list;
  if (fuzz::survives([&] { list = formats::parse_vat_list(text); })) {
    const auto written = formats::to_text(list);
    fuzz::require(formats::to_text(formats::parse_vat_list(written)) == written, "a vat list comes back");
  }
  formats::VatSettings settings;
  if (fuzz::survives([&] { settings = formats::parse_vat_settings(text); })) {
    const auto written = formats::to_text(settings);
    fuzz::require(formats::to_text(formats::parse_vat_settings(written)) == written,
                  "vat settings come back");
  }
  return 0;
}
