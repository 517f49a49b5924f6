// Input: a YAML file. What is accepted is the same value each time, of few levels, and can be written as
// JSON.
#include "formats/yaml/yaml.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = base::as_chars(fuzz::input_of(data, size));
  formats::json::Value value;
  if (!fuzz::survives([&] { value = formats::parse_yaml(text); })) return 0;
  fuzz::require(formats::parse_yaml(text) == value, "a document is read alike");
  return 0;
}
