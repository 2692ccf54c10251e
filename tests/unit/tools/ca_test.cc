#include "tools/ca.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "identity/file_source.h"

using namespace inlay;
using tools::init_authority;
using tools::issue_svid;
namespace fs = std::filesystem;

namespace {

class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "inlay-ca-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder &) = delete;
  Folder &operator=(const Folder &) = delete;
  std::string operator/(const std::string &name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

std::set<std::string> names_in(const std::string &folder) {
  std::set<std::string> names;
  for (const auto &entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

mode_t mode_of(const std::string &path) {
  struct stat status {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

bool says(const tl::expected<std::string, std::string> &outcome, const std::string &part) {
  if (outcome || outcome.error().find(part) == std::string::npos) {
    MESSAGE((outcome ? *outcome : outcome.error()));
    return false;
  }
  return outcome.error().find('\n') == std::string::npos;
}

std::time_t now() { return std::time(nullptr); }

identity::FilePaths paths_in(const std::string &folder) {
  return {folder + "/svid.pem", folder + "/key.pem", folder + "/bundle.pem", "example.org", {}};
}

}  // namespace

TEST_CASE("a duration is a number and a unit") {
  struct Row {
    const char *text;
    std::optional<std::time_t> seconds;
  };
  for (const Row &row :
       {Row{"30s", 30}, Row{"5m", 300}, Row{"1h", 3600}, Row{"24h", 86400}, Row{"7d", 604800},
        Row{"1s", 1}, Row{"", {}}, Row{"s", {}}, Row{"30", {}}, Row{"0s", {}}, Row{"-1s", {}},
        Row{"+1s", {}}, Row{" 1s", {}}, Row{"1 s", {}}, Row{"1.5h", {}}, Row{"1w", {}},
        Row{"1S", {}}, Row{"99999999999999999999s", {}}, Row{"9223372036854775807d", {}}}) {
    CAPTURE(row.text);
    CHECK(tools::parse_duration(row.text) == row.seconds);
  }
}

TEST_CASE("init makes an authority and never overwrites one") {
  const Folder folder;
  const std::string authority = folder / "made/authority";
  REQUIRE(init_authority(authority, "example.org", now()));
  CHECK(names_in(authority) == std::set<std::string>{"bundle.pem", "ca-key.pem", "ca.pem",
                                                       "jwt-key.pem"});
  CHECK(mode_of(authority + "/ca-key.pem") == 0600);
  CHECK(mode_of(authority + "/jwt-key.pem") == 0600);
  CHECK(mode_of(authority) == 0700);
  for (const char *name : {"bundle.pem", "ca-key.pem", "ca.pem", "jwt-key.pem"}) {
    CHECK(says(init_authority(authority, "example.org", now()), "is not overwritten"));
    fs::remove(authority + "/" + name);
  }
  REQUIRE(init_authority(authority, "example.org", now()));
  CHECK(says(init_authority(folder / "other", "Example.org", now()), "no trust domain"));
  CHECK_FALSE(fs::exists(folder / "other"));
  CHECK(says(init_authority("/proc/nothing/here", "example.org", now()), "cannot use the folder"));
}

TEST_CASE("issue writes a set that inlay takes, and a running program takes its renewal") {
  const Folder folder;
  const std::string authority = folder / "authority", out = folder / "web/identity";
  REQUIRE(init_authority(authority, "example.org", now()));
  REQUIRE(issue_svid(authority, "spiffe://example.org/web", out, 3600, now()));
  CHECK(names_in(out) == std::set<std::string>{"bundle.pem", "key.pem", "svid.pem"});
  CHECK(mode_of(out + "/key.pem") == 0600);
  CHECK(mode_of(out + "/svid.pem") == 0644);
  CHECK(mode_of(out + "/bundle.pem") == 0644);

  identity::FileSource source(paths_in(out));
  REQUIRE(source.refresh());
  CHECK(source.current()->svid.id.uri() == "spiffe://example.org/web");
  const auto before = source.current();
  REQUIRE(issue_svid(authority, "spiffe://example.org/web", out, 7200, now()));
  CHECK(source.refresh());
  CHECK(source.current()->svid.not_after > before->svid.not_after);
  CHECK(names_in(out).size() == 3);
}

TEST_CASE("a renewed key keeps the owner, group and mode of the one before") {
  if (geteuid() != 0) return;  // only root can give files away
  const Folder folder;
  const std::string authority = folder / "authority", out = folder / "web";
  REQUIRE(init_authority(authority, "example.org", now()));
  REQUIRE(issue_svid(authority, "spiffe://example.org/web", out, 3600, now()));
  const std::string key = out + "/key.pem";
  REQUIRE(chown(key.c_str(), 0, 54321) == 0);
  REQUIRE(chmod(key.c_str(), 0640) == 0);
  REQUIRE(issue_svid(authority, "spiffe://example.org/web", out, 3600, now()));
  struct stat status {};
  REQUIRE(stat(key.c_str(), &status) == 0);
  CHECK(status.st_gid == 54321);
  CHECK((status.st_mode & 07777) == 0640);
  REQUIRE(chmod(key.c_str(), 0644) == 0);
  REQUIRE(issue_svid(authority, "spiffe://example.org/web", out, 3600, now()));
  CHECK(mode_of(key) == 0600);
}

TEST_CASE("T17 T24 issue refuses what the authority may not give, and writes nothing") {
  const Folder folder;
  const std::string authority = folder / "authority", out = folder / "out";
  REQUIRE(init_authority(authority, "example.org", now()));
  CHECK(says(issue_svid(authority, "spiffe://other.org/web", out, 60, now()),
             "not of this authority's trust domain"));
  CHECK(says(issue_svid(authority, "spiffe://example.org", out, 60, now()),
             "add the workload's path"));
  CHECK(says(issue_svid(authority, "spiffe://example.org/", out, 60, now()), "no SPIFFE ID"));
  CHECK(says(issue_svid(authority, "spiffe://example.org/a", out, 400 * 86400, now()),
             "outlive the authority"));
  CHECK(says(issue_svid(folder / "none", "spiffe://example.org/a", out, 60, now()),
             "make an authority with inlay ca init"));
  REQUIRE(chmod((authority + "/ca-key.pem").c_str(), 0644) == 0);
  CHECK(says(issue_svid(authority, "spiffe://example.org/a", out, 60, now()), "chmod 600"));
  CHECK_FALSE(fs::exists(out));
}
