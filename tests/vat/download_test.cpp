// A file from a host that breaks off.
#include "vat/download.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "formats/base/file.h"
#include "tests/formats/damage.h"

namespace {

/// Gives each request the next of some answers, and ends the connection.
class Answers {
 public:
  explicit Answers(std::vector<std::string> answers) {
    listening_ = base::UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const place = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listening_.get(), place, size) != 0 || ::listen(listening_.get(), 8) != 0 ||
        ::getsockname(listening_.get(), place, &size) != 0)
      throw std::runtime_error("no server");
    url_ = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "/file";
    thread_ = std::thread([this, answers = std::move(answers)] {
      for (const auto& answer : answers) {
        const base::UniqueFd client(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        char buffer[4096];
        if (!client || ::read(client.get(), buffer, sizeof buffer) <= 0) return;
        (void)!::write(client.get(), answer.data(), answer.size());
      }
    });
  }
  ~Answers() {
    (void)::shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
  }
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;
  [[nodiscard]] const std::string& url() const noexcept { return url_; }

 private:
  base::UniqueFd listening_;
  std::string url_;
  std::thread thread_;
};

const std::string kHalf = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n";
const std::string kWhole = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789";

std::string content_of(int fd) {
  std::string text(100, '\0');
  text.resize(static_cast<std::size_t>(::pread(fd, text.data(), text.size(), 0)));
  return text;
}

}  // namespace

TEST_CASE("a download that breaks off goes on if it is the same file, else it begins anew", "[download]") {
  const base::UniqueFd file(::memfd_create("file", MFD_CLOEXEC));
  SECTION("the host says that it is the same") {
    const Answers host({kHalf + "ETag: \"a\"\r\n\r\n01234",
                        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nETag: \"a\"\r\n"
                        "Content-Length: 5\r\n\r\n56789"});
    CHECK(vat::download(host.url(), file.get(), {}, {}).size == 10);
    CHECK(content_of(file.get()) == "0123456789");
  }
  SECTION("it is another") {
    const Answers host({kHalf + "ETag: \"a\"\r\n\r\nabcde",
                        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nETag: \"b\"\r\n"
                        "Content-Length: 5\r\n\r\n56789",
                        kWhole});
    CHECK(vat::download(host.url(), file.get(), {}, {}).size == 10);
    CHECK(content_of(file.get()) == "0123456789");
  }
  SECTION("the host does not say") {
    const Answers host({kHalf + "\r\nabcde", kWhole});
    CHECK(vat::download(host.url(), file.get(), {}, {}).size == 10);
    CHECK(content_of(file.get()) == "0123456789");
  }
}

TEST_CASE("a download that cannot begin anew is an error", "[download]") {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const base::UniqueFd read_end(ends[0]), write_end(ends[1]);
  const Answers host({kHalf + "\r\nabcde", kWhole});
  CHECK(tests::category_of([&] { (void)vat::download(host.url(), write_end.get(), {}, {}); }) ==
        base::Category::local);
}
