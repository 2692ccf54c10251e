// What inlay run checks before it starts a command, and what it hands over.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <string>

#include "identity/authority.h"
#include "policy/snapshot.h"
#include "temporary_folder.h"
#include "tools/identity_check.h"
#include "tools/resolve.h"
#include "tools/snapshot_fd.h"

using namespace inlay;
using namespace inlay::tools;

namespace {

constexpr std::time_t kHour = 3600;

// An identity of demo.inlay in files, and the policy that names it.
struct Identity {
  TemporaryFolder folder;
  identity::Authority authority;
  std::time_t issued;
  policy::Policy policy;

  explicit Identity(std::time_t now)
      : authority(identity::Authority::create("demo.inlay", now).value()), issued(now) {
    auto svid =
        authority.issue(identity::SpiffeId::parse("spiffe://demo.inlay/redis").value(), now, kHour)
            .value();
    policy.trust_domain = "demo.inlay";
    policy.identity.svid = folder.write("svid.pem", svid.chain_pem);
    policy.identity.key = folder.write("key.pem", svid.key_pem, 0600);
    policy.identity.bundle = folder.write("bundle.pem", authority.certificate_pem());
  }
  std::string error(std::time_t now) const {
    auto checked = check_identity(policy, now);
    return checked ? "" : checked.error();
  }
};

bool contains(const std::string &text, const std::string &part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a good identity is accepted, with its ID and its dates") {
  Identity identity(std::time(nullptr));
  auto checked = check_identity(identity.policy, identity.issued);
  REQUIRE(checked);
  REQUIRE(*checked);
  CHECK((*checked)->id == "spiffe://demo.inlay/redis");
  CHECK((*checked)->not_after == identity.issued + kHour);
}

TEST_CASE("an SVID out of its dates is refused, and both clocks are told") {
  Identity identity(std::time(nullptr));
  std::time_t late = identity.issued + kHour + 1;
  CHECK(contains(identity.error(late), "expired at " + utc_time(identity.issued + kHour)));
  CHECK(contains(identity.error(late), "this clock says " + utc_time(late)));
  std::time_t early = identity.issued - kHour;
  CHECK(contains(identity.error(early), "is valid from"));
  CHECK(contains(identity.error(early), "this clock says " + utc_time(early)));
}

TEST_CASE("an identity that peers would refuse is refused, naming the file") {
  Identity identity(std::time(nullptr));
  auto other = identity::Authority::create("demo.inlay", identity.issued).value();
  policy::Policy &policy = identity.policy;

  policy.identity.bundle = identity.folder.write("other.pem", other.certificate_pem());
  CHECK(contains(identity.error(identity.issued), policy.identity.svid));

  policy.identity.bundle = identity.folder.write("empty.json", "{\"keys\":[]}");
  CHECK(contains(identity.error(identity.issued), policy.identity.bundle));

  policy.identity.bundle = identity.folder.path() + "/missing.pem";
  CHECK(contains(identity.error(identity.issued), policy.identity.bundle));
}

TEST_CASE("without an identity only strict rules are in the way") {
  policy::Policy policy;
  policy.defaults = {policy::Mode::plaintext, policy::Mode::deny};
  auto checked = check_identity(policy, 0);
  REQUIRE(checked);
  CHECK_FALSE(*checked);
  policy.inbound.push_back({});  // strict
  CHECK_FALSE(check_identity(policy, 0));
}

TEST_CASE("the snapshot is a sealed descriptor out of the program's way that holds the policy") {
  policy::Policy policy;
  policy.trust_domain = "demo.inlay";
  policy.strict = true;
  auto value = make_snapshot(policy);
  REQUIRE(value);
  int fd = -1;
  unsigned long long inode = 0;
  REQUIRE(std::sscanf(value->c_str(), "%d:%llu", &fd, &inode) == 2);
  CHECK(fd >= kFirstSnapshotFd);
  CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0);
  int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  CHECK((::fcntl(fd, F_GET_SEALS) & seals) == seals);
  CHECK(::pwrite(fd, "x", 1, 0) == -1);
  struct stat status {};
  REQUIRE(::fstat(fd, &status) == 0);
  CHECK(status.st_ino == inode);
  std::string block(static_cast<std::size_t>(status.st_size), '\0');
  REQUIRE(::pread(fd, block.data(), block.size(), 0) == status.st_size);
  ::close(fd);
  auto read = policy::deserialize(block);
  REQUIRE(read);
  CHECK(read->trust_domain == "demo.inlay");
  CHECK(read->strict);
}

TEST_CASE("names in rules are looked up, and those without an address are named") {
  policy::Policy policy;
  CHECK(resolve_names(policy, 5).pairs.empty());
  policy::OutboundRule rule;
  rule.names = {"localhost", "does-not-exist.invalid"};
  policy.outbound.push_back(rule);
  Resolved resolved = resolve_names(policy, 5);
  CHECK(resolved.unknown == std::vector<std::string>{"does-not-exist.invalid"});
  auto loopback = policy::Address::parse("127.0.0.1").value();
  CHECK(std::count(resolved.pairs.begin(), resolved.pairs.end(),
                   std::pair<std::string, policy::Address>("localhost", loopback)) >= 1);
}
