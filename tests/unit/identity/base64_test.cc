#include "identity/base64.h"

#include <doctest/doctest.h>

using namespace inlay::identity;

namespace {

std::string text(const std::optional<std::vector<unsigned char>> &bytes) {
  return bytes ? std::string(bytes->begin(), bytes->end()) : "(refused)";
}
std::span<const unsigned char> bytes(std::string_view of) {
  return {reinterpret_cast<const unsigned char *>(of.data()), of.size()};
}

}  // namespace

TEST_CASE("the examples of RFC 4648 §10, both ways") {
  struct Row {
    const char *plain;
    const char *padded;
    const char *unpadded;
  };
  for (const Row &row :
       {Row{"f", "Zg==", "Zg"}, Row{"fo", "Zm8=", "Zm8"}, Row{"foo", "Zm9v", "Zm9v"},
        Row{"foob", "Zm9vYg==", "Zm9vYg"}, Row{"fooba", "Zm9vYmE=", "Zm9vYmE"},
        Row{"foobar", "Zm9vYmFy", "Zm9vYmFy"}, Row{"\xfb\xef\xff", "++//", "--__"}}) {
    CAPTURE(row.plain);
    CHECK(to_base64(bytes(row.plain)) == row.padded);
    CHECK(text(from_base64(row.padded)) == row.plain);
    CHECK(to_base64url(bytes(row.plain)) == row.unpadded);
    CHECK(text(from_base64url(row.unpadded)) == row.plain);
  }
  CHECK(to_base64url({}).empty());
  CHECK(text(from_base64url("")).empty());
}

TEST_CASE("base64 has one spelling for each value") {
  for (const char *bad : {"", "Zg", "Zg=", "Zg===", "====", "=", "Zm=v", "Z===", "Zh==", "Zm9=",
                          " Zg==", "Zg==\n", "Zm9v\n", "Zm9v    ", "Zm-_", "Zm9v=", "Zg==Zg=="}) {
    CAPTURE(bad);
    CHECK_FALSE(from_base64(bad));
  }
  for (const char *bad : {"Z", "Zg=", "Zg==", "Zh", "Zm9", "Zm8=", "Zm9vY", "Zm+/", "Zm9v ",
                          "Z m9v", "Zm9v\n", "Zm\xc3\xa9"}) {
    CAPTURE(bad);
    CHECK_FALSE(from_base64url(bad));
  }
  CHECK_FALSE(from_base64url(std::string_view("Zm9v\0", 5)));
}
