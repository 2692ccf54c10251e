#include "policy/trusted_file.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "policy/load.h"
#include "sample.h"
#include "temporary_folder.h"

using namespace inlay::policy;
using inlay::policy::sample::TemporaryFolder;
namespace fs = std::filesystem;

TEST_CASE("who may own and write a configuration and its folders") {
  const uid_t owners[] = {500};
  const Trust trust{.self = 1000, .unmapped = 65534, .owners = owners};
  struct Case {
    const char *what;
    Node node;
    const char *complaint;  // a part of it; "" = trusted
  };
  const Case cases[] = {
      {"root's file", {0, S_IFREG | 0644, false}, ""},
      {"own file", {1000, S_IFREG | 0600, false}, ""},
      {"a configured owner's", {500, S_IFREG | 0644, false}, ""},
      {"another's, read-only for him too", {1001, S_IFREG | 0444, false}, "belongs to user 1001"},
      {"another's on a read-only mount", {1001, S_IFREG | 0644, true}, "belongs to user 1001"},
      {"unmapped owner", {65534, S_IFREG | 0644, false}, "belongs to user 65534"},
      {"unmapped owner on a read-only mount", {65534, S_IFREG | 0644, true}, ""},
      {"group may write", {0, S_IFREG | 0664, false}, "its group (mode 0664): chmod g-w"},
      {"all may write", {0, S_IFREG | 0646, false}, "everyone (mode 0646): chmod go-w"},
      {"all may write but the mount", {0, S_IFREG | 0666, true}, ""},
      {"folder", {0, S_IFDIR | 0755, false}, ""},
      {"group folder", {0, S_IFDIR | 0775, false}, "its group"},
      {"open folder", {0, S_IFDIR | 0777, false}, "everyone"},
      {"open folder on a read-only mount", {0, S_IFDIR | 0777, true}, ""},
      {"sticky folder", {0, S_IFDIR | S_ISVTX | 0777, false}, ""},
      {"another's sticky folder", {1001, S_IFDIR | S_ISVTX | 0777, false}, "belongs to"},
      {"sticky means nothing on a file", {0, S_IFREG | S_ISVTX | 0666, false}, "everyone"},
  };
  for (const Case &c : cases) {
    CAPTURE(std::string(c.what));
    std::string complaint = distrust(trust, c.node);
    CAPTURE(complaint);
    if (*c.complaint == '\0') {
      CHECK(complaint.empty());
    } else {
      CHECK(complaint.find(c.complaint) != std::string::npos);
    }
  }
}

TEST_CASE("a user without a mapping owns nothing: what looks like his may be anybody's") {
  const Trust trust{.self = 65534, .self_is_one = false, .unmapped = 65534, .owners = {}};
  CHECK_FALSE(distrust(trust, {65534, S_IFREG | 0600, false}).empty());
  CHECK(distrust(trust, {65534, S_IFREG | 0600, true}).empty());
  CHECK(distrust(trust, {0, S_IFREG | 0600, false}).empty());
  const Trust nobody{.self = 65534, .unmapped = 65534, .owners = {}};
  CHECK(distrust(nobody, {65534, S_IFREG | 0600, false}).empty());
}

namespace {

// "" when it loads, else what is said.
std::string loading(const std::string &file, std::span<const uid_t> owners = {}) {
  auto policy = load(file, owners);
  return policy ? "" : policy.error().text();
}

bool says(const std::string &text, std::string_view part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a configuration others may write is refused, and so is one in such a folder") {
  TemporaryFolder folder;
  fs::create_directories(folder / "a/b");
  std::string text = sample::with_defaults("deny", "deny");
  std::string file = folder.write("a/b/inlay.toml", text);
  CHECK(loading(file) == "");
  chmod(file.c_str(), 0664);
  CHECK(says(loading(file), "the file may be written by its group"));
  chmod(file.c_str(), 0644);
  chmod((folder / "a").c_str(), 0777);
  CHECK(says(loading(file), "the folder " + (folder / "a") + " may be written by everyone"));
  chmod((folder / "a").c_str(), 01777);
  CHECK(loading(file) == "");
  chmod((folder / "a").c_str(), 0755);

  // The folder a link resolves to, and the folder a link is in.
  fs::create_directory(folder / "links");
  std::string link = folder / "links/inlay.toml";
  fs::create_symlink("../a/b/inlay.toml", link);
  CHECK(loading(link) == "");
  chmod((folder / "links").c_str(), 0777);
  CHECK(says(loading(link), "the folder " + (folder / "links")));
  chmod((folder / "links").c_str(), 0755);
  chmod((folder / "a/b").c_str(), 0777);
  CHECK(says(loading(link), "the folder " + (folder / "a/b")));
  chmod((folder / "a/b").c_str(), 0755);
  fs::create_directory_symlink(folder / "a", folder / "absolute");
  CHECK(loading(folder / "absolute/b/../b/./inlay.toml") == "");
}

TEST_CASE("another user's configuration is refused unless he is named" *
          doctest::skip(geteuid() != 0)) {
  TemporaryFolder folder;
  chmod(folder.path().c_str(), 0755);
  std::string file = folder.write("inlay.toml", sample::with_defaults("deny", "deny"));
  REQUIRE(chown(file.c_str(), 4711, 4711) == 0);
  const uid_t owners[] = {4711};
  CHECK(says(loading(file), "the file belongs to user 4711"));
  CHECK(loading(file, owners) == "");
  REQUIRE(chown(file.c_str(), 0, 0) == 0);
  REQUIRE(chown(folder.path().c_str(), 4711, 4711) == 0);
  CHECK(says(loading(file), "the folder " + folder.path() + " belongs to user 4711"));
  CHECK(loading(file, owners) == "");
  // A link of his in a sticky folder may be pointed elsewhere by him at any time.
  REQUIRE(chown(folder.path().c_str(), 0, 0) == 0);
  chmod(folder.path().c_str(), 01777);
  fs::create_symlink("inlay.toml", folder / "link");
  CHECK(loading(folder / "link") == "");
  REQUIRE(lchown((folder / "link").c_str(), 4711, 4711) == 0);
  CHECK(says(loading(folder / "link"), "a symbolic link in " + folder.path()));
}

TEST_CASE("a process without a descriptor left is told so") {
  TemporaryFolder folder;
  std::string file = folder.write("inlay.toml", "");
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit low{0, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &low);
  auto loaded = loading(file);
  ::setrlimit(RLIMIT_NOFILE, &before);
  CHECK(says(loaded, "cannot open /: Too many open files"));
}

TEST_CASE("what is no readable file is refused in one line, without waiting") {
  TemporaryFolder folder;
  CHECK(says(loading(folder / "none.toml"), "it does not exist"));
  CHECK(says(loading(folder / "none/inlay.toml"), "none does not exist"));
  CHECK(says(loading(folder.path()), "is a folder"));
  CHECK(says(loading(""), "no file is named"));
  std::string fifo = folder / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(says(loading(fifo), "not a regular file"));
  fs::create_symlink("loop", folder / "loop");
  CHECK(says(loading(folder / "loop"), "too many symbolic links"));
  fs::create_symlink("nowhere", folder / "dangling");
  CHECK(says(loading(folder / "dangling"), "nowhere does not exist"));
  std::string file = folder.write("file", "x");
  CHECK(says(loading(file + "/inlay.toml"), "is no folder"));
  CHECK(says(loading(folder.write("large", std::string(kMaxConfigSize + 1, '#'))), "1 MiB"));
  CHECK(says(loading(file), "not TOML"));
  std::string empty = folder.write("empty", "");
  CHECK(loading(empty) ==
        empty + ":1:1: the file has no trust_domain: write trust_domain = \"example.org\"");
}

TEST_CASE("relative paths are relative to the folder the file is named in, not resolved to") {
  TemporaryFolder folder;
  fs::create_directory(folder / "data");
  folder.write("data/inlay.toml", sample::with_defaults("deny", "deny"));
  fs::create_symlink("data/inlay.toml", folder / "inlay.toml");
  auto policy = load(folder / "inlay.toml");
  REQUIRE(policy.has_value());
  CHECK(policy->identity.svid == folder / "svid.pem");
  CHECK(policy->source.file == folder / "inlay.toml");
  CHECK(policy->source.size == sample::with_defaults("deny", "deny").size());
}
