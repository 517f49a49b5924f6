#include "formats/base/hash.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <variant>

#include "formats/base/c_ptr.h"
#include "formats/base/error.h"
#include "formats/base/file.h"
#include "formats/base/internal/sha1.h"

namespace base {
namespace {

using EvpContext = CPtr<EVP_MD_CTX, EVP_MD_CTX_free>;

const EVP_MD* sha256_algorithm() {
  static const EVP_MD* const algorithm =
      EVP_MD_fetch(nullptr, "SHA256", nullptr);  // fetching is the slow part
  if (algorithm == nullptr) throw Error(Category::local, "OpenSSL has no SHA-256, or no memory for it");
  return algorithm;
}

/// SHA-256 through OpenSSL.
class EvpSha256 {
 public:
  EvpSha256() : context_(EVP_MD_CTX_new()) {
    if (context_ == nullptr) throw Error(Category::local, "out of memory");
  }
  void reset() { check(EVP_DigestInit_ex2(context_.get(), sha256_algorithm(), nullptr)); }
  void update(Bytes bytes) { check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size())); }
  Sha256::Digest finish() {
    Sha256::Digest digest;
    check(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr));
    return digest;
  }

 private:
  static void check(int ok) {
    if (ok != 1) throw Error(Category::internal, "OpenSSL failed to hash");
  }
  EvpContext context_;
};

}  // namespace

struct ObjectHasher::State {
  ObjectFormat format;
  std::uint64_t missing = 0;  ///< content bytes still to come
  bool overrun = false;
  std::variant<EvpSha256, internal::Sha1> hash;

  void feed(Bytes bytes) {
    std::visit([&](auto& h) { h.update(bytes); }, hash);
  }
};

ObjectHasher::ObjectHasher(ObjectFormat format) : state_(std::make_unique<State>()) {
  state_->format = format;
  if (format == ObjectFormat::sha1) state_->hash.emplace<internal::Sha1>();
}
ObjectHasher::~ObjectHasher() = default;
ObjectHasher::ObjectHasher(ObjectHasher&&) noexcept = default;
ObjectHasher& ObjectHasher::operator=(ObjectHasher&&) noexcept = default;

void ObjectHasher::reset(std::uint64_t size, std::string_view type) {
  std::visit([](auto& h) { h.reset(); }, state_->hash);
  state_->missing = size;
  state_->overrun = false;
  std::string header(type);
  header += ' ';
  header += std::to_string(size);
  header += '\0';
  state_->feed(as_bytes(header));
}

void ObjectHasher::update(Bytes content) {
  if (content.size() > state_->missing) {
    state_->overrun = true;
    return;
  }
  state_->missing -= content.size();
  state_->feed(content);
}

void ObjectHasher::update_zeros(std::uint64_t count) {
  static constexpr std::array<std::byte, 65536> kZeros{};
  for (; count > 0; count -= std::min<std::uint64_t>(count, kZeros.size()))
    update({kZeros.data(), static_cast<std::size_t>(std::min<std::uint64_t>(count, kZeros.size()))});
}

ObjectId ObjectHasher::finish() {
  if (state_->missing != 0 || state_->overrun)
    throw Error(Category::internal, "hashed content is not of the size announced");
  if (auto* sha1 = std::get_if<internal::Sha1>(&state_->hash)) {
    const auto digest = sha1->finish();
    if (sha1->collision_found()) internal::refuse_attack();
    return {ObjectFormat::sha1, digest};
  }
  return {ObjectFormat::sha256, std::get<EvpSha256>(state_->hash).finish()};
}

ObjectId ObjectHasher::hash(Bytes content, std::string_view type) {
  reset(content.size(), type);
  update(content);
  return finish();
}

ObjectId hash_blob(ObjectFormat format, Bytes content) {
  return ObjectHasher(format).hash(content);
}

struct Sha256::State {
  EvpSha256 hash;
};
Sha256::Sha256() : state_(std::make_unique<State>()) {
  state_->hash.reset();
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;
void Sha256::update(Bytes content) {
  state_->hash.update(content);
}
Sha256::Digest Sha256::finish() {
  return state_->hash.finish();
}

Sha256::Digest sha256_of_file(int fd) {
  Sha256 hash;
  Buffer buffer(std::size_t{1} << 20);
  std::uint64_t at = 0;
  while (const std::size_t count = read_some_at(fd, at, buffer)) {
    hash.update(Bytes(buffer).subspan(0, count));
    at += count;
  }
  return hash.finish();
}

}  // namespace base
