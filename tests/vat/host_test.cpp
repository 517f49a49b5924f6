// What is asked of a host, and what its lists may say.
#include "vat/internal/host.h"
#include "vat/internal/s3_error.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "tests/formats/damage.h"

using base::Category;
using vat::PeerAddress;
using vat::internal::Host;

namespace {

PeerAddress address(const std::string& url) {
  PeerAddress peer;
  peer.url = url;
  peer.known_hosts = "/known";
  return peer;
}
Category failure(const PeerAddress& peer) {
  return tests::category_of([&] { (void)Host(peer); });
}

}  // namespace

TEST_CASE("URLs of vats lead to the files of vats", "[host]") {
  CHECK(Host(address("http://h/a/v/")).get("cache/packs", {}).url == "http://h/a/v/cache/packs");
  CHECK(Host(address("https://h:81")).get("vat.json", {}).url == "https://h:81/vat.json");
  CHECK(Host(address("ssh://u@h:22/srv/v")).get("vat.json", {}).url == "sftp://u@h:22/srv/v/vat.json");
  auto bucket = address("s3://b/some where");
  CHECK(failure(bucket) == Category::usage);
  bucket.url = "s3://b/some%20where";
  bucket.region = "eu-1";
  CHECK(Host(bucket).get("vat.json", {}).url == "https://s3.eu-1.amazonaws.com/b/some%20where/vat.json");
  bucket.endpoint = "http://127.0.0.1:9/";
  CHECK(Host(bucket).get("vat.json", {}).url == "http://127.0.0.1:9/b/some%20where/vat.json");
  CHECK(Host(bucket).get("vat.json", {}).signature.empty());
  bucket.user = "key";
  CHECK(Host(bucket).get("vat.json", {}).signature == "aws:amz:eu-1:s3");
  CHECK_FALSE(Host(bucket).get("vat.json", {}).may_redirect);
}

TEST_CASE("URLs that name no vat, or more than one, are refused", "[host]") {
  for (const auto* url : {"ftp://h/v", "http://", "http://u@h/v", "http://u:p@h/v", "http://h/v?x",
                          "http://h/v#x", "ssh://u:p@h/v"}) {
    INFO(url);
    CHECK(failure(address(url)) == Category::usage);
  }
  for (const auto* url : {"ssh://-oProxyCommand=x/v", "ssh://-x@h/v", "ssh://u@-h/v", "http://-h/v"}) {
    INFO(url);
    CHECK(failure(address(url)) == Category::refused);
  }
  auto stranger = address("ssh://h/v");
  stranger.known_hosts.clear();
  CHECK(failure(stranger) == Category::refused);
  auto bucket = address("s3://b/v");
  bucket.region = "x.evil.example/";
  CHECK(failure(bucket) == Category::usage);
  bucket.region = {};
  bucket.endpoint = "file:///etc";
  CHECK(failure(bucket) == Category::usage);
}

TEST_CASE("what starts a server at the far end cannot be taken for anything else", "[host]") {
  vat::PeerAddress address;
  address.url = "ssh://me@[::1]:2222/srv/it's/deps.vat";
  address.known_hosts = "/etc/ssh/known hosts";
  const std::vector<std::string> words{"gc", "$(x); 'y'"};
  CHECK(Host(address).ssh_command(words).empty());  // nobody consented
  address.may_be_local = true;
  const auto command = Host(address).ssh_command(words);
  REQUIRE(command.size() > 3);
  CHECK(command.front() == "ssh");
  const std::vector<std::string> end(command.end() - 3, command.end());
  CHECK(end == std::vector<std::string>{"--", "::1",
                                        R"(vat 'gc' '$(x); '\''y'\''' --vat '/srv/it'\''s/deps.vat/')"});
  const auto user = std::find(command.begin(), command.end(), "-l");
  REQUIRE(user != command.end());
  CHECK(user[1] == "me");
  CHECK(std::find(command.begin(), command.end(), "-oUserKnownHostsFile=\"/etc/ssh/known hosts\"") !=
        command.end());
  address.known_hosts = "a\" \"b";
  CHECK(Host(address).ssh_command(words).empty());
  address.url = "https://example.org/v";
  CHECK(Host(address).ssh_command(words).empty());
}

TEST_CASE("lists of names hold names only", "[host]") {
  const Host far(address("ssh://h/v"));
  const auto listed = far.parse_list("primary", ".\n..\nab\nx/../../y\n/etc/passwd\ncd\n");
  CHECK(listed.names == std::vector<std::string>{"ab", "cd"});
  const Host bucket(address("s3://b/v"));
  const auto page = bucket.parse_list(
      "primary/pack",
      "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>v/primary/pack/b.zst</Key></Contents>"
      "<Contents><Key>v/primary/pack/a.zst</Key></Contents><Contents><Key>v/primary/pack/x/y</Key></Contents>"
      "<CommonPrefixes><Prefix>v/primary/pack/d/</Prefix></"
      "CommonPrefixes>"
      "</ListBucketResult>");
  CHECK(page.more);
  CHECK(page.names == std::vector<std::string>{"a.zst", "b.zst", "d"});
  CHECK(tests::category_of([&] { (void)bucket.parse_list("primary", "<html>"); }) == Category::corrupt);
  // Other keys than those asked for are no answer.
  CHECK(tests::category_of([&] {
          (void)bucket.parse_list(
              "primary", "<ListBucketResult><Contents><Key>elsewhere</Key></Contents></ListBucketResult>");
        }) == Category::corrupt);
  const std::string url = "https://s3.us-east-1.amazonaws.com/b?";
  CHECK(bucket.list("primary", {}).url == url + "delimiter=%2F&list-type=2&prefix=v%2Fprimary%2F");
  CHECK(bucket.list("primary", {{"ab", "cd"}, true, {}, false}).url ==
        url + "delimiter=%2F&list-type=2&prefix=v%2Fprimary%2F&start-after=v%2Fprimary%2Fcd");
  CHECK(bucket.list("primary", {{"ab", "cd"}, true, {}, true}).url ==
        url + "delimiter=%2F&list-type=2&prefix=v%2Fprimary%2F&start-after=v%2Fprimary%2Fcd%2F%F4%8F%BF%BF");
  CHECK(bucket.list("primary", {{"ab"}, true, "a+/=", true}).url ==
        url + "continuation-token=a%2B%2F%3D&delimiter=%2F&list-type=2&prefix=v%2Fprimary%2F");
}

TEST_CASE("a path is encoded once, whatever is in it", "[host]") {
  for (const auto* scheme : {"http://h", "https://h:81", "s3://b", "ssh://u@h"}) {
    INFO(scheme);
    const Host host(address(std::string(scheme) + "/my%20dir/a+b&c%25d/%c3%a4'"));
    const auto file = host.get("cache/packs", {}).url;
    CHECK(file.ends_with("/my%20dir/a%2Bb%26c%25d/%C3%A4%27/cache/packs"));
    if (host.kind() != Host::Kind::s3) continue;
    CHECK(
        host.list("primary", {}).url.ends_with("&prefix=my%20dir%2Fa%2Bb%26c%25d%2F%C3%A4%27%2Fprimary%2F"));
    const auto listed =
        host.parse_list("primary",
                        "<ListBucketResult><Contents><Key>my dir/a+b&amp;c%d/\xc3\xa4&#39;/primary/"
                        "x</Key></Contents></ListBucketResult>");
    CHECK(listed.names == std::vector<std::string>{"x"});
  }
  CHECK(failure(address("http://h/a%00b")) == Category::usage);
  CHECK(failure(address("http://h/a%0ab")) == Category::usage);
  auto endpoint = address("s3://b/v");
  endpoint.endpoint = "http://key:secret@h";
  CHECK(failure(endpoint) == Category::usage);
}

TEST_CASE("what a vat can do without is absent where it is forbidden, unless somebody needs it", "[host]") {
  const Host host(address("https://h/v"));
  CHECK(host.get("cache/packs", {}).forbidden_is_absent);
  CHECK_FALSE(host.get("cache/packs", {}, true).forbidden_is_absent);
  CHECK_FALSE(host.get("primary/pack/x.zst", {}).forbidden_is_absent);
  CHECK_FALSE(host.get("vat.json", {}).forbidden_is_absent);
}

TEST_CASE("this machine is known in every spelling", "[host]") {
  using vat::internal::is_local_host;
  for (const auto* local : {"localhost",
                            "LocalHost",
                            "localhost.",
                            "a.localhost",
                            "a.LOCALHOST.",
                            "127.0.0.1",
                            "127.1",
                            "127.0.0.1.",
                            "0x7f000001",
                            "0x7f.1",
                            "2130706433",
                            "017700000001",
                            "0",
                            "0.0.0.0",
                            "169.254.169.254",
                            "[::1]",
                            "::1",
                            "[::ffff:127.0.0.1]",
                            "[::ffff:7f00:1]",
                            "[::127.0.0.1]",
                            "[::]",
                            "[fe80::1]",
                            "[fe80::1%25eth0]",
                            ""}) {
    INFO(local);
    CHECK(is_local_host(local));
  }
  for (const auto* other : {"example.org", "localhost.example.org", "notlocalhost", "10.0.0.1", "128.0.0.1",
                            "[2001:db8::1]", "192.0.2.1", "127.example.org"}) {
    INFO(other);
    CHECK_FALSE(is_local_host(other));
  }
}

TEST_CASE("what S3 says is wrong is read as it is meant, and no more of it", "[vat][host]") {
  using vat::internal::read_s3_error;
  CHECK_FALSE(read_s3_error("", ""));
  CHECK_FALSE(read_s3_error("<html>no such page</html>", ""));
  CHECK_FALSE(read_s3_error("<Code>two words</Code>", ""));
  CHECK_FALSE(read_s3_error("<Code>\x1b[2J</Code>", ""));
  CHECK(read_s3_error("<Error><Code>SlowDown</Code>", "")->message == "SlowDown");
  CHECK_FALSE(read_s3_error("<Code>" + std::string(1000, 'a') + "</Code>", "")->kind);
  CHECK(read_s3_error("<Code>Expi", "")->code == "Expi");  // cut off: no code that is known
  CHECK(read_s3_error("<Code>ExpiredToken</Code>", "")->kind ==
        vat::internal::TransferEnd::Kind::authentication);
  const auto elsewhere = read_s3_error("", "eu-west-1");
  CHECK(elsewhere->kind == vat::internal::TransferEnd::Kind::authentication);
  CHECK(elsewhere->message.find("eu-west-1") != std::string::npos);
  CHECK(read_s3_error("<Code>PermanentRedirect</Code><Region><b>", "")->message.find("name its region") !=
        std::string::npos);
}
