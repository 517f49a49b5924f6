// Input: the text of a signature. What is accepted has one statement, which is the text that was signed.
#include "shrub/signature.h"
#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(base::as_chars(fuzz::input_of(data, size)));
  shrub::SignatureText parsed;
  if (!fuzz::survives([&] { parsed = shrub::parse_signature(text); })) return 0;
  fuzz::require(shrub::to_text(parsed.statement) + parsed.armored == text, "a signature comes back");
  fuzz::require(shrub::parse_signature(text).statement == parsed.statement, "a statement is read alike");
  return 0;
}
