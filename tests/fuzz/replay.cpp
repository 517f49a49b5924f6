// Runs a fuzz target where libFuzzer is not linked in: on every file of the directory named, then on seeded
// changes of them, the same each time. An input that aborts is left in the current directory.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/target.h"

namespace {

using Input = std::vector<std::uint8_t>;

constexpr std::size_t kChangedInputs = 4000;
constexpr const char* kCurrent = "fuzz-input";

std::vector<Input> read_corpus(const char* directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Input> corpus;
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  return corpus;
}

/// One to four changes: a bit, a byte, a piece taken out, doubled or copied from another input.
Input change(std::mt19937& random, const std::vector<Input>& corpus) {
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random()) % bound; };
  Input input = corpus[below(corpus.size())];
  for (auto changes = 1 + below(4); changes > 0 && !input.empty(); --changes) {
    const auto at = below(input.size());
    const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
    const auto length = static_cast<std::ptrdiff_t>(1 + below(std::min<std::size_t>(input.size() - at, 64)));
    switch (below(6)) {
      case 0:
        *place = static_cast<std::uint8_t>(*place ^ (1U << below(8)));
        break;
      case 1:
        *place = static_cast<std::uint8_t>("\0\xff\x7f\x80 \n/.-09"[below(11)]);
        break;
      case 2:
        input.erase(place, place + length);
        break;
      case 3: {
        const Input piece(place, place + length);
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(below(input.size())), piece.begin(),
                     piece.end());
        break;
      }
      case 4:
        input.resize(at);
        break;
      default: {
        const Input& other = corpus[below(corpus.size())];
        const auto count = std::min(other.size(), input.size() - at);
        std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(other.size() - count), count, place);
      }
    }
  }
  return input;
}

void run(const Input& input) {
  std::ofstream(kCurrent, std::ios::binary)
      .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
  (void)LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto corpus = read_corpus(argv[1]);
  if (corpus.empty()) return 1;
  for (const auto& input : corpus) run(input);
  std::mt19937 random(1);
  for (std::size_t i = 0; i < kChangedInputs; ++i) run(change(random, corpus));
  std::cout << corpus.size() << " inputs and " << kChangedInputs << " changes of them\n";
  std::filesystem::remove(kCurrent);
}
