// The line that says how far along a command is: only on a terminal, only after a second, gone before a
// message.
#include "cli/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <thread>

#include "cli/command.h"
#include "formats/base/error.h"
#include "formats/base/unique_fd.h"
#include "tests/support/temp_dir.h"

namespace {

/// stderr goes elsewhere for a while.
class Redirected {
 public:
  explicit Redirected(int to) : before_(::dup(STDERR_FILENO)) { REQUIRE(::dup2(to, STDERR_FILENO) >= 0); }
  ~Redirected() { (void)::dup2(before_.get(), STDERR_FILENO); }
  Redirected(const Redirected&) = delete;
  Redirected& operator=(const Redirected&) = delete;

 private:
  base::UniqueFd before_;
};

cli::Call call_with(const std::string& mode) {
  cli::Call call;
  call.set("--progress", {mode});
  return call;
}

/// A command that takes a little longer than a second and then says something.
void work(const cli::Call& call) {
  cli::Output output(call, "program");
  output.progress("synced", 1, 100 << 20);
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  output.progress("synced", 50 << 20, 100 << 20);
  output.progress("synced", 51 << 20, 100 << 20);  // too soon after the last
  output.message("half done");
}

}  // namespace

TEST_CASE("progress has rate and time left, and makes way for messages", "[cli]") {
  const tests::TempDir dir;
  const base::UniqueFd file(::open((dir / "err").c_str(), O_RDWR | O_CREAT, 0600));
  {
    const Redirected redirected(file.get());
    work(call_with("tty"));
  }
  const auto text = tests::read_file(dir / "err");
  INFO(text);
  CHECK(text.starts_with("\rsynced 50.0 MiB of 100.0 MiB, 4"));  // 4x.x MiB/s
  CHECK(text.find(" MiB/s, 1 s left\033[K\r\033[Kprogram: half done\n") != std::string::npos);
  CHECK(text.find("51.0") == std::string::npos);
}

TEST_CASE("progress as a record", "[cli]") {
  const tests::TempDir dir;
  const base::UniqueFd file(::open((dir / "err").c_str(), O_RDWR | O_CREAT, 0600));
  {
    const Redirected redirected(file.get());
    work(call_with("json"));
  }
  const auto text = tests::read_file(dir / "err");
  CHECK(text.starts_with(
      R"({"v":1,"type":"progress","what":"synced","done":52428800,"total":104857600,"seconds":1.)"));
}

TEST_CASE("by itself, progress is for terminals only", "[cli]") {
  const tests::TempDir dir;
  const base::UniqueFd file(::open((dir / "err").c_str(), O_RDWR | O_CREAT, 0600));
  {
    const Redirected redirected(file.get());
    work(call_with("auto"));
  }
  CHECK(tests::read_file(dir / "err") == "program: half done\n");

  const base::UniqueFd terminal(::posix_openpt(O_RDWR | O_NOCTTY));
  if (terminal.get() < 0 || ::grantpt(terminal.get()) != 0 || ::unlockpt(terminal.get()) != 0) {
    WARN("SKIPPED: no pseudo-terminals here");
    return;
  }
  const base::UniqueFd slave(::open(::ptsname(terminal.get()), O_RDWR | O_NOCTTY));
  REQUIRE(slave.get() >= 0);
  {
    const Redirected redirected(slave.get());
    work(call_with("auto"));
  }
  char text[512];
  const ssize_t count = ::read(terminal.get(), text, sizeof text);
  REQUIRE(count > 0);
  CHECK(std::string(text, static_cast<std::size_t>(count)).starts_with("\rsynced 50.0 MiB of 100.0 MiB"));
  CHECK_THROWS_AS(cli::Output(call_with("sometimes"), "program"), base::Error);
}
