#include "identity/rpc/socket_address.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>

#include <cstring>

using namespace inlay::identity::rpc;

TEST_CASE("host and port are taken apart, brackets and all") {
  const auto name = parse_host_port("ca.example.org:8443");
  REQUIRE(name);
  CHECK(name->host == "ca.example.org");
  CHECK(name->port == "8443");
  const auto address = parse_host_port("[2001:db8::7]:1");
  REQUIRE(address);
  CHECK(address->host == "2001:db8::7");
  CHECK(parse_host_port(":0"));
  for (const char *bad : {"", "ca", "ca:", "ca:x", "ca:65536", "ca:-1", "ca: 1", "2001:db8::7:1",
                          "[::1:1", "::1]:1", "a b:1", "user@ca:1", "ca/path:1", "ca:1#x"}) {
    CAPTURE(bad);
    CHECK(!parse_host_port(bad));
  }
}

TEST_CASE("addresses are written as people write them") {
  sockaddr_storage storage{};
  sockaddr_in6 in6{};
  in6.sin6_family = AF_INET6;
  in6.sin6_port = htons(443);
  ::inet_pton(AF_INET6, "::ffff:192.0.2.7", &in6.sin6_addr);
  std::memcpy(&storage, &in6, sizeof in6);
  CHECK(address_text(storage) == "192.0.2.7:443");
  CHECK(host_text(storage) == "192.0.2.7");
  ::inet_pton(AF_INET6, "2001:db8::7", &in6.sin6_addr);
  std::memcpy(&storage, &in6, sizeof in6);
  CHECK(address_text(storage) == "[2001:db8::7]:443");
}
