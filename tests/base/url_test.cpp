// What of a URL is kept and shown.
#include "formats/base/url.h"

#include <catch2/catch.hpp>

using base::holds_secret;
using base::without_secrets;
using base::without_secrets_in;

TEST_CASE("a URL is kept without what lets somebody in", "[base]") {
  CHECK(without_secrets("https://bob:s3cret@host:81/a/file?version=2&token=abc#x") ==
        "https://host:81/a/file");
  CHECK(without_secrets("https://host/file?version=2&X-Amz-Signature=a&x=1", true) ==
        "https://host/file?version=2&x=1");
  CHECK(without_secrets("https://host/file?access_token=a", true) == "https://host/file");
  CHECK(without_secrets("https://host") == "https://host");
  CHECK(without_secrets("https://a@b@host/x@y") == "https://host/x@y");
  CHECK(without_secrets("https://host?u=a@b") == "https://host");
  CHECK(without_secrets("ssh://root@host/srv/v") == "ssh://root@host/srv/v");
  CHECK(without_secrets("ssh://root:pw@host/srv/v") == "ssh://root@host/srv/v");
  for (const auto* secret :
       {"http://u@h/", "http://u:p@h", "ssh://u:p@h/", "https://h/?TOKEN=1", "https://h/x?a=1&sig=2",
        "https://h/?X-Amz-Security-Token=a", "https://h/?api_key=a", "s3://k:s@b/v"})
    CHECK(holds_secret(secret));
  for (const auto* secret :
       {"http:///u:p@h/", "http:/u:p@h/f", "u:p@h/f", "ftps://u:p@h/f", "http://u:it'sp@h/f",
        "http://u:a/b@h/f", "https://h/?pass=1", "https://h/?a=1;token=2", "https://h/?a=1?token=2",
        "https://h/?to%6ben=2", "https://h/?u=http://b:p@x/", "https://h/?u=https%3A%2F%2Fx%2F%3Ftoken%3Da",
        "https://h/#access_token=a"})
    CHECK(holds_secret(secret));
  CHECK(without_secrets("http:///u:p@h/f") == "http://h/f");
  CHECK(without_secrets("https://h/f?a=1;token=2&b=3", true) == "https://h/f?a=1&b=3");
  for (const auto* plain : {"http://127.0.0.1:4873/@scope/pkg", "http://[::1]:4873/@scope/pkg",
                            "/home/a:b@c/v", "../job@2/v", "job@2/v", "s3://bucket/a@b/v", "http://h/",
                            "ssh://u@h/v", "https://h/x?version=1", "https://h/u:p@x", "no URL?key=1", ""})
    CHECK_FALSE(holds_secret(plain));
}

TEST_CASE("URLs in a message are shown without what lets somebody in", "[base]") {
  CHECK(without_secrets_in("http://bob:s3cret@h/f: HTTP status 401") == "http://h/f: HTTP status 401");
  CHECK(without_secrets_in("a 'https://h/f?token=abc' and (http://u@h/x)") ==
        "a 'https://h/f' and (http://h/x)");
  CHECK(without_secrets_in("shrub trust ssh://root@h/v, twice") == "shrub trust ssh://root@h/v, twice");
  CHECK(without_secrets_in("x://u:p@h and nothing://") == "x://h and nothing://");
  CHECK(without_secrets_in("Unsupported proxy scheme for 'foo://u:p@h:1'") ==
        "Unsupported proxy scheme for 'foo://h:1'");
  CHECK(without_secrets_in("http://u:it's@h/f: no") == "http://h/f: no");
  CHECK(without_secrets_in("/home/a:/b is no URL") == "/home/a:/b is no URL");
  CHECK(without_secrets_in("HTTPS://u:p@h/") == "HTTPS://h/");
  CHECK(without_secrets_in("://") == "://");
  CHECK(without_secrets_in("no URL") == "no URL");
}
