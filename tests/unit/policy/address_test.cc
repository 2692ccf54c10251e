#include "policy/address.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <string>

#include "policy/host_name.h"

using namespace inlay::policy;

TEST_CASE("T56 an address has one value however it is written, and no other text is one") {
  struct Case {
    const char *text;
    const char *shown;  // "" = no address
  };
  const Case cases[] = {
      {"10.0.0.1", "10.0.0.1"},
      {"::ffff:10.0.0.1", "10.0.0.1"},
      {"::FFFF:a00:1", "10.0.0.1"},
      {"0:0:0:0:0:ffff:a00:1", "10.0.0.1"},
      {"::1", "::1"},
      {"0000::0001", "::1"},
      {"2001:DB8::1", "2001:db8::1"},
      {"::10.0.0.1", "::10.0.0.1"},
      {"", ""},
      {"10.0.0", ""},
      {"10.1", ""},
      {"010.0.0.1", ""},
      {"0x0a.0.0.1", ""},
      {"167772161", ""},
      {"10.0.0.256", ""},
      {"10.0.0.1.", ""},
      {" 10.0.0.1", ""},
      {"10.0.0.1 ", ""},
      {"10.0.0.1/8", ""},
      {"[::1]", ""},
      {"::1%lo", ""},
      {"fe80::1%1", ""},
      {"1::2::3", ""},
      {"0000:0000:0000:0000:0000:ffff:255.255.255.255x", ""},
  };
  for (const Case &c : cases) {
    CAPTURE(std::string(c.text));
    auto address = Address::parse(c.text);
    CHECK((address ? address->text() : "") == c.shown);
  }
  CHECK_FALSE(Address::parse(std::string_view("::1\0", 4)));
}

TEST_CASE("networks: host bits, prefixes, and what they contain") {
  struct Case {
    const char *network;
    const char *in;   // "" = the network cannot be parsed
    const char *out;  // "" = nothing to check
  };
  const Case cases[] = {
      {"10.0.0.0/8", "10.255.255.255", "11.0.0.0"},
      {"10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"},
      {"10.128.0.0/9", "10.128.0.1", "10.127.255.255"},
      {"10.0.0.0/31", "10.0.0.1", "10.0.0.2"},
      {"10.0.0.1/32", "10.0.0.1", "10.0.0.2"},
      {"10.0.0.1", "10.0.0.1", "10.0.0.0"},
      {"0.0.0.0/0", "255.255.255.255", "::1"},
      {"::/0", "2001:db8::1", "10.0.0.1"},
      {"::ffff:0:0/96", "10.0.0.1", "::1"},
      {"::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"},
      {"2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"},
      {"::1/128", "::1", "::2"},
      {"fe80::/10", "febf::1", "fec0::1"},
      {"10.0.0.1/8", "", ""},
      {"10.0.0.0/33", "", ""},
      {"10.0.0.0/", "", ""},
      {"10.0.0.0/+8", "", ""},
      {"10.0.0.0/08", "", ""},
      {"10.0.0.0/8/8", "", ""},
      {"10.0.0.0/255.0.0.0", "", ""},
      {"10.0.0.0/4294967304", "", ""},
      {"::/129", "", ""},
      {"::1/64", "", ""},
      {"::ffff:0:0/90", "", ""},
      {"/8", "", ""},
  };
  for (const Case &c : cases) {
    CAPTURE(std::string(c.network));
    auto network = Network::parse(c.network);
    REQUIRE(network.has_value() == (*c.in != '\0'));
    if (!network) continue;
    CHECK(network->contains(*Address::parse(c.in)));
    CHECK_FALSE(network->contains(*Address::parse(c.out)));
    CHECK(Network::parse(network->text()) == network);
  }
}

TEST_CASE("T56 socket addresses: IPv4-mapped is IPv4, the scope does not count, short is none") {
  sockaddr_in six_less{};
  six_less.sin_family = AF_INET;
  six_less.sin_port = htons(80);
  six_less.sin_addr.s_addr = htonl(0x0a000001);
  auto of = [](const auto &address, std::size_t length) {
    return Endpoint::from_sockaddr(reinterpret_cast<const sockaddr *>(&address), length);
  };
  auto four = of(six_less, sizeof six_less);
  REQUIRE(four);
  CHECK(four->text() == "10.0.0.1:80");
  CHECK_FALSE(of(six_less, sizeof six_less - 1));
  CHECK_FALSE(of(six_less, 1));
  CHECK_FALSE(Endpoint::from_sockaddr(nullptr, 16));

  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(443);
  six.sin6_scope_id = 7;
  inet_pton(AF_INET6, "::ffff:10.0.0.1", &six.sin6_addr);
  auto mapped = of(six, sizeof six);
  REQUIRE(mapped);
  CHECK(mapped->address == four->address);
  CHECK(mapped->text() == "10.0.0.1:443");
  inet_pton(AF_INET6, "fe80::1", &six.sin6_addr);
  CHECK(of(six, sizeof six)->text() == "[fe80::1]:443");
  CHECK(of(six, 24)->text() == "[fe80::1]:443");
  CHECK_FALSE(of(six, 23));
  six.sin6_family = AF_UNIX;
  CHECK_FALSE(of(six, sizeof six));

  // At an odd address, as programs that build it in a buffer have it.
  char buffer[sizeof six_less + 1];
  std::memcpy(buffer + 1, &six_less, sizeof six_less);
  CHECK(Endpoint::from_sockaddr(reinterpret_cast<const sockaddr *>(buffer + 1), sizeof six_less) ==
        four);
}

TEST_CASE("host names have one form, and spellings of addresses are none") {
  struct Case {
    const char *name;
    const char *normal;  // "" = no host name
  };
  const Case cases[] = {
      {"Redis.Internal.", "redis.internal"},
      {"localhost", "localhost"},
      {"_srv._tcp.x", "_srv._tcp.x"},
      {"3com.com", "3com.com"},
      {"node.10a", "node.10a"},
      {"1.2.3.x", "1.2.3.x"},
      {"", ""},
      {".", ""},
      {"a..b", ""},
      {".a", ""},
      {"a b", ""},
      {"*.a", ""},
      {"h\xc3\xa9", ""},
      {"10.0.0.1", ""},
      {"127.1", ""},
      {"2130706433", ""},
      {"0x7f000001", ""},
      {"127.0.0.0X1", ""},
      {"::1", ""},
  };
  for (const Case &c : cases) {
    CAPTURE(std::string(c.name));
    CHECK(normal_host_name(c.name).value_or("") == c.normal);
  }
  CHECK(normal_host_name(std::string(253, 'a')));
  CHECK_FALSE(normal_host_name(std::string(254, 'a')));
  CHECK(same_host_name("Redis.Internal.", "redis.internal"));
  CHECK_FALSE(same_host_name("redis.internal", "redis.interna"));
  CHECK_FALSE(same_host_name("redis.internal", "redis-internal"));
}
