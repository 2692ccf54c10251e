#include "identity/ca/seal.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "identity/authority.h"
#include "tests/unit/tools/temporary_folder.h"

using namespace inlay::identity;
using inlay::identity::ca::Seal;

namespace {

std::string refusal(const std::string &file, bool make = false) {
  const auto seal = Seal::open(file, make);
  return seal ? "" : seal.error();
}

}  // namespace

TEST_CASE("what is sealed opens with the same file, for the same row, whole") {
  const TemporaryFolder folder;
  const std::string file = folder.path() + "/seal.key";
  const PkeyPtr key = make_authority_key();
  std::string sealed;
  {
    const auto seal = Seal::open(file, true);
    REQUIRE(seal);
    sealed = seal->close(key.get(), "root 1").value();
    CHECK(sealed != seal->close(key.get(), "root 1").value());  // each with its own nonce
  }
  struct stat status {};
  REQUIRE(::stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
  CHECK(status.st_size == 32);

  const auto seal = Seal::open(file, true);
  REQUIRE(seal);
  const auto opened = seal->unseal(sealed, "root 1");
  REQUIRE(opened);
  CHECK(EVP_PKEY_eq(opened->get(), key.get()) == 1);
  CHECK_FALSE(seal->unseal(sealed, "root 2"));
  for (std::size_t at = 0; at < sealed.size(); ++at) {
    std::string damaged = sealed;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    CHECK_FALSE(seal->unseal(damaged, "root 1"));
    CHECK_FALSE(seal->unseal(sealed.substr(0, at), "root 1"));
  }
  const auto other = Seal::open(folder.path() + "/other.key", true);
  REQUIRE(other);
  const auto refused = other->unseal(sealed, "root 1");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().find("does not open the keys of this database") != std::string::npos);
}

TEST_CASE("a seal that is missing, damaged or open to others is refused") {
  const TemporaryFolder folder;
  CHECK(refusal(folder.path() + "/none").find("No such file") != std::string::npos);
  CHECK(refusal(folder.path() + "/none/seal.key", true).find("cannot make the seal") == 0);
  CHECK(refusal(folder.write("short", "0123", 0600)).find("must be 32 bytes") != std::string::npos);
  CHECK(refusal(folder.write("long", std::string(33, 'x'), 0600)) != "");
  CHECK(refusal(folder.write("open", std::string(32, 'x'), 0644)) != "");
}
