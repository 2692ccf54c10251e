#include "identity/spiffe_id.h"

#include <doctest/doctest.h>

#include <string>

using namespace inlay::identity;

namespace {

bool lower_or_digit(int byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9');
}
bool trust_domain_byte(int byte) {
  return lower_or_digit(byte) || byte == '.' || byte == '-' || byte == '_';
}
bool path_byte(int byte) { return trust_domain_byte(byte) || (byte >= 'A' && byte <= 'Z'); }

}  // namespace

TEST_CASE("a SPIFFE ID splits into trust domain and path") {
  struct Row {
    const char *uri, *trust_domain, *path;
  };
  for (const Row &row : {
           Row{"spiffe://example.org", "example.org", ""},
           Row{"spiffe://example.org/a", "example.org", "/a"},
           Row{"spiffe://example.org/ns/default/sa/Web_1.x-y", "example.org",
               "/ns/default/sa/Web_1.x-y"},
           Row{"spiffe://a/...", "a", "/..."},
           Row{"spiffe://a/.a/..b/c..", "a", "/.a/..b/c.."},
           Row{"spiffe://1-_.2/x", "1-_.2", "/x"},
           Row{"spiffe://11111111-2222-3333-4444-555555555555.consul/ns/n/dc/d/svc/s",
               "11111111-2222-3333-4444-555555555555.consul", "/ns/n/dc/d/svc/s"},
       }) {
    CAPTURE(row.uri);
    const auto id = SpiffeId::parse(row.uri);
    REQUIRE(id);
    CHECK(id->uri() == row.uri);
    CHECK(id->trust_domain() == row.trust_domain);
    CHECK(id->path() == row.path);
  }
}

TEST_CASE("T24 text that is no SPIFFE ID is refused, each for its own reason") {
  struct Row {
    std::string uri;
    SpiffeIdError error;
  };
  const std::string at = "spiffe://example.org";
  const Row rows[] = {
      {"", SpiffeIdError::empty},
      {"spiffe", SpiffeIdError::wrong_scheme},
      {"spiffe:", SpiffeIdError::wrong_scheme},
      {"spiffe:/", SpiffeIdError::wrong_scheme},
      {"spiffe:/example.org/a", SpiffeIdError::wrong_scheme},
      {"Spiffe://example.org/a", SpiffeIdError::wrong_scheme},
      {"SPIFFE://example.org/a", SpiffeIdError::wrong_scheme},
      {"https://example.org/a", SpiffeIdError::wrong_scheme},
      {" spiffe://example.org/a", SpiffeIdError::wrong_scheme},
      {"spiffe://", SpiffeIdError::trust_domain_empty},
      {"spiffe:///a", SpiffeIdError::trust_domain_empty},
      {"spiffe://Example.org/a", SpiffeIdError::trust_domain_character},
      {"spiffe://example.org:8080/a", SpiffeIdError::trust_domain_character},
      {"spiffe://user@example.org/a", SpiffeIdError::trust_domain_character},
      {"spiffe://example.org?q", SpiffeIdError::trust_domain_character},
      {"spiffe://example.org#f", SpiffeIdError::trust_domain_character},
      {"spiffe://ex%61mple.org/a", SpiffeIdError::trust_domain_character},
      {"spiffe://ex\xc3\xa4mple.org/a", SpiffeIdError::trust_domain_character},
      {"spiffe://[::1]/a", SpiffeIdError::trust_domain_character},
      {"spiffe://" + std::string(256, 'a') + "/a", SpiffeIdError::trust_domain_too_long},
      {at + "/", SpiffeIdError::path_trailing_slash},
      {at + "/a/", SpiffeIdError::path_trailing_slash},
      {at + "//a", SpiffeIdError::path_empty_segment},
      {at + "/a//b", SpiffeIdError::path_empty_segment},
      {at + "/.", SpiffeIdError::path_dot_segment},
      {at + "/..", SpiffeIdError::path_dot_segment},
      {at + "/a/./b", SpiffeIdError::path_dot_segment},
      {at + "/a/../b", SpiffeIdError::path_dot_segment},
      {at + "/a/..", SpiffeIdError::path_dot_segment},
      {at + "/%2e", SpiffeIdError::path_character},
      {at + "/a%00", SpiffeIdError::path_character},
      {at + "/a?q=1", SpiffeIdError::path_character},
      {at + "/a#f", SpiffeIdError::path_character},
      {at + "/a:b", SpiffeIdError::path_character},
      {at + "/a b", SpiffeIdError::path_character},
      {at + "/a\n", SpiffeIdError::path_character},
      {at + "/\xc3\xa4", SpiffeIdError::path_character},
      {at + std::string("/a\0b", 4), SpiffeIdError::path_character},
      {std::string("spiffe://example.org\0/a", 23), SpiffeIdError::trust_domain_character},
      {at + "/" + std::string(2048 - at.size(), 'a'), SpiffeIdError::too_long},
  };
  for (const Row &row : rows) {
    CAPTURE(row.uri);
    const auto id = SpiffeId::parse(row.uri);
    REQUIRE_FALSE(id);
    CHECK(sentence(id.error()) == sentence(row.error));
  }
}

TEST_CASE("T24 the longest SPIFFE ID and the longest trust domain are accepted") {
  const std::string at = "spiffe://example.org/";
  CHECK(SpiffeId::parse(at + std::string(2048 - at.size(), 'a')));
  CHECK(SpiffeId::parse("spiffe://" + std::string(255, 'a') + "/b"));
}

TEST_CASE("T24 every byte in every position of a SPIFFE ID") {
  const std::string good = "spiffe://td.x/ab/c";
  const std::size_t trust_domain = 9;
  const std::size_t path = good.find('/', trust_domain);
  for (std::size_t position = 0; position < good.size(); ++position) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string uri = good;
      uri[position] = static_cast<char>(byte);
      bool expected = false;
      if (position < trust_domain) {
        expected = uri == good;
      } else if (position < path) {
        // A slash ends the trust domain; as its first byte it would leave none, as its last byte
        // an empty segment follows.
        expected = trust_domain_byte(byte) ||
                   (byte == '/' && position != trust_domain && position != path - 1);
      } else if (position == path) {
        expected = byte == '/' || trust_domain_byte(byte);
      } else {
        const bool slash_fits = good[position] == '/';
        // One character between two slashes must not be a lone dot: "c" is the last segment.
        const bool lone_dot = byte == '.' && position == good.size() - 1;
        expected = (byte == '/' ? slash_fits : path_byte(byte)) && !lone_dot;
      }
      CAPTURE(position);
      CAPTURE(byte);
      CHECK(SpiffeId::parse(uri).has_value() == expected);
    }
  }
}

TEST_CASE("every byte appended to a SPIFFE ID") {
  for (int byte = 0; byte < 256; ++byte) {
    CAPTURE(byte);
    CHECK(SpiffeId::parse(std::string("spiffe://td/a") + static_cast<char>(byte)).has_value() ==
          path_byte(byte));
    CHECK(SpiffeId::parse(std::string("spiffe://td") + static_cast<char>(byte)).has_value() ==
          trust_domain_byte(byte));
    CHECK(valid_trust_domain(std::string("a") + static_cast<char>(byte)) ==
          trust_domain_byte(byte));
  }
  CHECK_FALSE(valid_trust_domain(""));
  CHECK_FALSE(valid_trust_domain("spiffe://example.org"));
  CHECK(valid_trust_domain("example.org"));
}

TEST_CASE("a SPIFFE ID that was moved from is still valid") {
  SpiffeId first = *SpiffeId::parse("spiffe://example.org/a-path-too-long-for-a-short-string");
  const SpiffeId second = std::move(first);
  CHECK(first == second);
  CHECK(first.trust_domain() == "example.org");
}
