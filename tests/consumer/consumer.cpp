// Stores standard input in a vat, reads it back by its id, and says what the shrub holds: consumer VAT SHRUB
#include <iostream>
#include <string>

#include "formats/base/error.h"
#include "formats/base/hash.h"
#include "shrub/shrub.h"
#include "vat/adder.h"

int main(int argc, char** argv) try {
  if (argc != 3) return 2;
  const auto store = vat::Vat::open(argv[1]);
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const auto id = base::hash_blob(store->object_format(), base::as_bytes(text));
  vat::Adder adder(*store);
  (void)adder.put(id, formats::BlobKind::data, vat::Grouping::small_file, base::as_bytes(text));
  (void)adder.finish();
  const auto back = store->read(id);
  std::cout << id.hex() << ' ' << base::as_chars(back) << '\n';
  for (const auto& entry : shrub::Shrub::find(argv[2]).entries(".")) std::cout << entry << '\n';
  return base::as_chars(back) == text ? 0 : 1;
} catch (const base::Error& error) {
  std::cerr << error.what() << '\n';
  return error.exit_code();
}
